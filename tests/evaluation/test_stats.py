"""Properties of the figures that are reported."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1lab.evaluation import stats

RIGHT_OR_WRONG = st.integers(0, 1)
SCORES = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(RIGHT_OR_WRONG, min_size=n, max_size=n), min_size=1, max_size=8)
)
SHARES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=40)


@given(SCORES)
def test_pass_at_k_is_the_mean_over_all_subsets(scores):
    for k in range(1, len(scores[0]) + 1):
        subsets = [[max(subset) for subset in combinations(samples, k)] for samples in scores]
        assert stats.pass_at_k(scores, k) == pytest.approx(np.mean([np.mean(s) for s in subsets]))


@given(SCORES)
def test_pass_at_1_is_the_average_and_more_samples_never_hurt(scores):
    values = [stats.pass_at_k(scores, k) for k in range(1, len(scores[0]) + 1)]
    assert values[0] == pytest.approx(stats.avg_at_n(scores))
    assert all(b >= a - 1e-12 for a, b in pairwise(values))


@pytest.mark.parametrize("k", [0, 3])
def test_pass_at_k_refuses_more_samples_than_there_are(k):
    with pytest.raises(ValueError, match="pass@"):
        stats.pass_at_k([[1, 0]], k)


@given(SCORES, st.randoms(use_true_random=False))
def test_majority_does_not_depend_on_the_order_of_samples(scores, random):
    answers = [[random.choice(["a", "b", None]) for _ in samples] for samples in scores]
    value = stats.maj_at_n(answers, scores)
    order = list(range(len(scores[0])))
    random.shuffle(order)
    shuffled = [[[row[i] for i in order] for row in table] for table in (answers, scores)]
    assert stats.maj_at_n(*shuffled) == pytest.approx(value)
    assert 0 <= value <= 1


@given(SCORES)
def test_majority_of_one_answer_is_the_average(scores):
    assert stats.maj_at_n([["a"] * len(s) for s in scores], scores) == pytest.approx(stats.avg_at_n(scores))


def test_majority_outvotes_a_wrong_sample_and_ignores_missing_answers():
    assert stats.maj_at_n([["x", "x", "y"]], [[1, 1, 0]]) == 1
    assert stats.maj_at_n([[None, None, "y"]], [[0, 0, 1]]) == 1
    assert stats.maj_at_n([[None, None]], [[0, 0]]) == 0


@given(SHARES)
def test_interval_holds_the_mean_stays_in_range_and_has_a_width(values):
    low, high = stats.mean_ci95(values, resamples=200)
    assert low - 0.1 <= np.mean(values) <= high + 0.1
    assert 0 <= low <= high <= 1
    assert low < high or len(set(values)) > 1


@given(st.lists(RIGHT_OR_WRONG, min_size=1, max_size=60))
def test_right_or_wrong_gets_wilsons_interval(values):
    low, high = stats.mean_ci95(values)
    share, n = np.mean(values), len(values)
    # Wilson's interval is where |share - p| = z sqrt(p (1 - p) / n).
    for p in (low, high):
        assert abs(share - p) == pytest.approx(stats.Z * np.sqrt(p * (1 - p) / n), abs=1e-9)


@given(SHARES, st.integers(0, 3))
def test_intervals_are_seeded(values, seed):
    assert stats.mean_ci95(values, seed=seed, resamples=50) == stats.mean_ci95(values, seed=seed, resamples=50)


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 2), min_size=1, max_size=40))
def test_paired_difference_turns_its_sign_when_turned_round(pairs):
    before, after = map(list, zip(*pairs, strict=True))
    diff, (low, high) = stats.paired_diff(before, after, resamples=200)
    back, (back_low, back_high) = stats.paired_diff(after, before, resamples=200)
    assert diff == pytest.approx(np.mean(after) - np.mean(before))
    assert back == pytest.approx(-diff)
    assert (low, high) == pytest.approx((-back_high, -back_low))
    assert -1 <= low <= high <= 1


def test_paired_interval_is_narrower_than_unpaired_where_questions_differ():
    difficulty = np.linspace(0, 0.8, 50)
    diff, (low, high) = stats.paired_diff(difficulty, difficulty + 0.1 + 0.02 * np.sin(np.arange(50)))
    assert diff == pytest.approx(0.1, abs=0.01)
    assert 0.08 < low < high < 0.12


def test_nothing_changed_is_not_certainty():
    diff, (low, high) = stats.paired_diff([1, 0, 1], [1, 0, 1])
    assert diff == 0
    assert low < -0.3 and high > 0.3


@pytest.mark.parametrize("other", [0.0, 1 / 64, 0.25])
def test_one_question_unlike_the_rest_is_hardly_more_certain_than_none(other):
    unseen = stats.Z**2 / (30 + stats.Z**2)
    low, high = stats.mean_ci95([0.0] * 29 + [other])
    assert low == 0 and high >= unseen
    low, high = stats.mean_ci95([1.0] * 29 + [1 - other])
    assert low <= 1 - unseen and high == pytest.approx(1)
    _, (low, high) = stats.paired_diff([0.0] * 30, [0.0] * 29 + [other])
    assert low < -0.1 and high > 0.1


def test_paired_difference_refuses_other_questions():
    with pytest.raises(ValueError, match="2 before, 1 after"):
        stats.paired_diff([0, 1], [1])
    with pytest.raises(ValueError, match="at least one question"):
        stats.mean_ci95([])


def test_student_t_is_that_of_the_tables():
    table = {5: 2.5706, 10: 2.2281, 29: 2.0452, 60: 2.0003, 99: 1.9842, 499: 1.9647}
    for freedom, value in table.items():
        assert stats.t_quantile(freedom) == pytest.approx(value, abs=1e-3)
    assert 0.005 < stats.expanded_tail(10) < stats.expanded_tail(30) < stats.expanded_tail(10_000) < 0.025


@pytest.mark.parametrize("clusters", [30, 100, 400])
def test_the_interval_covers_the_truth_in_about_95_of_100_evaluations(clusters):
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(400):
        chance = generator.beta(0.5, 0.7, size=clusters)
        scores = generator.random((clusters, 4)) < chance[:, None]
        low, high = stats.mean_ci95(stats.question_means(scores), seed=trial, resamples=400)
        hits += low <= 0.5 / 1.2 <= high
    assert 368 <= hits <= 392  # three standard errors around 380


def test_memory_and_time_stay_small_with_many_questions():
    low, high = stats.mean_ci95(np.random.default_rng(0).random(20_000), resamples=300)
    assert 0.49 < low < high < 0.51
