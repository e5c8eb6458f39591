"""Every kind of stage for real, two steps each, through the command line: vLLM generates, TRL trains."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_api import broken

pytestmark = pytest.mark.slow
COMMON = """
data: {builder: knights_knaves, people: [2, 3], size: 64}
prompt: {template: r1-zero}
rewards:
  - {name: knights_knaves, mode: strict}
  - {name: format, weight: 0.5}
  - {name: tag_count, tasks: [sums]}   # applies to no row
rollout: {num_generations: 4, max_completion_length: 48, ENGINE}
"""
GRPO = "{max_steps: STEPS, per_device_train_batch_size: 8, learning_rate: 1.0e-4, beta: 0.0}"
PIPELINE = """
name: all
model: {path: embedded:tiny-qwen2}
COMMON
stages:
  - {name: base, stage: eval, eval: {size: 8, num_samples: 2}}
  - name: cold
    stage: sft
    data: {builder: knights_knaves, people: 2, size: 32, solution: evaluation}
    train: {max_steps: 2, per_device_train_batch_size: 8, learning_rate: 1.0e-4}
  - name: zero
    stage: grpo
    model: {path: "@cold/model"}
    eval: {tasks: [knights_knaves], size: 8, num_samples: 2, every: 1}
    train: GRPO
  - {name: draw, stage: sample, model: {path: "@zero/model"}, keep: all}
  - name: distil
    stage: sft
    model: {path: embedded:tiny-llama}
    data: {builder: rows, path: "@draw/samples"}
    train: {max_steps: 2, per_device_train_batch_size: 8, learning_rate: 1.0e-4}
  - {name: after, stage: eval, model: {path: "@distil/model"}, eval: {size: 8, num_samples: 2}}
"""


def recipe(folder: Path, text: str, *, engine: str, steps: int = 2) -> Path:
    path = folder / "recipe.yaml"
    text = text.replace("COMMON", COMMON).replace("ENGINE", f"engine: {engine}")
    path.write_text(text.replace("GRPO", GRPO).replace("STEPS", str(steps)))
    return path


def r1lab(folder: Path, *words, **kwargs):
    command = [sys.executable, "-m", "r1lab", *words, "--runs-dir", str(folder / "runs")]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, **kwargs)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_pipeline_of_every_stage(tmp_path):  # with the transformers engine: test_resume.py
    pytest.importorskip("vllm")
    done = r1lab(tmp_path, "run", str(recipe(tmp_path, PIPELINE, engine="vllm")))
    run = tmp_path / "runs" / "all"
    assert done.returncode == 0, done.stderr + done.stdout[-3000:] + log_tails(run)
    result = json.loads((run / "result.json").read_text())
    assert list(result["stages"]) == ["base", "cold", "zero", "draw", "distil", "after"]
    assert broken(run) == []  # what docs/api.md says of its files
    assert {row["metric"] for row in result["compare"]} == {"avg", "greedy"}
    assert result["stages"]["base"]["tasks"]["knights_knaves"]["n_questions"] == 8

    zero = run / "03-zero"
    train = [row for row in rows(zero / "metrics.jsonl") if row["phase"] == "train"]
    assert [row["step"] for row in train] == [1, 2]
    names = {"knights_knaves", "format", "tag_count"}
    assert set(train[0]["rewards"]) == names and train[0]["tokens_per_second"] > 0
    assert 0 < train[0]["seconds_generating"] + train[0]["seconds_grading"] < train[0]["seconds"]
    assert train[0]["rewards_none"] == {"knights_knaves": 0.0, "format": 0.0, "tag_count": 1.0}
    assert train[0]["rewards"]["tag_count"] is None and train[0]["rewards_std"]["format"] >= 0
    assert {name: sum(counts.values()) for name, counts in train[0]["reasons"].items()} == dict.fromkeys(names, 8)
    assert [row["step"] for row in rows(zero / "metrics.jsonl") if row["phase"] == "eval"] == [1]
    samples = rows(zero / "samples" / "step_000001.jsonl")
    assert len(samples) == 8  # every completion is kept
    for sample in samples:
        assert set(sample["rewards"]) == set(sample["reasons"]) == names
        expected = sample["rewards"]["knights_knaves"] + 0.5 * sample["rewards"]["format"]
        assert sample["reward"] == pytest.approx(expected)
        assert sample["prompt"].startswith("A very special island")

    for stage in ("02-cold", "03-zero", "05-distil"):
        assert (run / stage / "model" / "model.safetensors").is_file()
    drawn = rows(run / "04-draw" / "samples" / "samples.jsonl")
    assert len(drawn) == 64 * 4 and all(row["completion"] for row in drawn)
    assert json.loads((run / "05-distil" / "model" / "config.json").read_text())["model_type"] == "llama"
    assert (run / "curve.png").stat().st_size > 5_000

    again = r1lab(tmp_path, "run", "--no-check", str(tmp_path / "recipe.yaml"), "--resume")
    assert again.returncode == 0, again.stderr  # all stages are finished: nothing to do
    assert json.loads((run / "result.json").read_text())["stages"] == result["stages"]


CHOSEN = """
stage: grpo
name: chosen
model: {path: embedded:tiny-qwen2}
data: {builder: knights_knaves, people: 2, size: 64}
prompt: {template: r1-zero}
rewards:
  - {name: repetition}
  - {name: reasoning_steps, weight: 0.1}
