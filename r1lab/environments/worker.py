"""What a worker process does: it runs the environments of its episodes. `processes` sends it the requests."""

import errno
import importlib
import json
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from r1lab.environments.base import LONGEST, Call, Reply, Turn, clean, shortened
from r1lab.environments.toolset import Session, as_text, place
from r1lab.errors import MachineError
from r1lab.grading.pool_server import SHORT

MOST_REPLIES = 1000
"""Replies to a turn."""

_OWN_FAULT = (errno.EAGAIN, errno.EMFILE)
"""Errors of the system that an environment may cause by itself: a socket without data, and its own open files."""

_sessions: dict[int, Session] = {}


def handle(kind: str, key: int, *given) -> dict[str, Any]:
    """Handles a request: `reset`, `step`, `end`, `drop` or `close`.

    Returns:
        `{"value": ...}`, or `{"failed": why}` if the environment raised an exception.

    Raises:
        MemoryError, MachineError, OSError: What is not the environment's fault, or may not be.
    """
    _silence()
    try:
        value = _REQUESTS[kind](key, *given)
        if len(json.dumps(value)) > 16 * LONGEST:
            raise ValueError("what the environment returned is too long")
        return {"value": value}
    except (MemoryError, MachineError):
        raise
    except BaseException as error:  # an environment may raise anything, SystemExit too
        if isinstance(error, OSError) and error.errno in SHORT and error.errno not in _OWN_FAULT:
            raise
        return {"failed": f"{type(error).__name__}: {_message(error)} ({place(error)})"}


def _message(error: BaseException) -> str:
    try:
        return clean(str(error))[:400]
    except Exception:  # an exception may have a `__str__` of the user's
        return ""


def _reset(key: int, maker: str, spec: dict, row: dict, seed: int) -> dict[str, Any]:
    _drop(key)
    session = function(maker)(spec)
    _sessions[key] = session
    said = session.reset(row, seed)
    return {"text": None if said is None else shortened(as_text(said)), "seeded": session.seeded}


def _step(key: int, turn: dict[str, Any]) -> list[dict]:
    called = [Call(**call) for call in turn["calls"]]
    replies = _sessions[key].step(Turn(**{**turn, "calls": called}))
    if len(replies) > MOST_REPLIES:
        raise ValueError(f"{len(replies)} replies to a turn; at most {MOST_REPLIES} are read")
    most = LONGEST // max(1, len(replies))
    return [_plain(reply, most) for reply in replies]


def _plain(reply: Reply, most: int) -> dict:
    if reply.role not in ("tool", "user"):
        raise ValueError(f"the role of a reply is tool or user, and not {reply.role!r}")
    return {
        "content": shortened(as_text(reply.content), most),
        "role": reply.role,
        "done": bool(reply.done),
        "reward": None if reply.reward is None else float(reply.reward),
        "error": shortened(as_text(reply.error), 1000),
        "raised": bool(reply.raised),
    }


def _end(key: int) -> dict[str, Any]:
    session = _sessions.pop(key)
    try:
        info = json.loads(json.dumps(session.info(), default=str, skipkeys=True))
        return {"reward": _numbers(session.reward()), "info": info}
    finally:
        session.close()


def _numbers(reward: Any) -> float | dict[str, float] | None:
    if isinstance(reward, dict):
        return {str(name): float(value) for name, value in reward.items()}
    return None if reward is None else float(reward)


def _drop(key: int) -> None:
    """Closes an episode that has failed."""
    if session := _sessions.pop(key, None):
        session.close()


def _close(_: int) -> None:
    for key in list(_sessions):
        _drop(key)


_REQUESTS: dict[str, Callable[..., Any]] = {
    "reset": _reset, "step": _step, "end": _end, "drop": _drop, "close": _close,
}  # fmt: skip


@cache
def function(name: str) -> Callable:
    """The function that `module:function` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _silence() -> None:
    """Drops what environments print, whatever an earlier one has done to the streams of this process."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)
    sys.stdin = open(0, closefd=False)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
