"""Faults of real stages on two ranks: each ends with one line that names the rank, no process is left, and a run that
was broken off continues."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r1lab.rundir import storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
RECIPE = """
name: s
stage: grpo
model: {path: embedded:tiny-qwen2}
data: {builder: arithmetic, size: 64}
rewards: [{name: "./mine.py:length"}]
rollout: {engine: transformers, num_generations: 2, max_completion_length: 8}
train: {max_steps: 5000, global_batch_size: 8, per_device_train_batch_size: 4, save_steps: 3, save_total_limit: 1}
launch: {gpus: 2, timeout: 20}
"""
REWARD = """
import os, pathlib

def length(completions, **columns):
    if os.environ["RANK"] == "1" and pathlib.Path(__file__).with_name("fail").exists():
        raise ValueError("no such unit")
    return [float(len(completion)) for completion in completions]
"""


@pytest.fixture
def begin(tmp_path):
    """Starts the recipe, or goes on with it, and waits for a step after `step`; gives the process and the ranks."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "mine.py").write_text(REWARD)
    started = []

    def to(*words, program=("-m", "r1lab"), step=0):
        command = [sys.executable, *program, "run", "r.yaml", "--no-check", "--name", "s", *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                command,
                cwd=tmp_path,
                env=environment,
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )  # fmt: skip
        )
        return started[-1]

    yield to
    for process in started:
        process.kill()
        process.communicate()


def steps(tmp_path):
    rows = storage.read_jsonl(tmp_path / "runs" / "s" / "metrics.jsonl")
    return [row["step"] for row in rows if row["phase"] == "train"]


def ranks_of(process):
    """The process ids of the ranks that a run has started, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            rank = re.search(r"\0RANK=(\d+)\0", folder.joinpath("environ").read_text(errors="replace"))
        except (OSError, ValueError):
            continue
        if parent == process.pid and rank:
            found[int(rank[1])] = int(folder.name)
    return found


def wait_for_step(process, tmp_path, step):
    end = time.time() + 500
    while max(steps(tmp_path), default=0) < step:
        assert process.poll() is None and time.time() < end, process.stderr.read() if process.poll() else "no step"
        time.sleep(0.1)
    return ranks_of(process)


def end(process, found):
    """The exit status and the error lines of a run, of whose ranks none may be left."""
    _, error = process.communicate(timeout=300)
    assert not any(Path(f"/proc/{pid}").exists() for pid in found.values())
    return process.returncode, error.splitlines()


def test_a_killed_rank_ends_the_run_which_continues_and_stops_by_ctrl_c(begin, tmp_path):
    process = begin()
    found = wait_for_step(process, tmp_path, 4)
    os.kill(found[1], signal.SIGKILL)
    status, lines = end(process, found)
    assert status == 1 and len(lines) == 1
    assert lines[0].startswith("s: rank 1: killed by SIGKILL, possibly out of memory; last line of the log: ")
    before = max(steps(tmp_path))
    process = begin("--resume")
    found = wait_for_step(process, tmp_path, before + 2)
    process.send_signal(signal.SIGINT)
    status, lines = end(process, found)
    assert status == 130 and len(lines) == 1 and lines[0].startswith("s: interrupted; to continue: ")
    done = steps(tmp_path)
    assert sorted(set(done)) == list(range(1, max(done) + 1))
    (checkpoint,) = (tmp_path / "runs" / "s" / "checkpoints").glob(f"checkpoint-{max(done)}")
    assert {f"rng_state_{rank}.pth" for rank in (0, 1)} <= set(os.listdir(checkpoint))


def test_a_stopped_rank_is_found_by_the_silence_of_all(begin, tmp_path):
    process = begin()
    found = wait_for_step(process, tmp_path, 2)
    os.kill(found[1], signal.SIGSTOP)
    status, lines = end(process, found)
    assert status == 1 and len(lines) == 1, lines
    assert lines[0].startswith(
        "s: no rank has shown a sign of life for 20 s (launch.timeout): rank 1: stopped by a signal"
    )
    stack = (tmp_path / "runs" / "s" / "ranks" / "0.stack").read_text()
    assert "rank 0: " in lines[0] and "r1lab/stages/grpo.py" in stack


def test_an_error_of_one_rank_is_reported_as_its_own(begin, tmp_path):
    process = begin()
    found = wait_for_step(process, tmp_path, 2)
    (tmp_path / "fail").touch()
    status, lines = end(process, found)
    assert status == 1 and len(lines) == 1 and lines[0].startswith("s: rank 1: ") and "no such unit" in lines[0]
