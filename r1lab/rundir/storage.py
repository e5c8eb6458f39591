"""Files of a run directory: atomic writes, and JSON lines that survive a kill."""

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from r1lab.errors import UserError

if TYPE_CHECKING:
    from ruamel.yaml import YAML

_FIX = "fix it, or start again with --overwrite or another --name"


def write_text_atomic(path: str | Path, text: str) -> None:
    """Writes a file atomically: a reader, also after a crash, sees either the old text or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json_atomic(path: str | Path, data: object) -> None:
    """Writes JSON atomically; NaN and infinities, which JSON does not have, become null."""
    write_text_atomic(path, json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_jsonl(path: str | Path, row: dict) -> None:
    """Appends one row, and removes an incomplete row that a killed writer may have left at the end."""
    path = Path(path)
    line = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode())


def write_jsonl(path: str | Path, rows: list[dict]) -> None:
    """Writes a file of one JSON object per line atomically, and creates its folder if necessary."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_text_atomic(path, "".join(lines))


def read_jsonl(path: str | Path) -> list[dict]:
    """All rows of a file of one JSON object per line, without an incomplete last line; none if there is no file."""
    return follow_jsonl(path, 0)[0]


def follow_jsonl(path: str | Path, offset: int) -> tuple[list[dict], int]:
    """The complete rows of a growing file from a byte offset on, and the next offset."""
    path = Path(path)
    if not path.is_file():
        return [], 0
    with path.open("rb") as file:
        file.seek(max(0, offset - 1))
        if offset and file.read(1) != b"\n":  # the file was rewritten
            file.seek(offset := 0)
        data = file.read()
    data = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in data.splitlines() if line.strip()], offset + len(data)


def write_yaml(path: str | Path, data: dict) -> None:
    """Writes plain data as YAML 1.2 atomically, without sorting keys."""
    yaml = _yaml()
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yaml.dump(data, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_yaml(path: str | Path) -> dict:
    """Reads a YAML 1.2 file with a map, such as `config.yaml`, as plain data.

    Raises:
        UserError: It cannot be read, or is not a map.
    """
    from ruamel.yaml.error import YAMLError

    try:
        data = _yaml().load(Path(path))
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: cannot be read as YAML: {_why(error)}: {_FIX}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: not a recipe: {_FIX}")
    return data


def _why(error: Exception) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())[:160]


def _yaml() -> "YAML":
    from ruamel.yaml import YAML  # slow to import, and not needed for the JSON files

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]  # declared as None
    yaml.width = 10_000
    return yaml


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    tolist = getattr(value, "tolist", None)  # arrays and scalars of numpy and torch, without importing them
    return value if tolist is None else _plain(tolist())
