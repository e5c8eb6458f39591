"""`train.overlap` in a stage that `r1lab run` starts: off it changes nothing, and on it stops and resumes."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r1lab.rundir import storage

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
RECIPE = """
stage: grpo
model: {path: "embedded:tiny-qwen2", dtype: float32}
data: {builder: knights_knaves, people: 2, size: 32}
prompt: {template: r1-zero}
rewards: [{name: knights_knaves}, {name: repetition, weight: 0.1}]
rollout: {engine: vllm, num_generations: 4, max_completion_length: 64, options: {enforce_eager: true}}
train:
  max_steps: 4
  global_batch_size: 16
  per_device_train_batch_size: 4
  learning_rate: 1.0e-4
  beta: 0.0
  save_steps: 1
"""


def command(folder: Path, name: str, *more: str) -> list[str]:
    (folder / "r.yaml").write_text(RECIPE)
    words = ["run", "--no-check", str(folder / "r.yaml"), "--runs-dir", str(folder), "--name", name]
    return [sys.executable, "-m", "r1lab", *words, *more]


def train_rows(run_dir: Path) -> list[dict]:
    metrics = run_dir / "metrics.jsonl"
    return [row for row in storage.read_jsonl(metrics) if row["phase"] == "train"] if metrics.is_file() else []


def log(run_dir: Path) -> str:
    return (run_dir / "log.txt").read_text()[-3000:]


def test_losses_with_overlap_off_are_those_without_the_key(tmp_path):
    for name, more in (("without", []), ("off", ["train.overlap=false"])):
        done = subprocess.run(command(tmp_path, name, *more, "train.max_steps=2"), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + log(tmp_path / name)
    keys = ("step", "loss", "reward", "length", "grad_norm", "entropy", "drift")
    ours, theirs = ([[row[key] for key in keys] for row in train_rows(tmp_path / x)] for x in ("off", "without"))
    assert ours == theirs and len(ours) == 2 and any(row[4] for row in ours)
    model = "model/model.safetensors"
    assert (tmp_path / "off" / model).read_bytes() == (tmp_path / "without" / model).read_bytes()


def test_a_stage_with_overlap_is_interrupted_and_continues(tmp_path):
    run_dir = tmp_path / "run"
    child = subprocess.Popen(command(tmp_path, "run", "train.overlap=true"), start_new_session=True)
    try:
        deadline = time.monotonic() + 900
        while not train_rows(run_dir):
            assert child.poll() is None and time.monotonic() < deadline, log(run_dir)
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        assert child.wait(600) == 130, log(run_dir)
    finally:
        child.kill()
    before = train_rows(run_dir)
    assert 1 <= len(before) < 4 and (run_dir / f"checkpoints/checkpoint-{len(before)}").is_dir()
    done = subprocess.run(command(tmp_path, "run", "train.overlap=true", "--resume"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + log(run_dir)
    assert [row["step"] for row in train_rows(run_dir)] == [1, 2, 3, 4]
    assert train_rows(run_dir)[: len(before)] == before
    assert "overlap has no effect" not in (run_dir / "log.txt").read_text()
