"""How a training on two processes ends after a fault, and whether it continues: python -m benchmarks.faults [FAULT...]

Trains with GRPO on two processes of the CPU, causes one fault after another, and resumes after each. The processes are
two ranks, or, for the faults of a server, a rank and a vLLM server that generates for it, each in every phase of a
rollout; FAULT may be the first words of several. Prints JSON: for each fault the seconds until the run has ended, its
exit status and errors, the processes and files that are left, and whether `--resume` continued. Needs Linux.
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
from functools import partial
from pathlib import Path

import httpx
import psutil

from benchmarks import held
from r1lab.rundir import storage

TIMEOUT = int(os.environ.get("TIMEOUT", "20"))
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
SERVED = (
    RECIPE.replace("launch: {", "launch: {rollout: server, ")
    .replace("max_completion_length: 8", "max_completion_length: 200")
    .replace(
        "engine: transformers, ",
        f"sync_folder: ./sync, options: {{enforce_eager: true, worker_extension_cls: {held.EXTENSION}}}, ",
    )
)
IN_FLIGHT = SERVED.replace("sync_folder", "async: {staleness: 1, in_flight: true}, sync_folder")
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
    """How a run ended: the seconds from the fault to its end, its exit status, its errors, and what is left of it."""

    seconds: float
    status: int
    errors: list[str]
    left: list[str]


def main() -> None:
    """Prints the outcomes of faults, by default of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    words = parser.parse_args().faults or [""]
    chosen = [fault for fault in FAULTS if any(fault.startswith(word) for word in words)]
    runs = {
        recipe: [fault for fault in chosen if recipe_of(fault) == recipe] for recipe in (RECIPE, SERVED, IN_FLIGHT)
    }
    rows = [row for recipe, some in runs.items() if some for row in outcomes(recipe, some)]
    machine = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "python": platform.python_version()}
    print(json.dumps({"launch.timeout": TIMEOUT, "faults": rows, **machine}, indent=2))


def recipe_of(fault: str) -> str:
    """The recipe of the run in which a fault is caused."""
    if not fault.startswith("server"):
        return RECIPE
    return IN_FLIGHT if fault.endswith(("pausing", "resuming")) else SERVED


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
    with begun(folder, *words) as process, FAULTS[fault](folder, process, step) as processes:
        since = time.monotonic()
        _, errors = process.communicate(timeout=600)
        seconds = time.monotonic() - since
        _, alive = psutil.wait_procs([one for one in processes if _runs(one)], timeout=2)
        left = [f"{one.pid} {' '.join(one.cmdline())[:80]}" for one in alive if _runs(one)]
        left += [str(file) for file in (folder / "sync").rglob("*")]
    return Outcome(round(seconds, 1), process.returncode, errors.splitlines(), left)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def begun(folder: Path, *words: str) -> Iterator[subprocess.Popen]:
    """A started run of the recipe in a folder, which is killed at the end."""
    command = [sys.executable, "-P", "-m", "r1lab", "run", "r.yaml", "--no-check", *words]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent), held.FOLDER: str(folder)},
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


def wait_for_step(folder: Path, process: subprocess.Popen, step: int) -> dict[int, psutil.Process]:
    """Waits until a run has recorded a step, and returns `ranks_of`."""
    _wait_until(lambda: last_step(folder) >= step, process)
    return ranks_of(process)


def ranks_of(process: subprocess.Popen) -> dict[int, psutil.Process]:
    """The ranks that a run has started, by rank."""
    found = {child: _variable(child.pid, "RANK") for child in psutil.Process(process.pid).children()}
    return {int(rank): child for child, rank in found.items() if rank}


def _variable(pid: int, name: str) -> str:
    try:
        text = Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:  # ended
        return ""
    match = re.search(rf"(?:^|\0){name}=([^\0]*)", text)
    return match[1] if match else ""


def _wait_until(condition, process: subprocess.Popen, every: float = 0.1) -> None:
    end = time.monotonic() + 600
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"the run has ended: {process.stderr.read() if process.stderr else ''}")
        assert time.monotonic() < end, "the run did not come so far in 600 s"
        time.sleep(every)


