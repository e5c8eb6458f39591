"""LiMem by hand, in closed form, and with an interval that holds what it should."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1lab.evaluation import stats
from r1lab.evaluation.memorization import limem

PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


def test_by_hand():
    # Six of ten are solved, and the twins of two of the six: CR = 1/3, LiMem = 0.6 (1 - 1/3) = 0.4.
    solved, twin_solved = [1, 1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 1, 1, 0, 0]
    found = limem(solved, twin_solved)
    assert (found["n_pairs"], found["acc"]) == (10, 0.6)
    assert found["cr"] == pytest.approx(1 / 3) and found["limem"] == pytest.approx(0.4)
    assert found["ci95"] == list(stats.mean_ci95([0, 0, 1, 1, 1, 1, 0, 0, 0, 0]))


@given(PAIRS)
def test_the_published_formula_is_the_share_solved_whose_twin_is_not(pairs):
    solved, twin_solved = zip(*pairs)
    found = limem(solved, twin_solved)
    acc = sum(solved) / len(solved)
    if acc:
        cr = sum(p and q for p, q in pairs) / sum(solved)
        assert found["cr"] == pytest.approx(cr) and found["limem"] == pytest.approx(acc * (1 - cr))
    else:
        assert found["cr"] is None and found["limem"] == 0
    assert found["ci95"][0] <= found["limem"] <= found["ci95"][1]


def test_who_knows_all_by_heart_and_who_nothing():
    assert limem([1] * 50, [0] * 50)["limem"] == 1.0
    assert limem([1] * 50, [1] * 50)["limem"] == 0.0
    assert limem([0.5] * 4, [0.5] * 4)["limem"] == 0.25  # unsure, not memorising


def test_samples_give_the_chances_and_the_interval_covers():
    """Of 40 puzzles with 4 samples each, LiMem is unbiased, and its interval holds the truth nine times in ten."""
    rng = np.random.default_rng(0)
    p, q = rng.uniform(0.2, 1.0, 40), rng.uniform(0.0, 0.8, 40)
    truth, values, held = float((p * (1 - q)).mean()), [], 0
    for _ in range(100):
        drawn = [limem(rng.binomial(4, p) / 4, rng.binomial(4, q) / 4)]
        values += [found["limem"] for found in drawn]
        held += sum(found["ci95"][0] <= truth <= found["ci95"][1] for found in drawn)
    assert abs(np.mean(values) - truth) < 4 * np.std(values) / 10
    assert held >= 90


@pytest.mark.parametrize(("solved", "twins"), [([], []), ([1], [1, 0]), ([1.5], [0]), ([1], [-1]), ([[1]], [[0]])])
def test_values_that_are_no_pairs_of_chances(solved, twins):
    with pytest.raises(ValueError, match="one value|outside"):
        limem(solved, twins)
