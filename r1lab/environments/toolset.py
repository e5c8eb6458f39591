"""A session: one episode of a user's class, whose public methods, and further functions, are its tools."""

import asyncio
import inspect
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from r1lab.environments.base import NO_TOOL, Call, Reply, ToolError, Turn
from r1lab.errors import MachineError

RESERVED = {"reset", "step", "close", "get_reward", "done", "reward", "info", "solve", "state", "metrics"}
"""Members of an environment that are no tools."""


class Session:
    """One episode of an environment, in the process that runs it.

    Args:
        environment: An instance of a user's class, or None if there are only `tools`.
        tools: Functions with types and a docstring.
    """

    def __init__(self, environment: Any = None, tools: Sequence[Callable] = ()):
        self.environment, self.added = environment, tools
        self.tools = {tool.__name__: tool for tool in [*methods(environment), *tools]}
        self.earned: float = 0.0  # rewards of the replies
        self.rewarded = False
        self.last = Turn("", number=0)

    def reset(self, row: dict, seed: int) -> str | None:
        """Starts the episode; returns the text with which the prompt ends, or None."""
        if self.environment is None:
            return None
        return awaited(self.environment.reset(**_accepted(self.environment.reset, row | {"seed": seed})))

    @property
    def seeded(self) -> bool:
        """Whether the episode can be repeated: `reset` takes a seed, or there is no environment."""
        return self.environment is None or "seed" in inspect.signature(self.environment.reset).parameters

    def step(self, turn: Turn) -> list[Reply]:
        """The replies to a turn; none if the episode ends with it."""
        self.last = turn
        if hasattr(self.environment, "step"):
            replies = _replies(awaited(self.environment.step(turn)))
        elif turn.problem:
            replies = [Reply(f"Error: {turn.problem}", error=turn.problem)]
        else:
            replies = [self._called(call) for call in turn.calls]
        for reply in replies:
            if reply.reward is not None:
                self.earned, self.rewarded = self.earned + reply.reward, True
        if getattr(self.environment, "done", False) is True:
            replies = replies or [Reply("")]
            replies[-1].done = True
        return replies

    def _called(self, call: Call) -> Reply:
        """The reply to a call: what the tool returns, or why it cannot be called."""
        tool = self.tools.get(call.name)
        if tool is None:
            known = ", ".join(sorted(self.tools)) or "none"
            return _failed(f"{NO_TOOL} {call.name}; there are: {known}")
        if problem := misfit(tool, call.arguments):
            return _failed(f"{call.name}: {problem}")
        try:
            found = awaited(tool(**call.arguments))
        except ToolError as error:
            return _failed(f"{call.name}: {error}")
        except MachineError:
            raise
        except Exception as error:  # a user's tool may raise anything, which the model can correct
            reply = _failed(f"{call.name}: {type(error).__name__}: {error}")
            reply.error, reply.raised = f"{reply.error} ({place(error)})", True
            return reply
        return found if isinstance(found, Reply) else Reply(as_text(found))

    def reward(self) -> float | dict[str, float] | None:
        """The reward of the episode: the environment's own, or the sum of those of its replies; None if there is none.

        With both, the sum is added to the environment's own, if that is a number.
        """
        own = None
        if callable(getattr(self.environment, "get_reward", None)):
            function = self.environment.get_reward
            own = awaited(function(**_accepted(function, {"turn": self.last})))
        elif isinstance(getattr(self.environment, "reward", None), int | float | dict):
            own = self.environment.reward
        if not self.rewarded or isinstance(own, dict):
            return own
        return self.earned + (own or 0.0)

    def info(self) -> dict[str, Any]:
        """What the environment says of the episode, for the record; such as `reason`, why it was not right."""
        found = getattr(self.environment, "info", None)
        return found if isinstance(found, dict) else {}

    def close(self) -> None:
        """Frees what the episode used."""
        if callable(getattr(self.environment, "close", None)):
            with suppress(Exception):  # the episode has ended, whatever its cleaning up does
                awaited(self.environment.close())


_of_thread = threading.local()


def awaited(found: Any) -> Any:
    """The result of a coroutine; anything else as it is.

    A thread runs all coroutines in one event loop, because an environment may keep what belongs to a loop, such as a
    connection.
    """
    if not inspect.iscoroutine(found):
        return found
    if not hasattr(_of_thread, "loop"):
        _of_thread.loop = asyncio.new_event_loop()
    return _of_thread.loop.run_until_complete(found)


