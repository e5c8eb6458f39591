"""A reward's value with its reason, and a batch of them."""

from typing import Self


class Score(float):
    """A float with a reason; it counts, prints and compares as a plain float.

    Args:
        value: The reward.
        reason: A short code, `correct` or `no_format`, maybe with a detail after a colon.
        figures: Anything else to be averaged in the metrics, which is not part of the reward.

    >>> score = Score(1.0, "correct")
    >>> score, score + 1, score.reason
    (1.0, 2.0, 'correct')
    """

    reason: str
    figures: dict[str, float]

    def __new__(cls, value: float, reason: str = "", figures: dict[str, float] | None = None) -> Self:
        score = super().__new__(cls, value)
        score.reason, score.figures = reason, figures or {}
        return score

    def __reduce__(self):  # so that copies and other processes keep the reason
        return type(self), (float(self), self.reason, self.figures)


class Scores(list):
    """The scores of a batch in which a None can have a reason too, which a plain None cannot hold.

    Args:
        scores: One `Score` or None for each completion.
        reasons: The reason of each None; ignored where there is a score.

    >>> Scores([Score(1.0, "correct"), None], ["", "gold_unparsed"]).reasons[1]
    'gold_unparsed'
    """

    def __init__(self, scores, reasons: list[str]):
        super().__init__(scores)
        self.reasons = reasons
