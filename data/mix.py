"""Several builders as one set."""

import logging
import random
from typing import Literal

from r1lab.data.calls import rows_of
from r1lab.errors import UserError

logger = logging.getLogger(__name__)


def mix(
    *, parts: list[dict], split: Literal["train", "test"] = "train", size: int | None = None, seed: int = 0
) -> list[dict]:
    """Rows of several builders, in proportion to their weights and shuffled by `seed`.

    Args:
        parts: For each builder its name (`rows` by default), a `weight` (1.0), and its parameters, as in `{builder:
            gsm8k, weight: 3}`. Its own `split` and `seed` override those of the mixture; its own `size` is the maximum
            that it provides.
        size: The number of rows. A part with too few rows gives all, and the others fill up, which the log reports.
            Default: all rows of all parts, regardless of weights.

    Returns:
        The unchanged rows of the builders.

    >>> parts = [{"builder": "arithmetic", "weight": 3}, {"builder": "countdown"}]
    >>> sorted(row["task"].partition("/")[0] for row in mix(parts=parts, size=4))
    ['arithmetic', 'arithmetic', 'arithmetic', 'countdown']
    """
    if not parts:
        raise UserError("mix: parts: none: list builders, as in parts: [{builder: gsm8k}, {builder: math}]")
    weights = [part.get("weight", 1.0) for part in parts]
    if any(not isinstance(weight, int | float) or weight < 0 for weight in weights) or not sum(weights):
        raise UserError(f"mix: weight: {weights}: should be numbers of at least 0, not all of them 0")
    if size is None:
        found = [_rows(part, split, None, seed) for part in parts]
    else:
        found = _shared_out(parts, weights, split, size, seed)
    rows = [row for of_one in found for row in of_one]
    random.Random(f"mix/{seed}/{split}").shuffle(rows)
    return rows


def _shared_out(parts: list[dict], weights: list[float], split: str, size: int, seed: int) -> list[list[dict]]:
    """The rows of each part: its share, or all that it has, and then more from the others."""
    found: list[list[dict]] = [[] for _ in parts]
    open_parts = {i for i, weight in enumerate(weights) if weight > 0}
    while open_parts:
        used_up = [i for i in range(len(parts)) if i not in open_parts]
        left = size - sum(len(found[i]) for i in used_up)
        wanted = _shares({i: weights[i] for i in sorted(open_parts)}, left)
        for i, count in wanted.items():
            found[i] = _rows(parts[i], split, count, seed) if count else []
        short = {i for i, count in wanted.items() if len(found[i]) < count}
        for i in sorted(short):
            name = parts[i].get("builder", "rows")
            logger.warning("mix: parts[%d]: %s has only %d of %d rows", i, name, len(found[i]), wanted[i])
        if not short:
            break
        open_parts -= short
    return found


def _shares(weights: dict[int, float], size: int) -> dict[int, int]:
    """Whole numbers in proportion to weights that add up to `size`, by rounding the running sum."""
    total, seen, given, counts = sum(weights.values()), 0.0, 0, {}
    for i, weight in weights.items():
        seen += weight
        counts[i] = round(size * seen / total) - given
        given += counts[i]
    return counts


def _rows(part: dict, split: str, size: int | None, seed: int) -> list[dict]:
    own = {key: value for key, value in part.items() if key not in ("builder", "weight")}
    most = own.pop("size", None)
    size = min((n for n in (size, most) if n is not None), default=None)
    settings = {"split": split, "size": size, "seed": seed}
    rows = rows_of(part.get("builder", "rows"), own, settings)
    if size is not None and len(rows) > size:
        rows = random.Random(f"mix/{own.get('seed', seed)}").sample(rows, size)
    return rows
