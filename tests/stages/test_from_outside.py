"""What can be added without touching the package: everything that a recipe names, and a kind of stage."""

import json
import os
import subprocess
import sys

import pytest

from r1lab import cli
from r1lab.errors import UserError
from r1lab.recipe import loading, schema
from r1lab.rundir import storage
from r1lab.stages import __main__ as stages

MINE = """
import torch
from r1lab.rewards import Score, reward

def sums(*, split, size=8, seed=0, most=9):
    numbers = [i % most for i in range(seed, seed + size)]
    return [{"prompt": f"{n} + 1", "answer": str(n + 1), "task": "sums"} for n in numbers]

@reward(looks_for="answer")
def last(completions, *, answer, **columns):
    right = [turn.rstrip().endswith(f"<answer> {gold} </answer>") for turn, gold in zip(completions, answer)]
    return [Score(1.0 if is_right else len(turn) % 2 / 2, "said") for turn, is_right in zip(completions, right)]

def above_the_mean(rewards):
    return (rewards > rewards.mean(dim=1, keepdim=True)).float() - 0.5

def clipped(*, ratios, advantages):
    return -torch.min(ratios * advantages, ratios.clamp(0.8, 1.2) * advantages)
"""
JINJA = "{% for message in messages %}{{ message.content }} = {% endfor %}"
RECIPE = """
stage: grpo
model: {path: embedded:tiny-qwen2}
data: {builder: "./mine.py:sums", size: 7, most: 7}
prompt: {template: ./mine.jinja, prefill: "<think>"}
rewards: [{name: "./mine.py:last"}]
rollout:
  engine: transformers
  num_generations: 4
  max_completion_length: 8
  options: {repetition_penalty: 1.1}
train:
  max_steps: 2
  per_device_train_batch_size: 8
  advantage: ./mine.py:above_the_mean
  loss: ./mine.py:clipped
  save_strategy: "no"
  bf16: false
"""


@pytest.mark.slow
def test_a_reward_a_builder_a_template_an_advantage_a_loss_and_engine_options(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "mine.jinja").write_text(JINJA)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "r1lab", "run", "recipe.yaml", "--runs-dir", "runs"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    run = tmp_path / "runs" / "recipe"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    train = [row for row in rows if row["phase"] == "train"]
    assert [row["step"] for row in train] == [1, 2] and all(row["loss"] == row["loss"] for row in train)
    (first, *_) = storage.read_jsonl(run / "samples" / "step_000001.jsonl")
    assert first["completion"].startswith("<think>") and first["task"] == "sums" and "last" in first["rewards"]
    assert (run / "model" / "config.json").is_file()


PACKAGE = """
from typing import ClassVar, Literal

from r1lab.recipe.schema import StageRecipe
from r1lab.recipe.sections import Data

class CountRecipe(StageRecipe):
    module: ClassVar[str] = "counting"
    words: ClassVar[str] = "counting"
    stage: Literal["counting"]
    data: Data
    by: int = 1

def run(recipe, run_dir):
    from r1lab.rundir import storage
    from r1lab.stages.rows import build_rows

    rows = build_rows(recipe.data, seed=recipe.seed)
    storage.write_json_atomic(run_dir / "result.json", {"stage": "counting", "rows": len(rows) * recipe.by})
"""


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """An installed package with a kind of stage, as pip would leave it."""
    (tmp_path / "counting.py").write_text(PACKAGE)
    info = tmp_path / "counting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[r1lab.stages]\ncounting = counting:CountRecipe\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    schema.STAGES.pop("counting", None)
    sys.modules.pop("counting", None)


def test_a_kind_of_stage_is_run_by_the_command(tmp_path, counting):
    recipe = "{stage: counting, model: {path: embedded:tiny-qwen2}, data: {builder: arithmetic, size: 7}, by: 2}"
    (tmp_path / "r.yaml").write_text(recipe)
    command = [sys.executable, "-m", "r1lab", "run", "r.yaml", "--runs-dir", "runs"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    assert json.loads((tmp_path / "runs" / "r" / "result.json").read_text())["rows"] == 14


@pytest.mark.parametrize("verb", ["check", "plan", "show"])
@pytest.mark.parametrize("data", ["data: {builder: arithmetic, size: 7}, ", ""])
def test_a_kind_of_stage_is_checked_planned_and_shown(tmp_path, counting, capsys, verb, data):
    """Also one that neither trains nor generates, and that has no data."""
    if not data:
        package = tmp_path / "counting.py"
        package.write_text(package.read_text().replace("    data: Data\n", ""))
    (tmp_path / "r.yaml").write_text(f"{{stage: counting, model: {{path: embedded:tiny-qwen2}}, {data}by: 2}}")
    assert cli.main([verb, str(tmp_path / "r.yaml")]) == 0
    assert "counting" in capsys.readouterr().out or verb == "check"


def test_a_kind_whose_package_does_not_load_is_one_line(tmp_path, counting):
    (tmp_path / "counting.py").write_text("import no_such_package")
    (tmp_path / "r.yaml").write_text("{stage: counting, model: {path: embedded:tiny-qwen2}}")
    with pytest.raises(UserError, match="stage: counting: counting:CountRecipe fails to load: ModuleNotFoundError"):
        loading.load([str(tmp_path / "r.yaml")])


def test_a_kind_of_stage(tmp_path, counting):
    recipe = "{stage: counting, model: {path: embedded:tiny-qwen2}, data: {builder: arithmetic, size: 7}, by: 2}"
    (tmp_path / "config.yaml").write_text(recipe)
    assert stages.main(tmp_path) == 0
    assert json.loads((tmp_path / "result.json").read_text()) == {"stage": "counting", "rows": 14}


def test_a_kind_of_stage_in_a_pipeline(tmp_path, counting):
    (tmp_path / "r.yaml").write_text(
        "model: {path: embedded:tiny-qwen2}\ndata: {builder: arithmetic, size: 7}\nstages:\n"
        "  - {name: one, stage: counting, by: 2}\n  - {name: two, stage: sample, rollout: {engine: transformers}}\n"
    )
    loaded = loading.load([str(tmp_path / "r.yaml")], inputs=True)
    resolved = loading.resolved(loaded)
    assert [type(stage).__name__ for stage in loaded.stages] == ["CountRecipe", "SampleRecipe"]
    assert resolved["stages"][0]["by"] == 2 and "by" not in resolved["stages"][1]
    assert schema.Pipeline.model_validate(resolved).model_dump() == resolved
    (tmp_path / "resolved.yaml").write_text(loading.dumps(loaded))
    assert loading.resolved(loading.load([str(tmp_path / "resolved.yaml")])) == resolved


def test_every_kind_names_a_module_that_there_is():
    import importlib.util

    assert all(importlib.util.find_spec(kind.module) for kind in schema.STAGES.values())