def methods(environment: Any) -> list[Callable]:
    """The tools of an environment: its public methods, or those that its `__tools__` names.

    An environment with `step` has none, because `step` gets all calls. The `__tools__` of an instance may be
    functions, such as those of `r1lab.environments.tools.with_schema`; with `step`, they are only shown to the model.
    """
    if environment is None:
        return []
    brought = [tool for tool in getattr(environment, "__tools__", None) or [] if callable(tool)]
    return [getattr(environment, name) for name in tool_names(type(environment))] + brought


def tool_names(environment: type) -> list[str]:
    """The names of the tools of a class; see `methods`."""
    if hasattr(environment, "step"):
        return []
    named = getattr(environment, "__tools__", None)
    if named is not None:
        return list(named)
    found = inspect.getmembers(environment, inspect.isfunction)  # as in TRL: no nested classes, no class methods
    return [name for name, _ in found if not name.startswith("_") and name not in RESERVED]


def schema(tool: Callable) -> dict:
    """The JSON schema of a tool, from its types and its docstring in Google's style, as in transformers and TRL.

    Raises:
        ValueError: A type or a description is missing; the message says which.
    """
    from transformers.utils.chat_template_utils import get_json_schema  # takes seconds

    found = getattr(tool, "schema", None)  # of a tool that is not a Python function
    if isinstance(found, dict):
        return found
    try:
        return get_json_schema(tool)
    except Exception as error:  # transformers raises several kinds
        raise ValueError(f"{tool.__name__}: {' '.join(str(error).split())}") from error


def misfit(tool: Callable, arguments: dict[str, Any]) -> str:
    """Why a tool cannot take these arguments, or nothing.

    >>> def add(a: int, b: int = 0): ...
    >>> misfit(add, {"a": 1, "c": 2}), misfit(add, {"b": 1}), misfit(add, {"a": "1"}), misfit(add, {"a": 1})
    ('it has no argument c; it has: a, b', 'the argument a is missing', 'a must be an integer, and is "1"', '')
    """
    declared = getattr(tool, "schema", None)
    if isinstance(declared, dict):
        given = declared["function"].get("parameters", {})
        known, needed = given.get("properties", {}), given.get("required", [])
        kinds = {name: _PYTHON.get(str(known[name].get("type"))) for name in known}
    else:
        signature = inspect.signature(tool).parameters
        if any(p.kind is p.VAR_KEYWORD for p in signature.values()):
            return ""
        known = list(signature)
        needed = [name for name, p in signature.items() if p.default is p.empty]
        kinds = {name: p.annotation for name, p in signature.items()}
    if unknown := [name for name in arguments if name not in known]:
        return f"it has no argument {unknown[0]}; it has: {', '.join(known) or 'none'}"
    if missing := [name for name in needed if name not in arguments]:
        return f"the argument {missing[0]} is missing"
    for name, value in arguments.items():
        kind = kinds.get(name)
        if kind in _KINDS and not _is(value, kind):
            return f"{name} must be {_KINDS[kind]}, and is {_shown(value)}"
    return ""


_KINDS: dict[Any, str] = {
    int: "an integer", float: "a number", str: "a text", bool: "true or false", list: "a list", dict: "an object",
}  # fmt: skip
_PYTHON = {"integer": int, "number": float, "string": str, "boolean": bool, "array": list, "object": dict}


def _is(value: Any, kind: Any) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is int and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, (int, float) if kind is float else kind)


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _accepted(function: Callable, given: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that a function takes."""
    taken = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        # `seed` only by name: a class that hands its columns on may not know it.
        return {name: value for name, value in given.items() if name != "seed" or "seed" in taken}
    return {name: value for name, value in given.items() if name in taken}


def _replies(found: Any) -> list[Reply]:
    if found is None:
        return []
    if isinstance(found, list | tuple):
        return [reply for one in found for reply in _replies(one)]
    return [found if isinstance(found, Reply) else Reply(as_text(found), role="user")]


def as_text(found: Any) -> str:
    """A value as the model reads it."""
    if isinstance(found, bytes):
        return found.decode(errors="replace")
    return found if isinstance(found, str) else str(found)


def _failed(message: str) -> Reply:
    return Reply(f"Error: {message}", error=message)


def place(error: BaseException) -> str:
    """Where an exception was raised: `file:line`."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"
