"""A distill stage from end to end: it approaches its teacher, resumes, and refuses a teacher with other tokens."""

import json
import shutil

import pytest
import torch

from r1lab.errors import UserError
from r1lab.models import loading
from r1lab.recipe import loading as recipes
from r1lab.rundir import storage
from r1lab.stages import distill
from tests.grpo.test_teacher_server import serve  # noqa: F401
from tests.stages.several_ranks import logs, prepared, train_rows, updates, weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher(base):
    """The folder of a model like the base, whose distributions are less flat, with its tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = base / "teacher"
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(base / "start", initializer_range=0.15)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    loading.load_tokenizer(str(base / "start")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base):
    """The folder of an adapter of the base, with larger matrices than a short training gives."""
    from peft import LoraConfig, get_peft_model

    model = loading.load_model(str(base / "start"), dtype="float32")
    torch.manual_seed(2)
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    adapted.peft_config["default"].base_model_name_or_path = loading.recorded(str(base / "start"))
    adapted.save_pretrained(base / "adapter", save_embedding_layers=False)
    return base / "adapter"


def of(teacher):
    """The section `teacher` of a recipe: an adapter shares the base of the student."""
    return {"path": str(teacher)} | ({"share_base": True} if teacher.name == "adapter" else {"dtype": "float32"})


def run(base, teacher, folder, stage="distill", **train):
    folder = prepared(base, folder, stage, 1, train=train, teacher=of(teacher))
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


@pytest.mark.parametrize("kind", ["teacher", "adapter"])
def test_a_resumed_run_is_the_same_run(request, base, kind, tmp_path):
    given, stage = request.getfixturevalue(kind), "distill-lora" if kind == "adapter" else "distill"
    whole = run(base, given, tmp_path / "whole", stage, save_strategy="steps", save_steps=2)
    part = tmp_path / "part"
    part.mkdir()
    shutil.copytree(whole / "checkpoints" / "checkpoint-2", part / "checkpoints" / "checkpoint-2")
    run(base, given, part, stage, save_strategy="steps", save_steps=2)
    assert [row["step"] for row in train_rows(part)] == [3]
    assert (weights(part / "model") == weights(whole / "model")).all()
    assert train_rows(part)[0]["teacher"] == train_rows(whole)[2]["teacher"]


def test_a_student_is_saved_without_its_teachers_adapter(base, adapter, tmp_path):
    folder = run(base, adapter, tmp_path / "run", "distill-lora", save_strategy="steps", save_steps=2)
    checkpoint = folder / "checkpoints" / "checkpoint-2"
    assert not list(folder.glob("**/teacher")) and (checkpoint / "adapter_model.safetensors").is_file()
    ours = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert ours["r"] == 4 and loading.unshared(str(folder / "adapter"), str(base / "start")) is None
    merged = loading.load_model(str(folder / "adapter"), dtype="float32").state_dict()
    saved = loading.load_model(str(folder / "model"), dtype="float32").state_dict()
    assert all((saved[name] - merged[name]).abs().max() < 1e-6 for name in merged)
    assert train_rows(folder)[0]["teacher"]["divergence"] > 1e-3


def test_each_tokenizer_is_loaded_once(base, teacher, adapter, tmp_path, monkeypatch):
    loaded, plain = [], loading.load_tokenizer
    monkeypatch.setattr(loading, "load_tokenizer", lambda path, **more: loaded.append(path) or plain(path, **more))
    run(base, teacher, tmp_path / "second", max_steps=1)
    assert loaded == [str(base / "start"), str(teacher)]
    run(base, adapter, tmp_path / "shared", "distill-lora", max_steps=1)
    assert loaded[2:] == [str(base / "start")]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("kind", ["teacher", "adapter"])
def test_two_ranks_train_as_one(request, base, kind, tmp_path, start, strategy):
    stage, more = "distill-lora" if kind == "adapter" else "distill", {"teacher": of(request.getfixturevalue(kind))}
    one, two = (prepared(base, tmp_path / str(n), stage, n, strategy=strategy, **more) for n in (1, 2))
    assert start(1, [one]) == [0] and start(2, [two]) == [0, 0], logs(one) + logs(two)
    assert updates(two)
    difference = (weights(two / "model") - weights(one / "model")).norm() / weights(one / "model").norm()
    assert difference < 1e-5
    for ours, theirs in zip(train_rows(two), train_rows(one)):
        assert ours["teacher"]["divergence"] == pytest.approx(theirs["teacher"]["divergence"], rel=1e-4)


def test_a_teacher_behind_a_server_trains_as_one_in_memory(base, teacher, tmp_path, serve):  # noqa: F811
    model = loading.load_model(str(teacher), dtype="float32")

    @torch.no_grad()
    def score(ids):
        return model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)

    url, asked = serve(score=score)
    folders = []
    for name, more in (("memory", {"dtype": "float32"}), ("served", {"url": url})):
        settings = {"distill": {"exact": False, "reward_weight": 0.5}, "teacher": {"path": str(teacher), **more}}
        folders.append(prepared(base, tmp_path / name, "distill", 1, **settings))
        assert distill.run(recipes.load([str(folders[-1] / "config.yaml")]), folders[-1]) == 0
    one, two = (weights(folder / "model") for folder in folders)
    assert (two - one).norm() < 1e-5 * one.norm() and len(asked) == 3 * 32
    for ours, theirs in zip(*map(train_rows, folders)):
        assert ours["teacher"]["kl"] == pytest.approx(theirs["teacher"]["kl"], rel=1e-4)


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
