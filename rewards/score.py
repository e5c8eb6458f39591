"""A reward's value with its reason."""


class Score(float):
    """A float that says why it is what it is; it counts as a plain float everywhere.

    >>> score = Score(1.0, "correct")
    >>> score + 1, score.reason
    (2.0, 'correct')
    """

    def __new__(cls, value: float, reason: str = ""):
        score = super().__new__(cls, value)
        score.reason = reason
        return score

    def __getnewargs__(self):
        return float(self), self.reason
