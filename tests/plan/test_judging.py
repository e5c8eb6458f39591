"""Models that rewards load, in a plan."""

import pytest

from r1lab import plan
from r1lab.plan import gpus, judging
from r1lab.recipe import loading as recipes
from r1lab.rundir import storage

GPU = gpus.find("h100")
RECIPE = {
    "name": "s",
    "stage": "grpo",
    "model": {"path": "embedded:smollm2-135m"},
    "data": {"builder": "countdown", "size": 64},
    "rewards": [{"name": "countdown"}],
    "rollout": {"engine": "transformers", "num_generations": 8, "max_completion_length": 64},
    "train": {"max_steps": 10},
}
FLUENCY = {"name": "fluency", "model": "Qwen/Qwen2.5-7B"}


@pytest.fixture
def load(tmp_path):
    """Loads a recipe from a dictionary."""

    def of(recipe):
        storage.write_yaml(tmp_path / "recipe.yaml", recipe)
        return recipes.load([str(tmp_path / "recipe.yaml")])

    return of


@pytest.fixture
def stage_with(load):
    """Plans the recipe with more rewards."""
    return lambda *rewards: plan.plan(load(RECIPE | {"rewards": [*RECIPE["rewards"], *rewards]}), device=GPU).stages[0]


def test_a_model_of_a_reward_takes_memory_and_time(stage_with):
    without, once = stage_with(), stage_with(FLUENCY)
    assert once.peak.rewards == pytest.approx(7.6e9 * 2, rel=0.01) and without.peak.rewards == 0
    assert once.seconds > without.seconds
    assert stage_with(FLUENCY, FLUENCY | {"weight": 0.1}).peak == once.peak  # loaded once per process


def test_a_model_that_cannot_be_read_is_an_assumption(stage_with):
    stage = stage_with(FLUENCY | {"model": "./nothing-here"})
    assert stage.peak.rewards == 0
    assert any("nothing-here" in line and "not counted" in line for line in stage.assumed)


def test_a_model_of_an_earlier_stage_has_its_shape(load):
    first = load(RECIPE | {"name": "first"})
    second = load(RECIPE | {"rewards": [FLUENCY]})
    second.rewards[0].parameters["model"] = "@first/model"
    (shape,) = judging.models(second, {"first": first}).values()
    assert shape and shape.layers == 30


def test_an_evaluation_counts_the_questions_and_answers_of_each_task(load):
    tasks = [{"builder": "countdown", "size": 10, "num_samples": 3}, {"name": "b", "builder": "countdown"}]
    evaluation = {"tasks": tasks, "size": 100, "num_samples": 2, "greedy": True}
    recipe = {key: RECIPE[key] for key in ("name", "model", "rewards")} | {
        "stage": "eval",
        "rollout": {"engine": "transformers", "max_completion_length": 64},
        "eval": evaluation,
    }
    stage = plan.plan(load(recipe), device=GPU).stages[0]
    assert stage.completions == 10 * (3 + 1) + 100 * (2 + 1)
