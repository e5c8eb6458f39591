"""A pipeline that is interrupted in every stage ends in the same models, samples and table, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
RECIPE = """
name: r
model: {path: "embedded:tiny-qwen2"}
data: {builder: knights_knaves, people: 2, names: 16, sayings: 1, size: 200}
prompt: {template: r1-zero}
rewards: [{name: knights_knaves}, {name: repetition, weight: 0.1}]
rollout: {engine: transformers, num_generations: 4, max_completion_length: 80}
eval: {size: 90, num_samples: 2}
stages:
  - name: cold
    stage: sft
    data: {builder: knights_knaves, people: 2, names: 16, sayings: 1, size: 64, solution: evaluation}
    train: {max_steps: 8, per_device_train_batch_size: 8, learning_rate: 1.0e-4}
  - {name: draw, stage: sample, model: {path: "@cold/model"}, keep: pairs}
  - name: preferred
    stage: dpo
    model: {path: "@cold/model"}
    data: {path: "@draw/samples"}
    train: {max_steps: 8, per_device_train_batch_size: 2, learning_rate: 1.0e-5}
  - name: zero
    stage: grpo
    model: {path: "@preferred/model"}
    train:
      max_steps: 8
      per_device_train_batch_size: 8
      learning_rate: 1.0e-4
      beta: 0.01
      sync_ref_model: true
      ref_model_mixup_alpha: 1.0
      ref_model_sync_steps: 3
  - {name: after, stage: eval, model: {path: "@zero/model"}}
"""


def command(folder: Path, name: str, *more: str) -> list[str]:
    recipe = folder / "r.yaml"
    recipe.write_text(RECIPE)
    return [
        sys.executable,
        "-m",
        "r1lab",
        "run",
        "--no-check",
        str(recipe),
        "--runs-dir",
        str(folder),
        "--name",
        name,
        *more,
    ]


def under_way(stage: Path) -> bool:
    """Whether a stage has done something that counts, and is not done."""
    metrics = stage / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    return any(row["phase"] in ("train", "sample", "eval") for row in rows)


def interrupted(folder: Path, stage: Path) -> str:
    """Goes on with the run until the stage is under way, and stops it there."""
    process = subprocess.Popen(command(folder, "b", "--resume"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.time() + 300
    while not under_way(stage):
        assert time.time() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    return output.decode()


def test_an_interruption_in_every_stage_changes_nothing(tmp_path):
    done = subprocess.run(command(tmp_path, "a"), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    whole, parted = tmp_path / "a", tmp_path / "b"
    stages = sorted(path.name for path in whole.glob("0*"))
    for name in stages:
        interrupted(tmp_path, parted / name)
        assert not (parted / name / "result.json").exists()
    done = subprocess.run(command(tmp_path, "b", "--resume"), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr

    for name in stages:
        for file in ("model/model.safetensors", "samples/samples.jsonl", "samples/questions.jsonl"):
            if (whole / name / file).exists():
                assert (whole / name / file).read_bytes() == (parted / name / file).read_bytes(), f"{name}/{file}"
    tables = [json.loads((run / "result.json").read_text()) for run in (whole, parted)]
    assert tables[0]["stages"]["after"]["tasks"] == tables[1]["stages"]["after"]["tasks"]
    steps = [json.loads(line)["step"] for line in (parted / "04-zero" / "metrics.jsonl").read_text().splitlines()
             if '"train"' in line]  # fmt: skip
    assert steps == list(range(1, 9))
