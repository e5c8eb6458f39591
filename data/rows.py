"""Rows from a file, a folder, or the Hub."""

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from r1lab.data import shapes
from r1lab.errors import UserError
from r1lab.text import did_you_mean, did_you_mean_path

_FILES = (".jsonl", ".json", ".parquet")
_SPLITS = ("train", "test", "valid", "validation", "val", "dev")
_SHOWN = 5  # bad rows that are listed; the rest are counted
_OFTEN_CALLED = {
    "prompt": ("question", "problem", "query", "instruction", "input", "text"),
    "chosen": ("preferred", "chosen_response", "response_chosen", "accepted", "better"),
    "rejected": ("dispreferred", "rejected_response", "response_rejected", "worse"),
    "answer": ("final", "final_answer", "expected_answer", "ground_truth", "gold", "target", "label", "solution"),
    "completion": ("deepseek_attempt", "attempt", "response", "output", "generation", "solution"),
    "thinking": ("deepseek_thinking_trajectory", "thinking_trajectories", "reasoning", "reasoning_content"),
}
"""The names of these columns in public datasets, for the suggestion in an error message."""
_CONTEXT = {"instruction": ("input", "context")}  # columns that are appended to a prompt column of this name

Columns = dict[str, str | list[str]]
T = TypeVar("T")


def rows(
    *,
    path: str,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    columns: Columns | None = None,
    config: str | None = None,
) -> list[dict]:
    """Rows from a file (`.jsonl`, `.json`, `.parquet`), from a folder, or from a dataset on the Hub.

    Args:
        path: A file, a folder or a dataset on the Hub. A folder may have a file for each split (`train.jsonl`,
            `test.jsonl`), of which only the one for `split` is used; in other folders, such as `@STAGE/samples`, every
            `.jsonl` is used, or every `.parquet` if there is no `.jsonl`.
        split: The split of a folder or of a dataset on the Hub. A single file has none and is used as a whole.
        size: Maximum number of rows, sampled by `seed`. Default: all, in their order.
        columns: The file's columns to use as `prompt`, `answer` and so on, as in `{prompt: question, answer: final}`.
            A dotted name selects a value inside a column, as in `{answer: reward_model.ground_truth}`; a list joins
            texts, as in `{prompt: [instruction, input]}`.
        config: The configuration of a dataset on the Hub, such as `main` of `openai/gsm8k`.

    Returns:
        Rows with all their columns and those in `columns`, as normalized by `r1lab.data.shapes.shaped`: each has a
            `prompt`, a string or chat messages; `answer` is None if a row lacks it.

    Raises:
        UserError: The path does not exist or cannot be read, no row has one of `columns`, or rows have no prompt
            (`file:row`, counted from 1; in a `.jsonl` file that is the line).

    >>> import json, tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write(json.dumps({"prompt": "2+2?", "answer": "4"}))
    ...     file.flush()
    ...     rows(path=file.name)
    [{'prompt': '2+2?', 'answer': '4'}]
    """
    found = [{**row, "answer": row.get("answer")} for _, row in numbered_rows(path, split, columns, config)]
    return draw(found, size, seed)


def is_local(path: str) -> bool:
    """Whether a path is on this machine, existing or not; everything else is the name of a dataset on the Hub."""
    place = Path(path).expanduser()
    return place.exists() or place.suffix in _FILES or path.startswith((".", "/", "~")) or path.count("/") > 1


def similar(path: str | Path) -> str:
    """A hint with the local file or folder that is most similar to a missing one; empty if none is."""
    return did_you_mean_path(path, lambda place: place.suffix in _FILES or os.path.isdir(place))


