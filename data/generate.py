"""Functions that generated sets share: the split of a puzzle by its hash, and sampling without duplicates."""

import hashlib
from collections.abc import Callable

from r1lab.errors import UserError

PATIENCE = 20_000  # samples in a row without a new puzzle, after which there are considered to be no more


def split_of(canonical: object) -> str:
    """The split of a puzzle, by a hash of its canonical form: one in five is for testing.

    >>> {split_of(number) for number in range(40)} == {"train", "test"}
    True
    """
    digest = hashlib.blake2b(repr(canonical).encode(), digest_size=4).digest()
    return "test" if int.from_bytes(digest) % 5 == 0 else "train"


def different(
    draw: Callable[[int], tuple[object, dict] | None], *, name: str, split: str, size: int | None, hint: str
):
    """The first `size` different rows of a split.

    Args:
        draw: Takes the number of rows so far and returns `(canonical, row)`, or None if the sample is unusable. Rows
            with the same canonical form are the same puzzle: never in both splits, never twice.
        name: The builder.
        size: The number of rows. Default: 1,000.
        hint: What the error message suggests if there are fewer rows.

    Raises:
        UserError: The split is unknown, or there are fewer than `size` different rows.

    >>> import random
    >>> rng = random.Random(0)
    >>> def draw(count):
    ...     number = rng.randint(1, 20)
    ...     return number, {"prompt": f"{number}?"}
    >>> len(different(draw, name="numbers", split="train", size=3, hint="ask for fewer"))
    3
    """
    if split not in ("train", "test"):
        raise UserError(f"{name}: split: {split!r} is not train or test")
    size = 1000 if size is None else size
    if size < 1:
        raise UserError(f"{name}: size: {size}: should be at least 1")
    rows: dict[object, dict] = {}
    dry = 0
    while len(rows) < size:
        drawn = draw(len(rows))
        if drawn and drawn[0] not in rows and split_of(drawn[0]) == split:
            rows[drawn[0]] = drawn[1]
            dry = 0
        elif (dry := dry + 1) > PATIENCE:
            raise UserError(f"{name}: {split}: {size} rows asked for, but only {len(rows)} were found; {hint}")
    return list(rows.values())


def choices(value: int | list[int] | tuple[int, ...], name: str, *, at_least: int = 1) -> list[int]:
    """A number or a list of numbers as a list, each at least `at_least`.

    >>> choices(3, "countdown: numbers"), choices([3, 4], "countdown: numbers")
    ([3], [3, 4])
    """
    listed = [value] if isinstance(value, int) else list(value)
    if not listed or not all(isinstance(n, int) and not isinstance(n, bool) and n >= at_least for n in listed):
        raise UserError(f"{name}: {value!r}: should be a whole number of at least {at_least}, or a list of them")
    return listed
