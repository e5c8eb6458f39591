"""Rows from a file, a folder, or the Hub."""

import json
import random
from pathlib import Path

from r1lab.errors import UserError


def rows(*, path: str, split: str = "train", size: int | None = None, seed: int = 0) -> list[dict]:
    """Rows that lie somewhere: `.jsonl`, `.json` (a list) or `.parquet`, a folder of `.jsonl`, or a data set of the Hub.

    Args:
        path: Where they lie. A folder is what `@STAGE/samples` stands for.
        split: The split of a data set of the Hub; files have none.
        size: Take so many, drawn at random by `seed`; all in their order by default.

    Returns:
        Rows as they are; each must have a `prompt`.

    >>> import json, tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write(json.dumps({"prompt": "2+2?", "answer": "4"}))
    ...     file.flush()
    ...     rows(path=file.name)
    [{'prompt': '2+2?', 'answer': '4'}]
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(place.glob("*.jsonl"))
        if not files:
            raise UserError(f"{path}: a folder without .jsonl files")
        found = [row for file in files for row in _file(file)]
    elif place.suffix in (".jsonl", ".json", ".parquet"):
        if not place.is_file():
            raise UserError(f"{path}: no such file")
        found = _file(place)
    else:
        from datasets import load_dataset

        found = load_dataset(path, split=split).to_list()
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict) or not row.get("prompt"):
            raise UserError(f"{path}:{number}: a row needs a `prompt`")
    if size is not None:
        if size > len(found):
            raise UserError(f"{path}: data.size: {size} rows asked for, {len(found)} are there")
        found = random.Random(seed).sample(found, size)
    return found


def _file(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: not JSON: {error.msg}") from error
    return found
