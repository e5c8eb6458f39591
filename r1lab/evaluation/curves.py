"""The curve of accuracy against thinking tokens, from the records of an evaluation with budgets."""

from collections.abc import Sequence

import numpy as np

from r1lab.evaluation import stats


def curve(records: list[dict]) -> list[dict]:
    """The budget curve of a task, without a budget (None) last.

    It is lenient, because a forced end is not the model's format: thinking of 0 tokens is wrong in a strict one.

    Returns:
        For each budget `lenient` with its interval `lenient_ci95`, mean `thinking` tokens with `thinking_ci95`, the
        share of samples that were `stopped`, and of these the share that `thinks_on`. Intervals are over questions.
    """
    found = []
    for place, budget in enumerate(one["budget"] for one in records[0]["budgets"]):
        each = [record["budgets"][place] for record in records]
        stopped = sum(sum(one["stopped"]) for one in each)
        shares = {"stopped": stopped / sum(len(one["stopped"]) for one in each)}
        shares |= {"thinks_on": sum(sum(one["thinks_on"]) for one in each) / stopped} if stopped else {}
        found.append({"budget": budget} | _point(each) | shares)
    return [*found, {"budget": None} | _point(records)]


def thinking_saved(before: list[dict], after: list[dict], *, seed: int = 0, resamples: int = 2000) -> dict:
    """The thinking tokens that one model needs less than another for the same accuracy.

    The accuracy is the lower of the two without a budget, which both curves reach. What a model needs for it is the
    first place of its curve, by thinking tokens and straight between points, that has this accuracy or a higher one.

    Args:
        before: The records of one evaluation with budgets.
        after: Those of the other one, of the same questions in the same order, with any budgets.

    Returns:
        The accuracy `lenient`, the tokens `before` and `after`, and `saved`, their difference, with `saved_ci95`: the
        percentiles of a bootstrap over questions, in which accuracy and tokens are determined anew each time.

    Raises:
        ValueError: The lists differ in length.
    """
    if len(before) != len(after):
        raise ValueError(f"paired values must be for the same questions: {len(before)} before, {len(after)} after")
    curves = [_by_question(records) for records in (before, after)]

    def found(rows) -> tuple[float, float, float]:
        points = [[tuple(point) for point in curve[rows].mean(axis=0)] for curve in curves]
        level = min(of[-1][1] for of in points)
        return level, _tokens_at(level, points[0]), _tokens_at(level, points[1])

    level, old, new = found(slice(None))
    generator = np.random.default_rng(seed)
    drawn = [found(generator.integers(len(before), size=len(before))) for _ in range(resamples)]
    tail = 100 * stats.expanded_tail(len(before))
    low, high = np.percentile([one[1] - one[2] for one in drawn], (tail, 100 - tail))
    return {"lenient": level, "before": old, "after": new, "saved": old - new, "saved_ci95": [float(low), float(high)]}


def _by_question(records: list[dict]) -> np.ndarray:
    """Thinking tokens and accuracy: [question, budget and last without one, 2]."""
    each = [[*record["budgets"], record] for record in records]
    return np.array([[[_mean(one[key]) for key in ("thinking", "lenient")] for one in points] for points in each])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _tokens_at(level: float, points: list[tuple[float, float]]) -> float:
    """The fewest tokens at which a curve of tokens and accuracy has an accuracy, which its last point has.

    >>> _tokens_at(0.5, [(0, 0.25), (10, 0.75)])
    5.0
    """
    points = sorted(points)
    for place, (tokens, accuracy) in enumerate(points):
        if accuracy >= level:
            if place == 0:
                return float(tokens)
            fewer, lower = points[place - 1]
            return float(fewer + (tokens - fewer) * (level - lower) / (accuracy - lower))
    raise AssertionError("no point has the accuracy")


def _point(each: list[dict]) -> dict:
    """Accuracy and thinking tokens, each with its interval over questions."""
    right, thinking = ([_mean(one[key]) for one in each] for key in ("lenient", "thinking"))
    return {
        "lenient": sum(right) / len(right),
        "lenient_ci95": list(stats.mean_ci95(right)),
        "thinking": sum(thinking) / len(thinking),
        "thinking_ci95": list(stats.mean_ci95(thinking)),
    }
