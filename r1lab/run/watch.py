"""Watches the ranks of a stage: which of them failed first and why, and where each one is if all of them wait.

Ranks wait for each other, so that a fault of one soon shows in all: the others lose their connection to it, or wait
until the process group's timeout. This module tells the cause from these consequences.
"""

import json
import re
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from r1lab import ranks
from r1lab.grading import clock
from r1lab.run import children
from r1lab.run.group import Group, failed
from r1lab.rundir.logs import last_line

LOADING = 1800.0  # seconds after the start for which loading may take
STACKS = 5.0  # seconds for the ranks to write their stacks

# What a rank reports if another one ended or hangs: Gloo's, NCCL's and the rendezvous' messages.
_CONSEQUENCE = re.compile(
    r"connection (closed|reset) by peer|connection was likely closed|timed out waiting|wait timeout|broken pipe|"
    r"collective operation timeout|ncclRemoteError|remote process exited|got 0 bytes|failed to recv",
    re.IGNORECASE,
)
_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)')
_OWN = re.compile(r".*/(?=(?:r1lab|trl)/)")
_NOTHING_SAID = "no stack"
_STOPPED = "stopped by a signal"


def silent(group: Group, timeout: float, now: float) -> bool:
    """Whether no rank of a group has shown a sign of life for `timeout` seconds; its start is the first.

    Importing libraries and loading models has few signs but takes CPU time, which counts until the first step. Later
    it would not do: ranks that wait for each other on GPUs use the CPU all the time.
    """
    signs = [*_folder(group).glob("*.beat"), group.path / "metrics.jsonl"]
    last = max([group.started, *(file.stat().st_mtime for file in signs if file.is_file())])
    if now - last > timeout / 2 and now - group.started < LOADING and not _has_begun(group):
        used = sum(clock.used(process.pid).seconds for process in group.processes)
        if used > group.used + 1:  # ranks that hang use some too, as they look for each other
            group.worked, group.used = now, used
    return now - max(last, group.worked) > timeout


def _has_begun(group: Group) -> bool:
    """Whether the newest row of metrics is of a step or of answers in this attempt."""
    try:
        row = json.loads(last_line(group.path / "metrics.jsonl"))
    except ValueError:  # no row, or one that is being written
        return False
    return row.get("phase") not in ("load", "note", "warning") and row.get("time", 0) >= group.started


@dataclass
class Fault:
    """What was seen of ranks that failed or hang.

    Attributes:
        status: The exit status of the run.
        lines: The error, one line for each problem.
        cause: Whether it is the cause, and not the consequence of a fault of other ranks.
        hung: Whether the ranks were ended because they showed no sign of life.
        places: Where the ranks that still ran were.
    """

    status: int
    lines: list[str]
    cause: bool = True
    hung: bool = False
    places: dict[int, str] = field(default_factory=dict)


def faults(group: Group, timeout: float, *, stopping: bool) -> list[Fault]:
    """The fault of a group, if there is one so far; ranks that still run then write their stacks.

    Args:
        group: The group.
        timeout: The seconds without a sign of life after which it hangs.
        stopping: It was asked to stop, so that a rank that fails is no fault.
    """
    first, running = failed(group), [process for process in group.processes if process.poll() is None]
    if first and stopping:
        return []
    hung = not first and bool(running) and silent(group, timeout, time.time())
    if not first and not hung:
        return []
    places = stacks(group)
    statuses = failed(group)
    found = {rank: why(group, rank, status) for rank, status in statuses.items()}
    if 0 in found and _error_file(group, 0).is_file():  # a mistake of the user, which every rank may report
        return [Fault(statuses[0], found[0])]
    own = [rank for rank in found if not _is_consequence(group, rank, statuses[rank], found[rank])]
    if own:
        cause = min(own, key=lambda rank: (rank not in first, not _error_file(group, rank).is_file(), rank))
        return [Fault(1, [f"rank {cause}: {line}" for line in found[cause]])]
    if hung:
        what = f"no rank has shown a sign of life for {timeout:.0f} s (launch.timeout)"
        return [Fault(1, [what], cause=False, hung=True, places=places)]
    rank, lines = next(iter(found.items()))
    return [Fault(1, [f"rank {rank}: {lines[-1]}"], cause=False, places=places)]


def error(faults: list[Fault], path: Path) -> tuple[int, list[str]]:
    """The exit status and the error of a stage from the faults on its machines, the first one first."""
    chosen = next((fault for fault in faults if fault.cause), faults[0])
    if chosen.cause:
        return chosen.status, chosen.lines
    where = described({rank: at for fault in faults for rank, at in fault.places.items()})
    (line,) = chosen.lines
    if chosen.hung:
        return chosen.status, [f"{line}: {where} (stacks: {ranks.folder(path)})"]
    return chosen.status, [f"{line}; {where}" if where else line]


def why(group: Group, rank: int, status: int) -> list[str]:
    """Why a rank failed, with its log."""
    log, log_from = _log(group, rank)
    lines = children.failure(status, _error_file(group, rank), log, log_from)
    return [f"{line} (log: {log})" for line in lines]


