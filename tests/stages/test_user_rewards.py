"""A reward that a user wrote, in a real training: it may need the main thread."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
MINE = """
from math_verify import parse, verify

def score(completions, *, answer):
    assert verify(parse("$7$"), parse("$7$"))
    return [float(verify(parse(gold), parse(text))) for gold, text in zip(answer, completions)]
"""
RECIPE = """
name: mine
stage: grpo
model: {path: embedded:tiny-qwen2}
data: {builder: knights_knaves, people: [2, 3], size: 64}
prompt: {template: r1-zero}
rewards:
  - {name: knights_knaves}
  - {name: "./mine.py:score"}
rollout: {num_generations: 4, max_completion_length: 48, engine: vllm}
train: {max_steps: 2, per_device_train_batch_size: 8, learning_rate: 1.0e-4, beta: 0.0}
"""


def test_a_reward_that_uses_math_verify_the_usual_way_trains(tmp_path):
    """Its timeouts are signals, which Python allows in the main thread alone."""
    pytest.importorskip("vllm")
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "r1lab", "run", "recipe.yaml", "--runs-dir", "runs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "runs/mine/metrics.jsonl").read_text().splitlines()]
    train = [row for row in rows if row["phase"] == "train"]
    assert [row["step"] for row in train] == [1, 2]
    assert all("reward_errors" not in row for row in train)
