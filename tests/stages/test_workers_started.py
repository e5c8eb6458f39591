"""Workers as processes with a real engine: one alone and two at a time write the same bytes."""

import os
import subprocess
import sys

import pytest

from r1lab.rundir import directory

TEXT = """
stage: eval
name: e
model: {path: embedded:tiny-qwen2}
data: {builder: knights_knaves, people: [2, 3]}
prompt: {template: r1-zero}
rewards: [{name: knights_knaves}]
rollout: {engine: transformers, max_completion_length: 24}
eval: {size: 40, num_samples: 2}
"""


def start(run_dir, of):
    """Starts the workers of a stage, as a launcher does."""
    run_dir.mkdir(exist_ok=True)
    (run_dir / "config.yaml").write_text(TEXT, encoding="utf-8")
    shared = {"WORLD_SIZE": str(of), "LOCAL_WORLD_SIZE": str(of), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-P", "-m", "r1lab.stages", str(run_dir)]
    return [
        subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(of)
    ]


def finish(children):
    assert [child.wait(600) for child in children] == [0] * len(children)


def outcome(run_dir):
    result = directory.finished_result(run_dir)
    return (run_dir / "samples" / "questions.jsonl").read_bytes(), result["tasks"]


@pytest.mark.slow
def test_two_workers_write_what_one_writes(tmp_path):
    finish(start(tmp_path / "two", 2))
    finish(start(tmp_path / "one", 1))
    assert outcome(tmp_path / "two") == outcome(tmp_path / "one")
    assert not directory.partial_files(tmp_path / "two")
