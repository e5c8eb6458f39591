"""How a training on two processes ends after a fault, and whether it continues: python -m benchmarks.faults [FAULT...]

Trains with GRPO on two processes of the CPU, causes one fault after another, and resumes after each. The processes are
two ranks, or, for the faults of a server, a rank and a vLLM server that generates for it. Prints JSON: for each fault
the seconds until the run has ended, its exit status and errors, the processes that are left, and whether `--resume`
continued. Needs Linux.
"""

import argparse
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from r1lab.rundir import storage

TIMEOUT = 20
"""The `launch.timeout` of a run, in seconds."""
LONG = 40
"""The seconds of the long step in which a run is interrupted, which then has twice the time."""
RECIPE = f"""
name: s
stage: grpo
model: {{path: embedded:tiny-qwen2}}
data: {{builder: arithmetic, size: 64}}
rewards: [{{name: "./mine.py:length"}}]
rollout: {{engine: transformers, num_generations: 2, max_completion_length: 8}}
train: {{max_steps: 5000, global_batch_size: 8, per_device_train_batch_size: 4, save_steps: 3, save_total_limit: 1}}
launch: {{gpus: 2, timeout: {TIMEOUT}}}
"""
SERVED = RECIPE.replace("engine: transformers, ", "").replace("launch: {", "launch: {rollout: server, ")
REWARD = """
import os, pathlib, time

def length(completions, **columns):
    here = pathlib.Path(__file__).parent
    if os.environ.get("RANK") == "1" and (here / "fail").exists():
        raise ValueError("no such unit")
    if os.environ.get("RANK") == "1" and (here / "slow").exists():
        seconds = float((here / "slow").read_text())
        (here / "slow").rename(here / "sleeps")
        time.sleep(seconds)
    return [float(len(completion)) for completion in completions]
"""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the seconds from the fault to its end, its exit status, its errors, and the processes left."""

    seconds: float
    status: int
    errors: list[str]
    left: list[int | str]


def main() -> None:
    """Prints the outcomes of faults, by default of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    chosen = parser.parse_args().faults or list(FAULTS)
    of_server = [fault for fault in chosen if fault.startswith("server")]
    rows = [
        row
        for recipe, some in ((RECIPE, [fault for fault in chosen if fault not in of_server]), (SERVED, of_server))
        for row in (outcomes(recipe, some) if some else [])
    ]
    machine = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "python": platform.python_version()}
    print(json.dumps({"launch.timeout": TIMEOUT, "faults": rows, **machine}, indent=2))


def outcomes(recipe: str, faults: list[str]) -> list[dict]:
    """The outcomes of faults of one run, which is resumed after each."""
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as name:
        folder = prepared(Path(name), recipe)
        for fault in faults:
            words = [f"launch.timeout={2 * LONG}"] if fault == "interrupted" else []
            found = caused(folder, fault, last_step(folder) + 2, *words, *["--resume"] * bool(rows))
            if rows:
                rows[-1]["resumed"] = True  # the next fault waited for steps that were not there before
            rows.append({"fault": fault, **vars(found)})
            print(f"{fault}: {found.seconds:.1f} s", file=sys.stderr)
        with begun(folder, "--resume") as process:
            wait_for_step(folder, process, last_step(folder) + 1)
            rows[-1]["resumed"] = True
    return rows


def prepared(folder: Path, recipe: str = RECIPE) -> Path:
    """Writes the recipe and its reward into a folder, and returns it."""
    (folder / "r.yaml").write_text(recipe)
    (folder / "mine.py").write_text(REWARD)
    return folder


def caused(folder: Path, fault: str, step: int, *words: str) -> Outcome:
    """Starts a run, causes a fault after a step, or before the first one, and waits for the end of the run."""
    with begun(folder, *words) as process, FAULTS[fault](folder, process, step) as ranks:
        since = time.monotonic()
        _, errors = process.communicate(timeout=600)
        seconds = time.monotonic() - since
        left: list[int | str] = [name for name, pid in ranks.items() if Path(f"/proc/{pid}").exists()]
    return Outcome(round(seconds, 1), process.returncode, errors.splitlines(), left)


@contextmanager
def begun(folder: Path, *words: str) -> Iterator[subprocess.Popen]:
    """A started run of the recipe in a folder, which is killed at the end."""
    command = [sys.executable, "-P", "-m", "r1lab", "run", "r.yaml", "--no-check", *words]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def last_step(folder: Path) -> int:
    """The last step that a run has recorded, 0 before the first."""
    file = folder / "runs" / "s" / "metrics.jsonl"
    rows = storage.read_jsonl(file) if file.is_file() else []
    return max((row["step"] for row in rows if row["phase"] == "train"), default=0)


