"""The processes of a stage on this machine, one for each rank: they start, stop and end together."""

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from r1lab import hardware, ranks
from r1lab.run import children

INTERRUPTED = 130
_BY_AGREEMENT = (0, INTERRUPTED, ranks.RESTART)  # exit statuses of all ranks, each in its own time


@dataclass
class Group:
    """The processes of a stage, by rank.

    Attributes:
        path: The folder of the stage.
        processes: The processes.
        logs: Their logs.
        logs_from: The byte of each log at which this attempt begins.
        started: The time of their start, in unix seconds.
        worked: The last time at which they were seen to use the CPU while loading.
        used: The CPU seconds that they had used by then.
    """

    path: Path
    processes: list[subprocess.Popen]
    logs: list[Path]
    logs_from: list[int]
    started: float
    worked: float = 0.0
    used: float = 0.0


def start(command: list[str], path: Path, count: int = 1) -> Group:
    """Starts a stage with `count` ranks. An only rank gets the environment of this process as it is."""
    logs = [path / "log.txt", *(ranks.folder(path) / f"{rank}.log" for rank in range(1, count))]
    if count > 1:
        _remove_signs(path)
    port = free_port() if count > 1 else 0
    group = Group(path, [], logs, [], time.time())
    for rank, log in enumerate(logs):
        group.logs_from.append(_size(log))
        more = environment(rank, count, port) if count > 1 else {}
        with log.open("ab") as output:
            group.processes.append(children.start(command, output, more))
    return group


def of_stage(group: Group, path: Path) -> Group:
    """A group that runs several stages one after another, as that of its stage in `path`."""
    log = path / "log.txt"
    return replace(group, path=path, logs=[log], logs_from=[_size(log)])


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _remove_signs(path: Path) -> None:
    """Removes what an earlier attempt left and this one would take for its own."""
    (path / "stop").unlink(missing_ok=True)
    folder = ranks.folder(path)
    folder.mkdir(exist_ok=True)
    for name in ("*.beat", "*.stack", "*.error"):
        for file in folder.glob(name):
            file.unlink()


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """The variables of a rank that it has besides those of this process, the same as torchrun's.

    torch uses all cores in every process unless `OMP_NUM_THREADS` is set. accelerate makes no process group without
    a GPU unless `ACCELERATE_USE_CPU` is set: each rank would train alone.

    >>> environment(1, 2, 29500)["RANK"]
    '1'
    """
    found = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, hardware.allowed_cores() // count)),
    }
    return found if hardware.gpus() else found | {"ACCELERATE_USE_CPU": "true"}


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def failed(group: Group) -> dict[int, int]:
    """The exit statuses of the ranks that failed, by rank."""
    statuses = {rank: process.poll() for rank, process in enumerate(group.processes)}
    if ranks.RESTART in statuses.values():  # they end one by one, and a slow one may lose its connection to another
        return {}
    return {rank: status for rank, status in statuses.items() if status is not None and status not in _BY_AGREEMENT}


def wait(group: Group, seconds: float) -> int | None:
    """The exit status of a group: of the first rank that failed, or of all; None if it still runs after `seconds`."""
    running = next((process for process in group.processes if process.poll() is None), None)
    if running:
        with suppress(subprocess.TimeoutExpired):
            running.wait(seconds)
    statuses = [process.poll() for process in group.processes]
    for status in failed(group).values():
        return status
    if None in statuses:
        return None
    return ranks.RESTART if ranks.RESTART in statuses else next((status for status in statuses if status), 0)


def interrupt(group: Group) -> None:
    """Asks all ranks to stop, which they do at the end of the same step."""
    for process in group.processes:
        process.send_signal(signal.SIGINT)


def kill(group: Group) -> None:
    """Kills all ranks and the processes that they started."""
    for process in group.processes:  # all at once: one that survives another for long would report its end
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for process in group.processes:
        process.wait()
