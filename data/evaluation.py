"""Functions that the evaluation-only sets share."""

import logging

from r1lab.errors import UserError

logger = logging.getLogger(__name__)


def evaluation_only(name: str, split: str, instead: str) -> None:
    """Rejects every split except `"test"`.

    Raises:
        UserError: The split is another one; the message names sets to train on instead.

    >>> evaluation_only("amc", "train", instead="math or gsm8k")
    Traceback (most recent call last):
    r1lab.errors.UserError: amc: split: 'train': this is an evaluation set, with test only; train on math or gsm8k
    """
    if split != "test":
        raise UserError(f"{name}: split: {split!r}: this is an evaluation set, with test only; train on {instead}")


def without_none(found: list[dict | None], path: str, why: str) -> list[dict]:
    """The rows that a builder could make; the log counts the others and gives the reason."""
    made = [row for row in found if row is not None]
    if len(made) < len(found):
        logger.warning("%s: left out %d of %d problems, which %s", path, len(found) - len(made), len(found), why)
    return made