def _log(group: Group, rank: int) -> tuple[Path, int]:
    """The log of a rank, and the byte at which this attempt begins."""
    return group.logs[rank - group.first], group.logs_from[rank - group.first]


def _folder(group: Group) -> Path:
    return ranks.folder(group.path)


def _error_file(group: Group, rank: int) -> Path:
    return _folder(group) / f"{rank}.error" if rank else group.path / "error.txt"


def _is_consequence(group: Group, rank: int, status: int, lines: list[str]) -> bool:
    text = " ".join(lines)
    if status == -signal.SIGABRT:  # as NCCL's watchdog ends a rank, which it explains somewhere in the log
        log, log_from = _log(group, rank)
        text += log.read_bytes()[log_from:][-20_000:].decode(errors="replace")
    return bool(_CONSEQUENCE.search(text))


# Stacks


def stacks(group: Group, seconds: float = STACKS) -> dict[int, str]:
    """Where each rank that still runs is; makes it write its stacks to `ranks/R.stack`.

    Args:
        group: The group.
        seconds: The longest time to wait for them.
    """
    running = {rank: process for rank, process in group.by_rank() if process.poll() is None}
    found = dict.fromkeys(running, _NOTHING_SAID)
    files, sizes = {}, {}
    for rank, process in running.items():
        if _state(process) == "T":
            found[rank] = _STOPPED
        elif _handles(process, signal.SIGUSR1):
            files[rank] = _folder(group) / f"{rank}.stack"
            sizes[rank] = -1
            process.send_signal(signal.SIGUSR1)
    end = time.monotonic() + seconds
    while files.keys() - {rank for rank in found if found[rank] != _NOTHING_SAID} and time.monotonic() < end:
        time.sleep(0.1)
        for rank, file in files.items():
            size = file.stat().st_size if file.is_file() else 0
            if size and size == sizes[rank]:  # written whole
                found[rank] = place(file.read_text(errors="replace")) or _NOTHING_SAID
            sizes[rank] = size
            if running[rank].poll() is not None:
                found[rank] = "ended"
    return found


def place(stack: str) -> str:
    """The deepest frame of the main thread that says what a process does: a collective of torch, or r1lab's or TRL's.

    Args:
        stack: What faulthandler wrote, the innermost call first. The main thread is the oldest, and so the last one.

    >>> place('Current thread 0x7f (most recent call first):\\n  File "/x/r1lab/grading/pool.py", line 7 in grade\\n')
    'grade (r1lab/grading/pool.py:7)'
    """
    main = re.split(r"^(?:Current thread|Thread) .*\n", stack, flags=re.MULTILINE)[-1]
    frames = [match for line in main.splitlines() if (match := _FRAME.match(line))]
    for frame in frames:
        if frame["file"].endswith("/torch/distributed/distributed_c10d.py") and frame["name"] != "wrapper":
            return frame["name"]
    chosen = next((frame for frame in frames if _OWN.match(frame["file"])), frames[0] if frames else None)
    return f"{chosen['name']} ({_OWN.sub('', chosen['file'])}:{chosen['line']})" if chosen else ""


def described(places: dict[int, str]) -> str:
    """Where the ranks are, the likeliest cause first: stopped ranks, and last those that wait in a collective.

    A rank that waits need not be seen in a collective: the backward pass of DDP starts its own outside Python.

    >>> described({0: "all_reduce", 1: "grade (r1lab/grading/pool.py:7)", 2: "all_reduce", 3: "all_reduce"})
    'rank 1: grade (r1lab/grading/pool.py:7); ranks 0, 2-3: all_reduce'
    >>> described({0: "training_step (trl/trainer/grpo_trainer.py:1512)", 1: "stopped by a signal"})
    'rank 1: stopped by a signal; rank 0: training_step (trl/trainer/grpo_trainer.py:1512)'
    """
    by_place: dict[str, list[int]] = {}
    for rank, at in sorted(places.items()):
        by_place.setdefault(at, []).append(rank)
    ordered = sorted(by_place.items(), key=lambda item: (item[0] != _STOPPED, item[0].isidentifier(), item[1]))
    return "; ".join(f"rank{'s' * (len(of) > 1)} {_spans(of)}: {at}" for at, of in ordered)


def _spans(numbers: list[int]) -> str:
    """Sorted numbers, with neighbors as a span: `0, 2-7`."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    return ", ".join("-".join(map(str, span)) for span in spans)


def _proc(process: subprocess.Popen, name: str) -> str:
    try:
        return Path(f"/proc/{process.pid}/{name}").read_text()
    except OSError:  # ended, or not Linux
        return ""


def _state(process: subprocess.Popen) -> str:
    """The state of a process as Linux names it, `T` if it is stopped; empty if unknown."""
    return _proc(process, "stat").rpartition(")")[2].strip()[:1]


def _handles(process: subprocess.Popen, number: int) -> bool:
    """Whether a process has a handler for a signal; without one the signal would end it."""
    match = re.search(r"^SigCgt:\s*(\w+)", _proc(process, "status"), re.MULTILINE)
    return match is None or bool(int(match[1], 16) >> (number - 1) & 1)
