"""What the curve of accuracy against thinking tokens says of two models."""

import random

import pytest

from r1lab.evaluation import curves


def question(points: list[tuple[int, float]]) -> dict:
    """A question's record with thinking tokens and a score at each budget, and last without one."""
    parts = [{"budget": tokens, "thinking": [tokens], "lenient": [score]} for tokens, score in points]
    return parts[-1] | {"budgets": parts[:-1]}


def test_the_tokens_that_are_saved_at_the_same_accuracy():
    slow = [question([(0, 0.0), (40, 0.5), (80, 1.0)])] * 50
    fast = [question([(0, 0.5), (20, 1.0)])] * 50
    found = curves.thinking_saved(slow, fast)
    assert found == {"lenient": 1.0, "before": 80.0, "after": 20.0, "saved": 60.0, "saved_ci95": [60.0, 60.0]}
    worse = [question([(0, 0.0), (10, 0.75)])] * 50  # less accurate: compared at what it reaches
    assert curves.thinking_saved(slow, worse) == {
        "lenient": 0.75, "before": 60.0, "after": 10.0, "saved": 50.0, "saved_ci95": [50.0, 50.0],
    }  # fmt: skip
    assert curves.thinking_saved(fast, slow)["saved"] == -60


def test_a_curve_that_starts_high_needs_what_its_first_point_has():
    flat, rising = [question([(3, 1.0), (30, 0.5)])] * 50, [question([(0, 0.0), (10, 0.5)])] * 50
    assert curves.thinking_saved(rising, flat)["after"] == 3


def test_the_interval_of_saved_tokens_covers_them_and_narrows():
    def drawn(count: int, tokens: int, seed: int) -> list[dict]:
        rng = random.Random(seed)
        return [
            question([(0, float(rng.random() < 0.25)), (tokens, float(rng.random() < 0.75))]) for _ in range(count)
        ]

    covered, widths = 0, {100: [], 900: []}
    for count, found in widths.items():
        for seed in range(12):
            one = curves.thinking_saved(drawn(count, 60, seed), drawn(count, 30, 1000 + seed), resamples=100)
            covered += one["saved_ci95"][0] <= 30 <= one["saved_ci95"][1]
            found.append(one["saved_ci95"][1] - one["saved_ci95"][0])
    assert covered >= 19  # of 24; the lower of two accuracies is a biased level
    assert sum(widths[900]) < 0.6 * sum(widths[100])


def test_saved_tokens_need_the_same_questions():
    with pytest.raises(ValueError, match="same questions: 2 before, 1 after"):
        curves.thinking_saved([question([(0, 1)])] * 2, [question([(0, 1)])])
