"""A reward's value with its reason, and a batch of them."""

from typing import Self


class Score(float):
    """A float that says why it is what it is, and counts, prints and compares as a plain one.

    Args:
        value: The reward.
        reason: A short code, `correct` or `no_format`, with a detail after a colon where there is one.

    >>> score = Score(1.0, "correct")
    >>> score, score + 1, score.reason
    (1.0, 2.0, 'correct')
    """

    reason: str

    def __new__(cls, value: float, reason: str = "") -> Self:
        score = super().__new__(cls, value)
        score.reason = reason
        return score

    def __reduce__(self):  # so that copies and other processes keep the reason
        return type(self), (float(self), self.reason)


class Scores(list):
    """The scores of a batch where a None has a reason as well, which a plain None cannot hold.

    Args:
        scores: One `Score` or None for each completion.
        reasons: What each None is to be counted as; not read where there is a score.

    >>> Scores([Score(1.0, "correct"), None], ["", "gold_unparsed"]).reasons[1]
    'gold_unparsed'
    """

    def __init__(self, scores, reasons: list[str]):
        super().__init__(scores)
        self.reasons = reasons