# Faults: each is there for the time of its block, and gives the processes of the run


@contextmanager
def _port_taken(folder: Path, process: subprocess.Popen, step: int) -> Iterator[list[psutil.Process]]:
    """Another process listens on the port at which the ranks are about to meet."""
    _wait_until(lambda: len(ranks_of(process)) == 2, process)
    ranks = ranks_of(process)
    with socket.create_server(("", int(_variable(ranks[0].pid, "MASTER_PORT")))):
        yield [*ranks.values()]


@contextmanager
def _signaled(
    number: signal.Signals, folder: Path, process: subprocess.Popen, step: int
) -> Iterator[list[psutil.Process]]:
    """A signal to rank 1."""
    ranks = wait_for_step(folder, process, step)
    ranks[1].send_signal(number)
    yield [*ranks.values()]


@contextmanager
def _error(folder: Path, process: subprocess.Popen, step: int) -> Iterator[list[psutil.Process]]:
    """A reward raises an error on rank 1."""
    ranks = wait_for_step(folder, process, step)
    (folder / "fail").touch()
    yield [*ranks.values()]
    (folder / "fail").unlink()


@contextmanager
def _interrupted(folder: Path, process: subprocess.Popen, step: int) -> Iterator[list[psutil.Process]]:
    """Ctrl-C in a step in which rank 1 takes long and rank 0 waits for it."""
    ranks = wait_for_step(folder, process, step)
    (folder / "slow").write_text(str(LONG))
    _wait_until((folder / "sleeps").is_file, process)
    process.send_signal(signal.SIGINT)
    yield [*ranks.values()]
    (folder / "sleeps").unlink()


@contextmanager
def _of_server(
    phase: str, number: signal.Signals | None, folder: Path, process: subprocess.Popen, step: int
) -> Iterator[list[psutil.Process]]:
    """A signal to the only server in a phase of a rollout, or an error in its worker extension if there is none."""
    if phase != "starting":
        wait_for_step(folder, process, step)
    held_in = {"loading": "loading", "verifying": "verifying", "resuming": "verifying"}.get(phase)
    if number is None:
        (folder / f"{phase}-raises").touch()
    elif held_in:
        (folder / f"{held_in}-waits").touch()
        _wait_until((folder / f"{held_in}-reached").is_file, process)
    elif phase == "starting":
        _wait_until(lambda: _server(process) is not None, process)
    elif phase in ("generating", "pausing"):
        _wait_until(lambda: _requests(folder) > 0, process, every=0.01)
    # While weights are exported, a server has nothing to do: it gets the signal after a step, before the export.
    server = _server(process)
    assert server is not None
    found = [*server.parents()[:2], server, *server.children(recursive=True)]
    if number is not None:
        server.send_signal(number)
    for file in folder.glob("*-waits"):
        file.unlink()
    yield found
    for file in [*folder.glob("*-raises"), *folder.glob("*-reached")]:
        file.unlink()


def _server(process: subprocess.Popen) -> psutil.Process | None:
    """The server of a run, without its guard; None before its start."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "api_server" in " ".join(child.cmdline()) and "-S" not in child.cmdline():
                return child
        except psutil.NoSuchProcess:
            pass
    return None


def _requests(folder: Path) -> float:
    """The requests that the server of a run is working on."""
    log = (folder / "runs" / "s" / "log.txt").read_text()
    url = re.findall(r"^rollout server (\S+):", log, re.MULTILINE)[-1]
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))


PHASES = ("starting", "exporting", "loading", "verifying", "generating", "pausing", "resuming")
FAULTS = {
    "port taken": _port_taken,
    "killed": partial(_signaled, signal.SIGKILL),
    "stopped": partial(_signaled, signal.SIGSTOP),
    "error": _error,
    "interrupted": _interrupted,
    **{f"server killed, {phase}": partial(_of_server, phase, signal.SIGKILL) for phase in PHASES},
    **{f"server stopped, {phase}": partial(_of_server, phase, signal.SIGSTOP) for phase in PHASES},
    **{f"server raises, {phase}": partial(_of_server, phase, None) for phase in ("loading", "half", "verifying")},
}

if __name__ == "__main__":
    main()