def wait_for_step(folder: Path, process: subprocess.Popen, step: int) -> dict[int, int]:
    """Waits until a run has recorded a step, and returns `ranks_of`."""
    _wait_until(lambda: last_step(folder) >= step, process)
    return ranks_of(process)


def ranks_of(process: subprocess.Popen) -> dict[int, int]:
    """The process ids of the ranks that a run has started, by rank."""
    found = {pid: _variable(pid, "RANK") for pid in children_of(process.pid)}
    return {int(rank): pid for pid, rank in found.items() if rank}


def children_of(parent: int) -> list[int]:
    """The process ids of a process's children."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = folder.joinpath("stat").read_text()
        except OSError:  # ended
            continue
        if int(stat.rpartition(")")[2].split()[1]) == parent:
            found.append(int(folder.name))
    return found


def _variable(pid: int, name: str) -> str:
    try:
        text = Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:  # ended
        return ""
    match = re.search(rf"(?:^|\0){name}=([^\0]*)", text)
    return match[1] if match else ""


def _wait_until(condition, process: subprocess.Popen) -> None:
    end = time.monotonic() + 600
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"the run has ended: {process.stderr.read() if process.stderr else ''}")
        assert time.monotonic() < end, "the run did not come so far in 600 s"
        time.sleep(0.1)


# Faults: each is there for the time of its block, and gives the process ids of the ranks


@contextmanager
def _port_taken(folder: Path, process: subprocess.Popen, step: int) -> Iterator[dict[int, int]]:
    """Another process listens on the port at which the ranks are about to meet."""
    _wait_until(lambda: len(ranks_of(process)) == 2, process)
    ranks = ranks_of(process)
    with socket.create_server(("", int(_variable(ranks[0], "MASTER_PORT")))):
        yield ranks


@contextmanager
def _killed(folder: Path, process: subprocess.Popen, step: int) -> Iterator[dict[int, int]]:
    """SIGKILL to rank 1."""
    ranks = wait_for_step(folder, process, step)
    os.kill(ranks[1], signal.SIGKILL)
    yield ranks


@contextmanager
def _stopped(folder: Path, process: subprocess.Popen, step: int) -> Iterator[dict[int, int]]:
    """SIGSTOP to rank 1."""
    ranks = wait_for_step(folder, process, step)
    os.kill(ranks[1], signal.SIGSTOP)
    yield ranks


@contextmanager
def _error(folder: Path, process: subprocess.Popen, step: int) -> Iterator[dict[int, int]]:
    """A reward raises an error on rank 1."""
    ranks = wait_for_step(folder, process, step)
    (folder / "fail").touch()
    yield ranks
    (folder / "fail").unlink()


@contextmanager
def _interrupted(folder: Path, process: subprocess.Popen, step: int) -> Iterator[dict[int, int]]:
    """Ctrl-C in a step in which rank 1 takes long and rank 0 waits for it."""
    ranks = wait_for_step(folder, process, step)
    (folder / "slow").write_text(str(LONG))
    _wait_until((folder / "sleeps").is_file, process)
    process.send_signal(signal.SIGINT)
    yield ranks
    (folder / "sleeps").unlink()


@contextmanager
def _server_killed(folder: Path, process: subprocess.Popen, step: int) -> Iterator[dict[str, int]]:
    """SIGKILL to the only server."""
    yield _signaled(folder, process, step, signal.SIGKILL)


@contextmanager
def _server_stopped(folder: Path, process: subprocess.Popen, step: int) -> Iterator[dict[str, int]]:
    """SIGSTOP to the only server."""
    yield _signaled(folder, process, step, signal.SIGSTOP)


def _signaled(folder: Path, process: subprocess.Popen, step: int, number: signal.Signals) -> dict[str, int]:
    """Sends a signal to the server of a run after a step."""
    wait_for_step(folder, process, step)
    (rank,) = children_of(process.pid)
    (guard,) = [pid for pid in children_of(rank) if b"api_server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    (server,) = children_of(guard)
    os.kill(server, number)
    return {"rank": rank, "guard": guard, "server": server}


FAULTS = {
    "port taken": _port_taken,
    "killed": _killed,
    "stopped": _stopped,
    "error": _error,
    "interrupted": _interrupted,
    "server killed": _server_killed,
    "server stopped": _server_stopped,
}

if __name__ == "__main__":
    main()
