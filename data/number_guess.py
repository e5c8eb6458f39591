"""Rows for the environment number_guess: bounds between which a number is to be guessed."""

import random

from r1lab.data.generate import choices, different
from r1lab.errors import UserError


def number_guess(
    *,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    numbers: int | list[int] | tuple[int, ...] = (10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
    highest: int = 200,
) -> list[dict]:
    """Bounds for the environment `number_guess`, which draws a number between them for each episode.

    Train and test never share bounds: the split is a hash of them, the same for every seed.

    Args:
        split: `"train"`, or `"test"`, one pair of bounds in five.
        size: The number of rows. Default: 1,000.
        seed: The same seed gives the same rows.
        numbers: How many numbers the bounds allow, or a list of such counts, used in turn.
        highest: The highest number.

    Returns:
        Rows with `prompt`, `answer` (None: it depends on the episode), `task` (`number_guess/20`), `low` and `high`.

    Raises:
        UserError: There are fewer bounds than `size`.

    >>> row = number_guess(size=1, numbers=20)[0]
    >>> row["prompt"], row["high"] - row["low"]
    ('I am thinking of a whole number from 157 to 176. Which one is it?', 19)
    """
    counts = choices(numbers, "number_guess: numbers", at_least=2)
    if highest < max(counts):
        raise UserError(f"number_guess: highest: {highest}: should be at least {max(counts)}, that of numbers")
    rng = random.Random(f"number_guess/{seed}/{split}")

    def draw(count: int) -> tuple[object, dict]:
        width = counts[count % len(counts)]
        low = rng.randint(1, highest - width + 1)
        high = low + width - 1
        prompt = f"I am thinking of a whole number from {low} to {high}. Which one is it?"
        row = {"prompt": prompt, "answer": None, "task": f"number_guess/{width}", "low": low, "high": high}
        return (low, high), row

    hint = "raise highest, add to numbers, or lower size (eval.size in an evaluation)"
    return different(draw, name="number_guess", split=split, size=size, hint=hint)
