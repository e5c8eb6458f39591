"""Several updates on a rollout, for real: rows of metrics, dynamic sampling, schedules, resumption."""

import json
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
RECIPE = """
stage: grpo
name: r
model: {path: "embedded:tiny-qwen2"}
data: {builder: knights_knaves, people: 2, names: 16, sayings: 1, size: 64}
prompt: {template: r1-zero}
rewards: [{name: knights_knaves}, {name: repetition, weight: 0.1}]
rollout: {engine: transformers, num_generations: 4, max_completion_length: 32}
train: {max_steps: 5, per_device_train_batch_size: 8, learning_rate: 1.0e-3, save_steps: 1, save_total_limit: 9}
"""
TWICE = ["train.num_iterations=2"]
TWO_BATCHES = ["train.generation_batch_size=16"]
CHOSEN = [
    "rollout.dynamic_sampling={metric: reward, max_rounds: 1}",
    "curriculum={max_pass_rate: 0.9}",
    "schedule={temperature: {0: 1.0, 3: 1.5}, max_completion_length: {0: 16, 3: 32}}",
]


def run(folder, *words):
    (folder / "r.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "r1lab", "run", "--no-check", str(folder / "r.yaml"), "--runs-dir", str(folder)]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=600)
    log = folder / words[-1].partition("=")[2] / "log.txt"
    assert done.returncode == 0, done.stderr + (log.read_text()[-2000:] if log.is_file() else "")


def rows(run_dir, phase="train"):
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["phase"] == phase]


@pytest.mark.parametrize("settings", [TWICE, TWICE + TWO_BATCHES + CHOSEN])
def test_each_step_has_the_figures_of_its_rollout_and_a_resumed_run_trains_on_the_same_one(tmp_path, settings):
    updates = 4 if settings[2:] else 2
    run(tmp_path, *settings, "--name=whole")
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    found = rows(whole)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5]
    made = [1 + (row["step"] - 1) // updates * updates for row in found]
    assert [row.get("rollout", row["step"]) for row in found] == made
    assert sorted(path.name for path in (whole / "samples").glob("step*")) == [
        f"step_{step:06d}.jsonl" for step in sorted(set(made))
    ]
    for row, first in zip(found, made, strict=True):
        assert (row["seconds_generating"] > 0) == (row["step"] == first) and row["tokens_per_second"] > 0
        same = ("reward", "rewards", "reasons", "rewards_none", "length", "no_signal")
        assert {key: row[key] for key in same} == {key: found[first - 1][key] for key in same}
    if settings[2:]:  # neither the length nor the temperature changes within a rollout
        assert [row["length"] <= 16 for row in found] == [True] * 4 + [False]
        assert found[3]["sampled"] == found[0]["sampled"]

    # As a kill after step 3 leaves it, between two updates on a rollout.
    shutil.copytree(whole, parted)
    (parted / "result.json").unlink()
    for step in (4, 5):
        shutil.rmtree(parted / "checkpoints" / f"checkpoint-{step}")
    assert (parted / "checkpoints" / "checkpoint-3" / "rollout.rank0.pt").exists() == (made[3] < 4)
    run(tmp_path, *settings, "--resume", "--name=parted")
    timed = ("seconds", "seconds_generating", "seconds_grading", "tokens_per_second", "time")
    plain = [[{k: v for k, v in row.items() if k not in timed} for row in rows(folder)] for folder in (whole, parted)]
    assert plain[0] == plain[1]
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (whole, parted)]
    assert weights[0] == weights[1]


def test_the_share_of_clipped_ratios_is_that_of_the_later_updates(tmp_path):
    run(tmp_path, *TWICE, "train.epsilon=1.0e-3", "--name=clipped")
    shares = [row["ratio_clipped"] for row in rows(tmp_path / "clipped")]
    assert shares[0::2] == [0.0] * 3, "the first update of a rollout starts from the policy that sampled it"
    assert all(0 < share <= 1 for share in shares[1::2])
