"""The recipe of a distill stage: what it accepts and refuses."""

import json
from pathlib import Path

import pytest

from r1lab.errors import UserError
from r1lab.models.loading import EMBEDDED
from r1lab.recipe import loading, references
from r1lab.recipe.schema import GrpoRecipe, on_policy

DISTILL = """\
stage: distill
model: {path: "embedded:tiny-qwen2"}
teacher: {path: "embedded:tiny-qwen2"}
data: {builder: knights_knaves, people: [2, 3], size: 40}
rewards:
  - {name: knights_knaves, mode: strict}
rollout: {engine: transformers}
train: {learning_rate: 1e-4, per_device_train_batch_size: 16}
"""


def problem(*sources):
    with pytest.raises(UserError) as caught:
        loading.load(list(sources), inputs=True)
    [line] = caught.value.problems
    return line


def test_it_is_a_grpo_stage_with_a_teacher(write):
    recipe = loading.load([write(DISTILL)], inputs=True)
    assert isinstance(recipe, GrpoRecipe) and on_policy(recipe.stage)
    assert recipe.distill.model_dump() == {"exact": True, "beta": 1.0, "reward_weight": 0.0}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("distill.exact=false distill.beta=0.5", "there is only the reverse KL: set exact: true, or beta: 1.0"),
        ("train.entropy_coef=0.1", "whose loss comes from a teacher: remove it"),
        ("train.delta=2.0", "whose loss comes from a teacher: remove it"),
        ("train.loss_type=cispo", "no such choice"),
        ("distill.beta=1.5", "should be at most 1.0"),
        ("teacher.path=scratch:tiny-qwen2", "random weights teach nothing"),
        ("teacher.path=./none", "no such folder"),
        ("teacher.path=@base/model", "only a stage of a pipeline can refer to another stage"),
        ("teacher.url=http://x", "a server scores tokens, and has no distributions: set distill.exact: false"),
        (
            "teacher.url=http://x distill.exact=false rollout.temperature=0.7",
            "a server scores tokens at temperature 1",
        ),
        ("teacher.address=http://x", "unknown key"),
    ],
)
def test_settings_that_do_not_fit_are_refused(write, setting, expected):
    assert expected in problem(write(DISTILL), *setting.split())


def test_a_teacher_is_the_model_of_an_earlier_stage(write):
    text = """\
model: {path: "embedded:tiny-qwen2"}
data: {builder: knights_knaves, people: [2, 3], size: 40}
rewards: [{name: knights_knaves}]
rollout: {engine: transformers}
stages:
  - {name: zero, stage: grpo, train: {per_device_train_batch_size: 16}}
  - {name: student, stage: distill, teacher: {path: "@zero/model"}, train: {per_device_train_batch_size: 16}}
"""
    recipe = loading.load([write(text)])
    assert recipe.stages[1].teacher.path == "@zero/model"
    assert "no such stage" in problem(write(text.replace("@zero", "@zeros")))
    assert "should be @STAGE/model" in problem(write(text.replace("zero/model", "zero/samples")))


def test_scaled_down_the_teacher_has_the_tokens_of_the_student(write):
    given = DISTILL.replace('model: {path: "embedded:tiny-qwen2"}', "model: {path: meta-llama/Llama-3.1-8B}")
    given = given.replace('teacher: {path: "embedded:tiny-qwen2"}', "teacher: {path: meta-llama/Llama-3.1-70B}")
    recipe = loading.load([write(given)], tiny=True, quiet=True)
    assert recipe.model.path == recipe.teacher.path == "embedded:tiny-llama"


@pytest.fixture
def adapter(tmp_path):
    """Writes the config of an adapter of tiny-qwen2, with changes to it; returns its folder."""

    def make(**changes):
        base = str(EMBEDDED / "tiny-qwen2")
        config = {"peft_type": "LORA", "target_modules": ["q_proj"], "base_model_name_or_path": base} | changes
        folder = tmp_path / "adapter"
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(config))
        (folder / "adapter_model.safetensors").write_bytes(b"")
        return folder

    return make


LORA = "model.lora={r: 4}"


def test_a_teacher_shares_the_base_of_a_student_with_an_adapter(write, adapter):
    shared = f"teacher={{path: {adapter()}, share_base: true}}"
    recipe = loading.load([write(DISTILL), shared, LORA], inputs=True)
    assert recipe.teacher.share_base and on_policy(recipe.stage)
    all_weights = problem(write(DISTILL), shared)
    assert "teacher.share_base: true: the student trains all weights, so its base would move" in all_weights
    assert all_weights.endswith("set model.lora, or remove share_base, to load the teacher as a second model")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"base_model_name_or_path": "Qwen/Qwen3-8B"}, "is an adapter of Qwen/Qwen3-8B, and the student's base is /"),
        ({"revision": "abc"}, "tiny-qwen2 (abc), and the student's base is /"),
        ({"peft_type": "IA3"}, "is an adapter of the kind IA3, and the student's is LORA"),
        ({"target_modules": ["lm_head"]}, "changes more of the base than its linear layers (lm_head)"),
        ({"modules_to_save": ["embed_tokens"]}, "more of the base than its linear layers (modules_to_save)"),
        ({"bias": "all"}, "changes more of the base than its linear layers (bias: all)"),
    ],
)
def test_an_adapter_that_cannot_share_the_students_base_is_refused(write, adapter, changes, expected):
    line = problem(write(DISTILL), f"teacher={{path: {adapter(**changes)}, share_base: true}}", LORA)
    assert expected in line and line.endswith("remove share_base, to load the teacher as a second model")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("teacher.path=embedded:tiny-qwen2", "is not the folder of a LoRA adapter"),
        ("teacher.dtype=float32", "is that of the student's base with share_base: remove one of them"),
        ("teacher.url=http://x/v1 distill.exact=false", "has the teacher's whole model with share_base: remove one"),
    ],
)
def test_settings_that_do_not_fit_a_shared_base_are_refused(write, adapter, setting, expected):
    shared = f"teacher={{path: {adapter()}, share_base: true}}"
    assert expected in problem(write(DISTILL), LORA, shared, *setting.split())


def test_in_a_pipeline_a_shared_teacher_is_the_adapter_of_an_earlier_stage(write):
    text = """\
model: {path: "embedded:tiny-qwen2", lora: {r: 4}}
data: {builder: knights_knaves, people: [2, 3], size: 40}
rewards: [{name: knights_knaves}]
rollout: {engine: transformers}
stages:
  - {name: zero, stage: grpo, train: {per_device_train_batch_size: 16}}
  - name: student
    stage: distill
    teacher: {path: "@zero/adapter", share_base: true}
    train: {per_device_train_batch_size: 16}
"""
    recipe = loading.load([write(text)])
    assert recipe.stages[1].teacher.path == "@zero/adapter"
    assert (
        references.with_folders({"path": "@zero/adapter"}, {"zero": Path("/runs/zero")})["path"]
        == "/runs/zero/adapter"
    )
    assert "should be @STAGE/adapter" in problem(write(text.replace("zero/adapter", "zero/model")))
    assert "should be @STAGE/model" in problem(write(text.replace(", share_base: true", "")))
    whole = text.replace("stage: grpo,", 'stage: grpo, model: {path: "embedded:tiny-qwen2", lora: null},')
    assert "@zero/adapter: zero trains all weights and has no adapter: set model.lora there" in problem(write(whole))
