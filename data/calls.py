"""Calls a builder by its name. r1lab's own return valid rows; a user's builder may return anything."""

import inspect
import itertools
import traceback
from collections.abc import Callable, Iterable, Mapping

from r1lab import lookup
from r1lab.data import shapes
from r1lab.data.rows import raise_first
from r1lab.errors import UserError

MOST = 1_000_000
"""A builder without a size that returns more rows than this is treated as endless."""

_WANTED = "it should return a list of rows, each a dict"
_INSTEAD = {"DataFrame": "return frame.to_dict('records')", "DatasetDict": "return one of its splits"}


def rows_of(name: str, parameters: dict, settings: dict) -> list[dict]:
    """The rows from a builder; those of a user's builder are normalized as `rows` normalizes those of a file.

    Args:
        parameters: The parameters from the recipe.
        settings: `split`, `size` and `seed`; a builder gets those that it has as parameters and that are not None.

    Raises:
        UserError: A user's builder raises, or returns something other than rows.
    """
    builder = lookup.function("data", name)
    takes = inspect.signature(builder).parameters
    given = {key: value for key, value in settings.items() if key in takes and value is not None} | parameters
    if name in lookup.names("data"):
        return builder(**given)
    try:
        returned = builder(**given)
        rows = _listed(name, returned, given.get("size"))
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a user's builder may raise anything; the cause is kept for --debug
        what = f"data: {name}: raises {type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(what.rstrip(": ") + _line_of(builder, error)) from error
    return _shaped(rows, name)


def _listed(name: str, returned: object, size: int | None) -> list[dict]:
    """The rows that a user's builder returned, as a list of dicts, at most `size` of them."""
    kind = type(returned).__name__
    # Iterating over the first of these would give keys, column names or characters.
    if isinstance(returned, Mapping | str | bytes) or kind in _INSTEAD or not isinstance(returned, Iterable):
        instead = f" ({_INSTEAD[kind]})" if kind in _INSTEAD else ""
        raise UserError(f"data: {name}: returned {_article(returned)}: {_WANTED}{instead}")
    rows = list(itertools.islice(returned, MOST + 1 if size is None else size))
    if size is None and len(rows) > MOST and not hasattr(returned, "__len__"):
        fix = "let it take `size`, and set data.size"
        raise UserError(f"data: {name}: its {kind} gives more than {MOST:,} rows and may never end: {fix}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise UserError(f"data: {name}: row {number} that it returned is {_article(row)}: {_WANTED}")
    return [dict(row) for row in rows]


def _article(value: object) -> str:
    if value is None:
        return "None"
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def _line_of(builder: Callable, error: BaseException) -> str:
    """The last line of the builder's own file in an error's traceback."""
    file = inspect.getsourcefile(builder)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({file}:{lines[-1]})" if lines else ""


def _shaped(rows: list[dict], builder: str) -> list[dict]:
    found, problems = [], []
    for number, row in enumerate(rows, 1):
        try:
            row = shapes.shaped(row)
        except ValueError as error:
            problems.append(f"data: row {number} of {builder}: {error}")
            continue
        if row.get("prompt") is None:
            problems.append(f"data: {builder}: row {number} that it returned has no `prompt`; it has {', '.join(row)}")
        found.append(row)
    raise_first(problems, len(rows))
    return found