rollout:
  num_generations: 4
  max_completion_length: 48
  engine: transformers
  dynamic_sampling: {metric: reward, max_rounds: 2}
curriculum: {max_pass_rate: 0.9, learnability: true}
schedule:
  max_completion_length: {0: 24, 2: 48}
  temperature: {0: 1.0, 1: 1.2}
  rewards: {reasoning_steps: {1: 0.5}}
train:
  max_steps: STEPS
  per_device_train_batch_size: 8
  learning_rate: 1.0e-3
  beta: 0.01
  advantage: rloo
  sync_ref_model: true
  ref_model_mixup_alpha: 1.0
  ref_model_sync_steps: 2
  save_steps: 1
"""


def test_chosen_prompts_schedules_and_a_refreshed_reference(tmp_path):
    done = r1lab(tmp_path, "run", "--no-check", str(recipe(tmp_path, CHOSEN, engine="transformers", steps=3)))
    run = tmp_path / "runs" / "chosen"
    assert done.returncode == 0, done.stderr + done.stdout[-3000:] + log_tails(run)
    train = [row for row in rows(run / "metrics.jsonl") if row["phase"] == "train"]
    longest = []
    for i, row in enumerate(train):
        samples = rows(run / "samples" / f"step_{i + 1:06d}.jsonl")
        assert len(samples) == 4 * row["sampled"]["groups"]
        weight = 0.1 if i == 0 else 0.5
        earned = [0.1 * s["rewards"]["reasoning_steps"] + s["rewards"]["repetition"] for s in samples]
        assert [s["reward"] for s in samples] == pytest.approx(earned)  # the recipe's weights, whatever the step
        assert row["sampled"]["rounds"] <= 2 and 0 <= row["sampled"]["signal"] <= 1
        expected = [weight * s["rewards"]["reasoning_steps"] + s["rewards"]["repetition"] for s in samples]
        assert row["sampled"]["reward"] == pytest.approx(sum(expected) / len(expected), rel=1e-5)
        longest.append(row["length"])
    assert max(longest[:2]) <= 24 < longest[2] <= 48
    assert train[0]["kl"] == pytest.approx(0, abs=1e-6) and train[1]["kl"] > 1e-6  # then the policy is the reference
    assert train[2]["kl"] < train[1]["kl"]
    checkpoint = run / "checkpoints" / "checkpoint-3"
    assert json.loads((checkpoint / "chooser.json").read_text())["seen"]
    assert (checkpoint / "reference.safetensors").is_file()


def test_an_interrupted_run_stops_within_a_step_and_is_taken_up(tmp_path):
    pytest.importorskip("vllm")
    text = "stage: grpo\nname: long\nmodel: {path: embedded:tiny-qwen2}\nCOMMON\ntrain: GRPO\n"
    path = recipe(tmp_path, text, engine="vllm", steps=300)
    run = tmp_path / "runs" / "long"
    command = [sys.executable, "-m", "r1lab", "run", "--no-check", str(path), "--runs-dir", str(tmp_path / "runs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = run / "metrics.jsonl"
    deadline = time.time() + 300
    while len(steps_of(metrics)) < 3:
        assert time.time() < deadline and process.poll() is None, log_tails(run)
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    seen = len(steps_of(metrics))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "--resume" in output
    stopped = steps_of(metrics)[-1]
    assert stopped <= seen + 2  # the step that was running, and the one that a race may add
    assert not (run / "result.json").exists()
    assert (run / "checkpoints" / f"checkpoint-{stopped}").is_dir()

    # Taken up at the next step. The number of steps is part of the recipe, so it is cut short by a second SIGINT.
    process = subprocess.Popen([*command, "--resume"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while steps_of(metrics)[-1] < stopped + 2:
        assert time.time() < deadline + 300 and process.poll() is None, log_tails(run)
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    steps = steps_of(metrics)
    assert steps == list(range(1, len(steps) + 1))  # none lost, none twice


def steps_of(metrics: Path) -> list[int]:
    """The steps that a training has logged so far."""
    found = rows(metrics) if metrics.is_file() else []
    return [row["step"] for row in found if row["phase"] == "train"]


def log_tails(run: Path) -> str:
    logs = [run / "log.txt", *run.glob("*/log.txt")]
    return "".join(f"\n--- {log}\n{log.read_text()[-2000:]}" for log in logs if log.is_file())
