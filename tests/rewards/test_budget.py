"""The rewards for a budget in the prompt: L1's exact one, and the one for a maximum."""

import pytest

from r1lab.errors import UserError
from r1lab.grading import grader
from r1lab.rewards import budget_reward


def score(length, right, budget=100, **settings):
    given = {"completion_ids": [[7] * length], "right": [right], "budget": [budget]}
    return budget_reward([""], **given, **settings)[0]


def test_exact_is_right_less_the_distance_in_both_directions():
    assert score(100, True) == 1 and score(100, False) == 0
    assert score(80, True, alpha=0.01) == pytest.approx(0.8) == score(120, True, alpha=0.01)
    assert score(150, False, alpha=0.01) == pytest.approx(-0.5)
    assert score(80, True).reason == "right: 80 of 100"


def test_at_most_prefers_shorter_right_ones_and_gives_wrong_ones_nothing():
    assert score(100, True, mode="at_most") == 0.5
    lengths = [0, 60, 100, 140, 400]
    values = [score(length, True, mode="at_most", alpha=0.01) for length in lengths]
    assert values == pytest.approx([1.0, 0.9, 0.5, 0.1, 0.0])
    assert {score(length, False, mode="at_most") for length in lengths} == {0}


def test_a_row_without_a_budget_has_no_value():
    assert score(10, True, budget=None) is None


def test_it_comes_after_the_reward_that_decides():
    specs = [{"name": "exact_match", "weight": 0.0}, {"name": "budget", "alpha": 0.1}]
    row = {"prompt": "?", "answer": "7", "budget": 3}
    graded = grader.build(specs).grade(["7", "8"], [row, row], [[1, 2], [1, 2, 3]])
    assert graded.totals == pytest.approx([0.9, 0.0]) and graded.right == [True, False]
    with pytest.raises(UserError, match="put it after a reward that decides"):
        grader.build(specs[1:]).grade(["7"], [row], [[1]])
    with pytest.raises(UserError, match="needs the column budget"):
        grader.build(specs).grade(["7"], [{"prompt": "?", "answer": "7"}], [[1]])


def test_settings():
    with pytest.raises(UserError, match="^rewards: budget: mode: 'most' is not exact or at_most"):
        score(1, True, mode="most")
    with pytest.raises(UserError, match="^rewards: budget: alpha: 0 is not a number above 0"):
        score(1, True, alpha=0)
