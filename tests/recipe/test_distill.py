"""The recipe of a distill stage: what it accepts and refuses."""

import pytest

from r1lab.errors import UserError
from r1lab.recipe import loading
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
