"""Rows of environments of verifiers."""

from typing import Any

from r1lab import lookup
from r1lab.data.rows import draw


def verifiers(
    *,
    module: str,
    arguments: dict[str, Any] | None = None,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
) -> list[dict]:
    """Rows of the data set of an environment of verifiers: see `environment: {name: "verifiers:MODULE"}`.

    Args:
        module: The module that has `load_environment`.
        arguments: Those of `load_environment`.
        split: `train`, or `test` for the environment's data set for evaluation.
        size: Maximum number of rows, sampled by `seed`. Default: all, in their order.

    Returns:
        Rows with all columns of the data set; `task` is the module if the rows have none.

    Raises:
        UserError: The package verifiers is not installed, or there is no such environment.
    """
    return draw(lookup.adapter("verifiers").rows(module, arguments or {}, split), size, seed)