def numbered_rows(
    path: str,
    split: str,
    columns: Columns | None = None,
    config: str | None = None,
    *,
    needed: tuple[str, ...] = ("answer",),
) -> list[tuple[str, dict]]:
    """Each row that `rows` finds at a path, with its place (`file:row`).

    Args:
        needed: The columns, in addition to `prompt`, for which an error message suggests names.

    Raises:
        UserError: As for `rows`.
    """
    numbered = list(_located(path, split, config))
    numbered = _renamed(path, numbered, columns) if columns else numbered
    numbered = [(where, _shaped(where, row)) for where, row in numbered]
    there = [row for _, row in numbered if isinstance(row, dict)]
    if any(there) and not any("prompt" in row for row in there):  # one line for all of these rows
        of_all = f"{path}: {no_column('prompt', there, needed=needed, given=columns)}"
        numbered = [(where, row) for where, row in numbered if not isinstance(row, dict)]
        raise_first([of_all, *_problems(numbered)], len(numbered))
    raise_first(_problems(numbered), len(numbered))
    return [(where, row) for where, row in numbered if isinstance(row, dict)]


def _shaped(where: str, row: object) -> object:
    """A row normalized by `shapes.shaped`, or the error if that fails."""
    if not isinstance(row, dict):
        return row
    try:
        return shapes.shaped(row)
    except ValueError as error:
        return UserError(f"{where}: {error}")


def _renamed(path: str, numbered: list[tuple[str, object]], columns: Columns) -> list[tuple[str, object]]:
    """The rows with `columns` under their new names; a row that lacks one has None there.

    Raises:
        UserError: No row has one of these columns, as with a typo.
    """
    there = [row for _, row in numbered if isinstance(row, dict)]
    given = [name for names in columns.values() for name in (names if isinstance(names, list) else [names])]
    missing = [name for name in given if there and not any(_has(row, name) for row in there)]
    if missing:
        names = _names(there)
        hint = did_you_mean(missing[0], names, otherwise=f"; there are: {', '.join(names) or 'none'}")
        raise UserError(f"{path}: columns: no row has a column `{missing[0]}`{hint}")
    # Messages are a whole conversation, from which `shapes.shaped` takes prompt and completion.
    taken = {to: "" if to == "prompt" and name in shapes.MESSAGES else name for to, name in columns.items()}
    return [
        (where, row | {to: _value(row, name) for to, name in taken.items()} if isinstance(row, dict) else row)
        for where, row in numbered
    ]


def _has(row: dict, name: str) -> bool:
    return name in row or _value(row, name) is not None


def _value(row: dict, name: str | list[str]) -> object:
    """The value of a column, or of `column.key` if no column has that name; None if there is none.

    For several columns, their non-empty texts with a blank line between them.
    """
    if isinstance(name, list):
        texts = [str(value) for value in (_value(row, one) for one in name) if value not in (None, "")]
        return "\n\n".join(texts) or None
    if name in row:
        return row[name]
    value: object = row
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _names(found: list[dict]) -> list[str]:
    return list(dict.fromkeys(str(key) for row in found for key in row))


def no_column(
    wanted: str,
    found: list[dict],
    who: str = "",
    needed: tuple[str, ...] = ("answer",),
    given: Columns | None = None,
) -> str:
    """The message if no row has a column: the columns that there are, and the line to write.

    Args:
        who: What needs the column, as in `, for the reward accuracy`.
        needed: Other columns to suggest names for if rows lack them too and `wanted` is the prompt.
        given: The `columns` that the recipe has already, which the suggested line must keep.

    >>> no_column("prompt", [{"question": "2+2?", "final": "4"}])
    'no column `prompt`; there are: question, final: write `columns: {prompt: question, answer: final}` next to `path`'
    """
    names = _names(found)
    what = f"no column `{wanted}`{who}; there are: {', '.join(names)}"
    questions = set(_OFTEN_CALLED["prompt"]) & set(names)
    if wanted == "prompt" and not questions and {"chosen", "rejected"} <= set(names):
        return f"{what}: give the question that both answer in `prompt`, or as messages in `chosen` and `rejected`"
    lacking = [wanted, *(name for name in needed if wanted == "prompt" and name not in names)]
    lacking += ["thinking"] if "completion" in lacking and "thinking" not in names else []
    guesses = {name: [often for often in _OFTEN_CALLED.get(name, ()) if often in names] for name in lacking}
    columns: dict[str, str] = {name: guessed[0] for name, guessed in guesses.items() if guessed}
    if context := [name for name in _CONTEXT.get(columns.get("prompt", ""), ()) if name in names]:
        columns["prompt"] = f"[{columns['prompt']}, {context[0]}]"
    kept = {to: f"[{', '.join(name)}]" if isinstance(name, list) else name for to, name in (given or {}).items()}
    written = ", ".join(f"{to}: {name}" for to, name in (kept | {wanted: "NAME"} | columns).items())
    return f"{what}: write `columns: {{{written}}}` next to `path`"


