"""Reads the last line and the last exception of a log."""

import re
from itertools import zip_longest
from pathlib import Path

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colors and cursor moves of progress bars
_SEARCHED = 200_000  # bytes at the end of a log that are searched for an exception
_ENGINE_PREFIX = re.compile(r"^\(\w+ pid=\d+\) (?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\] ?)?")


def _lines(path: Path, start: int, most: int) -> list[str]:
    """The lines of a file from byte `start` on, within its last `most` bytes, without terminal escapes."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(start, path.stat().st_size - most))
        text = file.read().decode(errors="replace")
    return _ESCAPES.sub("", text).replace("\r", "\n").splitlines()


def last_line(path: Path, start: int = 0) -> str:
    """The last non-empty line of a log, within its last 20 kB."""
    lines = (line.strip() for line in reversed(_lines(path, start, 20_000)))
    return next((line for line in lines if line), "")


def exception(path: Path, start: int = 0) -> str:
    """The exception of the last traceback in a log, on one line; empty if there is none.

    Libraries print advice after it, such as torch's "Set TORCHDYNAMO_VERBOSE=1". Lines of an engine's own process have
    a prefix, such as `(EngineCore pid=7) ERROR 01-02 03:04:05 [core.py:1] `, and its parent only refers to them.
    """
    lines = [_ENGINE_PREFIX.sub("", line) for line in _lines(path, start, _SEARCHED)]
    found, inside = "", False
    for line, following in zip_longest(lines, lines[1:], fillvalue=""):
        if line.startswith("Traceback (most recent call last)"):
            inside = True
        elif inside and line[:1].strip():
            inside = False
            if "root cause above" not in line:
                found = f"{line.strip()} {following.strip()}" if line.rstrip().endswith(":") else line.strip()
    return found


def size(file: Path) -> int:
    """The bytes of a file, 0 if there is none."""
    return file.stat().st_size if file.is_file() else 0
