"""The statistics of an evaluation: avg@n, pass@k, maj@n, 95 % intervals and paired differences.

Scores are lists of lists, one inner list per question, with one number in [0, 1] per sample. Intervals resample
questions, because four samples of one question are not four independent observations. See Miller 2024, *Adding Error
Bars to Evals* (arXiv:2411.00640), sections 2 and 4.
"""

from collections import Counter
from collections.abc import Sequence
from math import comb, sqrt
from statistics import NormalDist, fmean, stdev

import numpy as np

__all__ = ["avg_at_n", "maj_at_n", "mean_ci95", "paired_diff", "pass_at_k", "question_means"]

Z = 1.959963984540054  # the 97.5 % point of the standard normal distribution
RESAMPLES = 4000
FEW = 5  # a bootstrap is reliable only if this number of questions differ from the rest, as for a normal interval
_CHUNK = 2_000_000  # random numbers drawn at once, which limits memory to about 16 MB for any number of questions


def question_means(scores: Sequence[Sequence[float]]) -> np.ndarray:
    """The mean score of each question, shape `(questions,)`.

    >>> question_means([[1, 0, 0, 1], [1, 1]]).tolist()
    [0.5, 1.0]
    """
    if not len(scores) or not all(len(samples) for samples in scores):
        raise ValueError("no scores: at least one question with at least one sample each is needed")
    return np.array([np.mean(samples) for samples in scores], dtype=float)


def avg_at_n(scores: Sequence[Sequence[float]]) -> float:
    """Mean over questions of the mean over samples.

    >>> avg_at_n([[1, 0], [1, 1]])
    0.75
    """
    return float(question_means(scores).mean())


def pass_at_k(scores: Sequence[Sequence[float]], k: int) -> float:
    """Unbiased estimate of the probability that at least one of k samples is correct (Chen et al. 2021, eq. 1).

    With n samples of a question, c of them correct, it is `1 - C(n - c, k) / C(n, k)`, averaged over questions. A
    sample is correct if its score is at least 1.

    Raises:
        ValueError: k is below 1, or a question has fewer than k samples.

    >>> pass_at_k([[1, 0, 0, 0]], k=2)
    0.5
    """
    question_means(scores)
    if not 1 <= k <= min(map(len, scores)):
        raise ValueError(f"pass@{k} needs 1 <= k <= number of samples, which is {min(map(len, scores))}")
    rights = [(len(samples), sum(score >= 1 for score in samples)) for samples in scores]
    return float(np.mean([1 - comb(n - c, k) / comb(n, k) for n, c in rights]))


def pass_hat_k(scores: Sequence[Sequence[float]], k: int) -> float:
    """Unbiased estimate of the probability that all of k samples are correct (tau-bench, arXiv:2406.12045, section 4).

    Raises:
        ValueError: k is below 1, or a question has fewer than k samples.

    >>> pass_hat_k([[1, 1, 0], [1, 1, 1]], 2)
    0.6666666666666666
    """
    question_means(scores)
    if not 1 <= k <= min(map(len, scores)):
        raise ValueError(f"pass^{k} needs 1 <= k <= number of samples, which is {min(map(len, scores))}")
    return float(np.mean([comb(sum(s >= 1 for s in some), k) / comb(len(some), k) for some in scores]))


def maj_at_n(answers: Sequence[Sequence[str | None]], scores: Sequence[Sequence[float]]) -> float:
    """Mean score of the most frequent answer to each question (Wang et al. 2022, self-consistency).

    A sample without an answer (None) has no vote; a question without votes scores 0. Tied answers share the question
    equally, so the result does not depend on the order of the samples. The score of an answer is the mean over the
    samples with this answer.

    >>> maj_at_n([["a", "a", "b"], ["a", "b", None]], [[1, 1, 0], [1, 0, 0]])
    0.75
    """
    question_means(scores)
    if [len(samples) for samples in answers] != [len(samples) for samples in scores]:
        raise ValueError("answers and scores must have the same shape")
    return float(np.mean([_majority_score(*question) for question in zip(answers, scores, strict=True)]))


def _majority_score(answers: Sequence[str | None], scores: Sequence[float]) -> float:
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]
    by_answer = [[s for a, s in zip(answers, scores, strict=True) if a == winner] for winner in tied]
    return float(np.mean([np.mean(of_winner) for of_winner in by_answer]))