def converted(path: str, split: str, convert: Callable[[dict], T], *, config: str | None = None) -> list[T]:
    """The results of `convert` for each row at a path, for builders whose files have columns of their own.

    Args:
        path: A file, a folder or a dataset on the Hub, as for `rows`.
        convert: Converts a row; if the row does not fit, it raises ValueError with the reason.
        config: The configuration of a dataset on the Hub.

    Raises:
        UserError: As for `rows`; it lists the rows for which `convert` raises ValueError.
    """
    return convert_all(list(_located(path, split, config)), convert)


def convert_all(numbered: Sequence[tuple[str, object]], convert: Callable[[dict], T]) -> list[T]:
    """The results of `convert` for rows with their places; a `UserError` lists those that fail."""
    problems: list[str] = []
    found: list[T] = []
    for where, row in numbered:
        try:
            if isinstance(row, UserError):
                problems += row.problems
            elif not isinstance(row, dict):
                raise ValueError(f"a row should be an object, not {_kind(row)}")
            else:
                found.append(convert(shapes.json_values(row)))
        except ValueError as error:
            problems.append(f"{where}: {error}")
    raise_first(problems, len(numbered))
    return found


def first_of(row: dict, *columns: str):
    """The value of the first of these columns that a row has.

    Raises:
        ValueError: It has none of them.

    >>> first_of({"question": "2+2?"}, "problem", "question")
    '2+2?'
    """
    for column in columns:
        if row.get(column) not in (None, ""):
            return row[column]
    raise ValueError(f"no `{'` or `'.join(columns)}` in this row, which has {', '.join(map(str, row)) or 'nothing'}")


def raise_first(problems: list[str], total: int) -> None:
    """Raises the first few problems with rows, if there are any, and how many more there are."""
    if len(problems) > _SHOWN:
        problems = [*problems[:_SHOWN], f"{len(problems) - _SHOWN} more of {total} rows are like these"]
    if problems:
        raise UserError(problems)


def _located(path: str, split: str, config: str | None = None) -> Iterator[tuple[str, object]]:
    """Each row at a path with its place, whatever it is; for a line that is not JSON, the error instead."""
    place = Path(path).expanduser()
    if place.is_dir():
        for file in _of_split(place, split):
            yield from _file(file)
    elif is_local(path):
        yield from _file(place)
    else:
        yield from ((f"{path}:{number}", row) for number, row in enumerate(_hub(path, split, config), 1))


def draw(found: list[T], size: int | None, seed: int) -> list[T]:
    """At most `size` rows, sampled by `seed`; by default all, in their order."""
    if size is None:
        return found
    if size < 1:
        raise UserError(f"data.size: {size}: should be at least 1")
    return random.Random(seed).sample(found, min(size, len(found)))


