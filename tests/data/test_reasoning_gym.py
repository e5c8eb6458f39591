"""Reasoning Gym's tasks: no question in both splits, the gold answer scores, mistakes are told in one line."""

import importlib.util
import json

import pytest

from r1lab.data import reasoning_gym
from r1lab.errors import UserError

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="needs reasoning-gym (an extra)"
)


def test_without_the_package_it_says_what_to_type(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="reasoning-gym is not installed: pip install reasoning-gym") as caught:
        reasoning_gym(dataset="leg_counting")
    assert len(caught.value.problems) == 1


@needs_package
@pytest.mark.parametrize("dataset", ["leg_counting", "chain_sum", "knights_knaves", "countdown"])
def test_splits_and_seeds(dataset):
    rows = reasoning_gym(dataset=dataset, size=60, seed=1)
    assert rows == reasoning_gym(dataset=dataset, size=60, seed=1) and rows[:9] == reasoning_gym(
        dataset=dataset, size=9, seed=1
    )
    train = {row["prompt"] for seed in range(3) for row in reasoning_gym(dataset=dataset, size=200, seed=seed)}
    test = {
        row["prompt"] for seed in range(3) for row in reasoning_gym(dataset=dataset, size=50, seed=seed, split="test")
    }
    assert len(train) > 300 and not train & test
    assert {row["task"] for row in rows} == {f"reasoning_gym/{dataset}"}
    assert {json.loads(row["metadata"])["source_dataset"] for row in rows} == {dataset}


@needs_package
def test_gold_answers_score_full_marks():
    from r1lab.rewards import reasoning_gym_reward

    rows = reasoning_gym(dataset="leg_counting", size=8)
    turns = [f"<think> Count. </think> <answer> {row['answer']} </answer>" for row in rows]
    columns = {key: [row[key] for row in rows] for key in ("answer", "metadata")}
    assert reasoning_gym_reward(turns, **columns) == [1.0] * 8


@needs_package
def test_mistakes():
    for given, said in (
        ({"dataset": "leg_countin"}, r"no such data set \(did you mean `leg_counting`\?\)"),
        (
            {"dataset": "leg_counting", "max_animal": 3},
            r"max_animal: unknown parameter \(did you mean `max_animals`\?\)",
        ),
        (
            {"dataset": "leg_counting", "min_animals": 9, "max_animals": 3},
            "leg_counting: min_animals: 9, max_animals: 3:",
        ),
    ):
        with pytest.raises(UserError, match=said):
            reasoning_gym(size=2, **given)


@needs_package
def test_a_set_whose_scorer_does_not_survive_json_is_refused():
    with pytest.raises(UserError, match="rearc: its scorer does not read its metadata back from JSON"):
        reasoning_gym(dataset="rearc", size=2)
