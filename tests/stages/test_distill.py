"""A distill stage from end to end: it approaches its teacher, resumes, and refuses a teacher with other tokens."""

import shutil

import pytest

from r1lab.errors import UserError
from r1lab.models import loading
from r1lab.recipe import loading as recipes
from r1lab.rundir import storage
from r1lab.stages import distill
from tests.stages.several_ranks import logs, prepared, train_rows, updates, weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher(base):
    """The folder of a model like the base, whose distributions are less flat, with its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = base / "teacher"
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(base / "start", initializer_range=0.15)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    loading.load_tokenizer(str(base / "start")).save_pretrained(folder)
    return folder


def run(base, teacher, folder, stage="distill", **train):
    folder = prepared(base, folder, stage, 1, train=train, teacher={"path": str(teacher), "dtype": "float32"})
    assert distill.run(recipes.load([str(folder / "config.yaml")]), folder) == 0
    return folder


@pytest.mark.parametrize("stage", ["distill", "distill-lora"])
def test_the_student_approaches_its_teacher(base, teacher, tmp_path, stage):
    folder = run(base, teacher, tmp_path / "run", stage, max_steps=20, learning_rate=1e-2)
    rows = [row["teacher"] for row in train_rows(folder)]
    assert rows[-1]["divergence"] < (0.8 if stage == "distill" else 0.95) * rows[0]["divergence"]
    assert set(rows[0]) == {"kl", "divergence", "kl_by_position"} and list(rows[0]["kl_by_position"]) == ["0"]
    assert (folder / "model" / "config.json").is_file() and 0 <= train_rows(folder)[0]["right"] <= 1
    assert "no_signal" not in train_rows(folder)[0]


def test_a_resumed_run_is_the_same_run(base, teacher, tmp_path):
    whole = run(base, teacher, tmp_path / "whole", save_strategy="steps", save_steps=2)
    part = tmp_path / "part"
    part.mkdir()
    shutil.copytree(whole / "checkpoints" / "checkpoint-2", part / "checkpoints" / "checkpoint-2")
    run(base, teacher, part, save_strategy="steps", save_steps=2)
    assert [row["step"] for row in train_rows(part)] == [3]
    assert (weights(part / "model") == weights(whole / "model")).all()
    assert train_rows(part)[0]["teacher"] == train_rows(whole)[2]["teacher"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_train_as_one(base, teacher, tmp_path, start, strategy):
    more = {"teacher": {"path": str(teacher), "dtype": "float32"}}
    one, two = (prepared(base, tmp_path / str(n), "distill", n, strategy=strategy, **more) for n in (1, 2))
    assert start(1, [one]) == [0] and start(2, [two]) == [0, 0], logs(one) + logs(two)
    assert updates(two)
    difference = (weights(two / "model") - weights(one / "model")).norm() / weights(one / "model").norm()
    assert difference < 1e-5
    for ours, theirs in zip(train_rows(two), train_rows(one)):
        assert ours["teacher"]["divergence"] == pytest.approx(theirs["teacher"]["divergence"], rel=1e-4)


def test_a_teacher_with_other_tokens_is_refused_in_one_line(base, tmp_path):
    folder = prepared(base, tmp_path / "run", "distill", 1, teacher={"path": "embedded:tiny-llama"})
    recipe = recipes.load([str(folder / "config.yaml")])
    with pytest.raises(UserError) as caught:
        distill.run(recipe, folder)
    [line] = caught.value.problems
    assert line.startswith("teacher.path: embedded:tiny-llama: ") and "use a teacher of the student's family" in line


def test_the_samples_are_kept(base, teacher, tmp_path):
    folder = run(base, teacher, tmp_path / "run", max_steps=1)
    [file] = sorted((folder / "samples").glob("step_*.jsonl"))
    assert len(storage.read_jsonl(file)) == 32
