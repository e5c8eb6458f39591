"""What a worker of the pool does for `reasoning_gym_reward`: it scores one answer with its dataset's scorer.

Only the pool's server imports this module, so that no worker spends its deadline on the import.
"""

import os
import sys
from functools import cache

import reasoning_gym

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FORBIDDEN = ("os.", "shutil.", "socket.", "subprocess.")
_ALLOWED = ("os.listdir", "os.scandir")  # which imports need


def grade(answer: str, gold: str | None, metadata: dict) -> float | None:
    """The scorer's value for an answer; None if it fails on this answer but not on the gold one."""
    scorer = _scorer(metadata["source_dataset"])
    entry = {"answer": gold, "metadata": metadata}
    _guard()
    try:
        return float(scorer(answer, entry))
    except Exception:  # scorers run eval and all kinds of parsers on whatever a model generates
        scorer(gold, entry)  # raises if the row is at fault
        return None


@cache
def _scorer(name: str):
    # pyright takes the module next to this one for the package, which is optional.
    return reasoning_gym.get_score_answer_fn(name)  # pyright: ignore[reportAttributeAccessIssue]


@cache
def _guard() -> None:
    """From now on this process writes no file, starts no program and opens no connection, whatever it evaluates."""
    sys.addaudithook(_forbid)


def _forbid(event: str, arguments: tuple) -> None:
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
    if writes or (event.startswith(_FORBIDDEN) and event not in _ALLOWED):
        raise PermissionError(f"{event} while grading")  # which an import that cannot cache its bytecode survives