def _of_split(folder: Path, split: str) -> list[Path]:
    files = sorted(folder.rglob("*.jsonl")) or sorted(folder.rglob("*.parquet"))
    if not files:
        raise UserError(f"{folder}: no .jsonl or .parquet file in this folder")
    of = {file: file.stem.partition("-")[0] for file in files}  # the Hub's are called train-00000-of-00001.parquet
    named = [file for file in files if of[file] in _SPLITS]
    if not named:
        return files
    # Using both would train on held-out rows.
    wanted = [file for file in named if of[file] == split]
    if not wanted:
        have = ", ".join(str(file.relative_to(folder)) for file in named)
        raise UserError(f"{folder}: no {split}.jsonl in this folder, which has {have}")
    return wanted


def _file(path: Path) -> Iterator[tuple[str, object]]:
    """Each row of a file with its place; for a line that is not JSON, the error instead."""
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder{similar(path)}")
    if path.suffix not in _FILES:
        raise UserError(f"{path}: not a file of rows: {', '.join(_FILES)}")
    if path.suffix == ".parquet":
        yield from ((f"{path}:{number}", row) for number, row in enumerate(parquet(path), 1))
        return
    if path.suffix == ".json":
        listed = _json(_text(path), str(path))
        if not isinstance(listed, list):
            raise UserError(f"{path}: should be a list of rows, not {_kind(listed)}; one row per line is .jsonl")
        yield from ((f"{path}:{number}", row) for number, row in enumerate(listed, 1))
        return
    yield from json_lines(path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error


def json_lines(path: Path) -> Iterator[tuple[str, object]]:
    """The value on each line of a file with its place, whatever the file is called; for a bad line, the error."""
    lines = _text(path).split("\n")  # not splitlines, which also splits at U+2028 in a string
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield f"{path}:{number}", _json(line, f"{path}:{number}")
            except UserError as error:  # reported together with those of the other rows
                yield f"{path}:{number}", error


def parquet(path: Path, columns: list[str] | None = None) -> list[dict]:
    """The rows of a parquet file; a missing or damaged file and a missing column are a `UserError`."""
    import pyarrow
    import pyarrow.parquet

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        have = pyarrow.parquet.read_schema(path).names
        lacking = [column for column in columns or [] if column not in have]
        if lacking:
            raise UserError(f"{path}: no column {', '.join(lacking)}; it has {', '.join(have)}")
        return pyarrow.parquet.read_table(path, columns=columns).to_pylist()
    except (pyarrow.ArrowException, OSError, OverflowError, ValueError) as error:  # such as dates beyond Python's
        raise UserError(f"{path}: not a parquet file that can be read: {_line(error)}") from error


def _json(text: str, where: str):
    def once(pairs: list[tuple[str, object]]) -> dict:
        """An object of the file; json would keep the last value of a repeated key."""
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise UserError(f"{where}: the key `{twice}` occurs {keys.count(twice)} times in one object: keep one")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        line = f" at line {error.lineno}" if error.lineno > 1 else ""
        raise UserError(f"{where}: not JSON: {error.msg}{line}, column {error.colno}") from error


def _hub(name: str, split: str, config: str | None) -> list[dict]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        found = load_dataset(name, *([config] if config else []), split=split)
    except (DatasetsError, OSError, ValueError) as error:  # not there, not reached, no such split or configuration
        message = f"{name}: neither a local file nor a dataset on the Hub{similar(name)}: {_line(error)}"
        raise UserError(message) from error
    return found.to_list()


def _problems(numbered: list[tuple[str, object]]) -> list[str]:
    problems = []
    for where, row in numbered:
        if isinstance(row, UserError):
            problems += row.problems
        elif not isinstance(row, dict):
            problems.append(f"{where}: a row should be an object with a `prompt`, not {_kind(row)}")
        elif row.get("prompt") in (None, "", []):
            has = ", ".join(str(key) for key in row) or "nothing"
            empty = f"the `prompt` of this row is empty: {row.get('prompt')!r}"
            problems.append(f"{where}: {empty if 'prompt' in row else f'no `prompt` in this row, which has {has}'}")
        elif not isinstance(row["prompt"], str | list):
            problems.append(f"{where}: prompt: should be text, or messages with `role` and `content`")
    return problems


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