def mean_ci95(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % interval of the mean of one value per question (a 0/1 score, or the mean of its samples).

    Values that are all 0 or 1 get Wilson's interval, which is accurate near 0 and 1. Other values get an expanded
    percentile bootstrap over questions (docs/results/intervals.md compares it with others). If fewer than `FEW` values
    in [0, 1] differ from the rest, resamples hardly differ either, so the interval is at least as wide as Wilson's at
    0 and 1: up to a share z²/(n + z²) of unseen values may be anything.

    >>> low, high = mean_ci95([0.0] * 100)
    >>> (round(low, 3), round(high, 3))
    (0.0, 0.037)
    """
    checked = _checked(values)
    if np.isin(checked, (0.0, 1.0)).all():
        return _wilson(float(checked.mean()), len(checked))
    return _interval(checked, 0.0, 1.0, seed, resamples)


def paired_diff(
    before: Sequence[float], after: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, tuple[float, float]]:
    """Mean of `after - before` over the same questions in the same order, and its 95 % interval.

    The interval is an expanded percentile bootstrap over questions of the differences, which removes the variance from
    differences in difficulty between questions. If fewer than `FEW` questions changed differently from the rest, it
    allows up to a share z²/(n + z²) of unseen questions to have changed by any value in [-1, 1].

    Raises:
        ValueError: The lists differ in length, or are empty.

    >>> diff, (low, high) = paired_diff([0.0, 0.5, 0.25, 0.0] * 5, [0.5, 0.75, 1.0, 0.5] * 5)
    >>> diff, low > 0
    (0.5, True)
    """
    old, new = _checked(before), _checked(after)
    if len(old) != len(new):
        raise ValueError(f"paired values must be for the same questions: {len(old)} before, {len(new)} after")
    change = new - old
    return float(change.mean()), _interval(change, -1.0, 1.0, seed, resamples)


def over_runs(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean of one value per training run, such as a gain per seed, and its 95 % interval by Student's t.

    It holds what differs from one training to the next, which an interval over the questions of one run does not.

    Raises:
        ValueError: There are fewer than two values.

    >>> mean, (low, high) = over_runs([0.1, 0.2, 0.3])
    >>> round(mean, 2), round(low, 2), round(high, 2)
    (0.2, -0.05, 0.45)
    """
    if len(values) < 2:
        raise ValueError("an interval over runs needs at least two of them")
    mean = fmean(values)
    half = t_quantile(len(values) - 1) * stdev(values) / sqrt(len(values))
    return mean, (mean - half, mean + half)


def _checked(values: Sequence[float]) -> np.ndarray:
    checked = np.asarray(values, dtype=float)
    if checked.ndim != 1 or not len(checked):
        raise ValueError("one value per question is needed, and at least one question")
    return checked


def _interval(values: np.ndarray, lowest: float, highest: float, seed: int, resamples: int) -> tuple[float, float]:
    """A bootstrap interval, widened if too few of the values, each from `lowest` to `highest`, differ."""
    low, high = _bootstrap(values, seed, resamples)
    alike = max(Counter(values.tolist()).values())
    if len(values) - alike < FEW and lowest <= values.min() and values.max() <= highest:
        mean, unseen = float(values.mean()), Z**2 / (len(values) + Z**2)
        low = min(low, mean - unseen * (mean - lowest))
        high = max(high, mean + unseen * (highest - mean))
    return low, high


def _bootstrap(values: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    generator = np.random.default_rng(seed)
    count = len(values)
    rows = max(1, _CHUNK // count)
    means = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(count, size=(min(rows, resamples - start), count))
        means.append(values[drawn].mean(axis=1))
    tail = 100 * expanded_tail(count)
    low, high = np.percentile(np.concatenate(means), (tail, 100 - tail))
    return float(low), float(high)


def expanded_tail(count: int) -> float:
    """The share of resamples outside each end of a 95 % interval from `count` values, at most 0.025.

    Plain percentiles are too narrow for few values: the spread of the bootstrap lacks a factor sqrt(n / (n - 1)), and
    its shape lacks the tails of Student's t. The expanded percentile interval (Hesterberg 2015, arXiv:1411.5279)
    corrects both.

    >>> round(expanded_tail(30), 4), round(expanded_tail(500), 4)
    (0.0188, 0.0246)
    """
    if count < 2:
        return 0.0
    return NormalDist().cdf(-sqrt(count / (count - 1)) * t_quantile(count - 1))


_FEW_DEGREES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


def t_quantile(freedom: int) -> float:
    """The 97.5 % point of Student's t, to 0.001 (Abramowitz and Stegun 26.7.5; table 26.10 for few degrees).

    >>> t_quantile(2), round(t_quantile(29), 3), round(t_quantile(99), 3)
    (4.303, 2.045, 1.984)
    """
    if freedom in _FEW_DEGREES:
        return _FEW_DEGREES[freedom]
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
        (79 * Z**9 + 776 * Z**7 + 1482 * Z**5 - 1920 * Z**3 - 945 * Z) / 92_160,
    )
    return Z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms))


def _wilson(share: float, count: int) -> tuple[float, float]:
    center = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z * np.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / (1 + Z**2 / count)
    # For shares of 0 and 1 the ends are 0 and 1 up to rounding.
    return float(center - half) if share > 0 else 0.0, float(center + half) if share < 1 else 1.0
