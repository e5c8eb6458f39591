"""Environments of verifiers before version 0.2: a module with `load_environment`. Needs the package `verifiers`.

verifiers plays an episode itself, with a client of an OpenAI-compatible server. Here its parts are called in the order
of its own loop, with the turns that r1lab has sampled.
"""

import json
import signal
from functools import cache
from typing import Any

import datasets
import verifiers as vf  # pyright: ignore[reportMissingImports]
from verifiers.types import AssistantMessage, ToolCall, TrajectoryStep  # pyright: ignore[reportMissingImports]
from verifiers.utils.message_utils import maybe_normalize_messages  # pyright: ignore[reportMissingImports]

from r1lab.environments.base import Reply, Turn
from r1lab.environments.tools import with_schema
from r1lab.environments.toolset import awaited
from r1lab.errors import UserError


class Verifiers:
    """An episode of an environment of verifiers: `verifiers:MODULE`. Its rubric is the reward.

    Args:
        arguments: Those of `load_environment`.
    """

    module = ""

    def __init__(self, *, arguments: dict[str, Any] | None = None):
        self._environment = loaded(self.module, json.dumps(arguments or {}))
        tools = self._environment.tool_defs or []
        self.__tools__ = [with_schema(_unused, {"type": "function", "function": _about(tool)}) for tool in tools]
        self.info: dict[str, Any] = {}

    def reset(self, *, seed: int, **row) -> str | None:
        client = vf.OpenAIChatCompletionsClient(None)  # pyright: ignore[reportArgumentType]: it is never asked
        # The task is r1lab's own, which verifiers would read as one of its own.
        columns: Any = {"example_id": 0} | {key: value for key, value in row.items() if key != "task"}
        self._state = awaited(self._environment.init_state(columns, client, "r1lab"))
        given = [_plain(message) for message in self._state["prompt"]]
        self._state = awaited(self._environment.setup_state(self._state)) or self._state
        self._prompt = self._messages()
        said = [_plain(message) for message in self._prompt]
        if said == given:
            return None
        if said[:-1] != given[:-1] or not said[-1]["content"].startswith(given[-1]["content"]):
            raise ValueError(f"{self.module} replaces the prompt of its row, which cannot be followed")
        return said[-1]["content"].removeprefix(given[-1]["content"]).strip()

    def step(self, turn: Turn) -> list[Reply]:
        if turn.problem and self.__tools__:
            return [Reply(f"Error: {turn.problem}", error=turn.problem)]
        calls = [
            ToolCall(id=f"call_{turn.number}_{i}", name=call.name, arguments=json.dumps(call.arguments))
            for i, call in enumerate(turn.calls)
        ]
        written: list = [AssistantMessage(content=turn.text, tool_calls=calls or None)]
        step = TrajectoryStep(
            prompt=self._prompt,
            completion=written,
            response=None,  # pyright: ignore[reportArgumentType]: there is no server
            tokens=None,
            reward=None,
            advantage=None,
            is_truncated=turn.truncated,
            trajectory_id=self._state["trajectory_id"],
            extras={},
        )
        awaited(self._environment.add_trajectory_step(self._state, step))
        if awaited(self._environment.is_completed(self._state)):
            return []
        before = len(self._prompt) + len(written)
        self._prompt = self._messages()
        final = self._state.get("final_env_response")
        if final is not None:
            return [_reply(message, done=True) for message in maybe_normalize_messages(final)] or [
                Reply("", done=True)
            ]
        return [_reply(message) for message in self._prompt[before:]]

    def _messages(self) -> list:
        return maybe_normalize_messages(awaited(self._environment.get_prompt_messages(self._state)))

    def get_reward(self) -> float:
        awaited(self._environment.cleanup(self._state))
        awaited(self._environment.rubric.score_rollout(self._state))
        awaited(self._environment.rubric.cleanup(self._state))
        self.info = {"metrics": self._state["metrics"], "stop_condition": self._state.get("stop_condition")}
        return float(self._state["reward"])


@cache
def environment(module: str) -> type[Verifiers]:
    """The class of the episodes of a module's environment."""
    return type("Verifiers", (Verifiers,), {"module": module, "__module__": __name__, "__doc__": Verifiers.__doc__})


@cache
def loaded(module: str, arguments: str = "{}") -> vf.MultiTurnEnv:
    """What the `load_environment` of a module returns.

    Args:
        arguments: As JSON.

    Raises:
        UserError: It fails, or returns what r1lab cannot play.
    """
    datasets.disable_progress_bars()
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        found: Any = vf.load_environment(module, **json.loads(arguments))
    except Exception as error:  # a user's module may raise anything
        why = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"verifiers:{module}: {why}: check environment.name and environment.arguments") from error
    finally:
        for number, handler in kept.items():  # an environment of verifiers replaces them
            signal.signal(number, handler)
    if not isinstance(found, vf.MultiTurnEnv):
        kind = type(found).__name__
        raise UserError(f"verifiers:{module}: is {kind}: only kinds of MultiTurnEnv can be played: use another one")
    if found.rubric.has_group_rewards:
        raise UserError(f"verifiers:{module}: its rubric scores groups, and r1lab single episodes: use another one")
    return found


def rows(module: str, arguments: dict[str, Any], split: str) -> list[dict[str, Any]]:
    """The rows of an environment's data set, for training or, with the split `test`, for evaluation."""
    found = loaded(module, json.dumps(arguments))
    dataset = found.get_dataset() if split == "train" else found.get_eval_dataset()
    return [_row(row, module) for row in dataset.to_list()]


def _row(row: dict[str, Any], module: str) -> dict[str, Any]:
    prompt = [{key: value for key, value in message.items() if value is not None} for message in row["prompt"]]
    task = row["task"] if isinstance(row.get("task"), str) else module
    return {**row, "prompt": prompt, "answer": row.get("answer"), "task": task}


def _about(tool: Any) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters}


def _unused(name: str, arguments: dict[str, Any]) -> Any:
    raise NotImplementedError  # `step` gets all calls


def _plain(message: Any) -> dict[str, str]:
    """A message with its content as a text."""
    content = message["content"] or ""
    if not isinstance(content, str):
        content = "\n".join(part.get("text") or f"({part.get('type')})" for part in content)
    return {"role": message["role"], "content": content}


def _reply(message: Any, *, done: bool = False) -> Reply:
    plain = _plain(message)
    return Reply(plain["content"], role="tool" if plain["role"] == "tool" else "user", done=done)
