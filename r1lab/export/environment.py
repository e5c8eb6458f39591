"""The environment of an exported package: its rows, its episodes, and a rubric that is r1lab's grader.

It needs verifiers 0.1, and of r1lab's requirements only what the rewards and the environment import.
"""

import asyncio
import copy
import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import verifiers as vf  # pyright: ignore[reportMissingImports]
from datasets import Dataset

from r1lab.environments import calls, toolset
from r1lab.environments.base import Call, Reply, Turn
from r1lab.environments.make import make
from r1lab.environments.toolset import Session
from r1lab.episodes.engine import task_seed
from r1lab.episodes.record import Episode, Segment
from r1lab.grading import grader as graders
from r1lab.grading.grader import Graded, Grader
from r1lab.rewards.facts import facts


def load(package: Path, *, size: int | None = None) -> vf.Environment:
    """The environment of a package.

    Args:
        package: The folder of its module.
        size: Maximum number of rows of each data set.
    """
    settings = json.loads((package / "recipe.json").read_text(encoding="utf-8"))
    for reward in settings["rewards"]:
        reward["name"] = _found(reward["name"], package)
    given: dict[str, Any] = {
        "dataset": _dataset(package / "train.jsonl", size),
        "eval_dataset": _dataset(package / "test.jsonl", size),
        "rubric": rubric(graders.build(settings["rewards"])),
    }
    played = settings["played"]
    if played is None:
        return vf.SingleTurnEnv(**given)
    if played["environment"]:
        played["environment"]["name"] = _found(played["environment"]["name"], package)
    played["tools"] = [_found(tool, package) for tool in played["tools"]]
    return Played(played, settings["seed"], **given)


def _found(name: str, package: Path) -> str:
    """A name in a recipe; a file of the package with its folder."""
    return f"{package}/{name}" if ".py:" in name else name


def _dataset(path: Path, size: int | None) -> Dataset | None:
    """The rows of a file. A row of r1lab is text in `info`, because its columns may have any types."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file][:size]
    listed = [
        {
            "prompt": row["prompt"],
            "answer": str(row["row"].get("answer") or ""),
            "info": json.dumps({"row": row["row"], "number": number}, ensure_ascii=False),
        }
        for number, row in enumerate(rows)
    ]
    return Dataset.from_list(listed) if listed else None


def rubric(grader: Grader) -> vf.Rubric:
    """A rubric with a function for each reward of a recipe, in its order and with its weight.

    All rewards of a completion are graded together, because later ones may depend on whether it is right; and those of
    a group, if one of the rewards compares its members. A reward that does not apply is 0, which adds as little as
    None does. A failure that ends a run of r1lab raises an exception here, which verifiers logs and scores 0.
    """
    lock = threading.Lock()
    grouped = any(getattr(facts(function), "compares", False) for function in grader.functions)

    def graded(states: list[vf.State]) -> Graded:
        with lock:
            if "graded" not in states[0]:
                states[0]["graded"] = grade(grader, states)
            return states[0]["graded"]

    def function(name: str):
        async def values(states: list[vf.State]) -> list[float]:
            found = await asyncio.to_thread(graded, states)
            if found.fatal is not None and found.fatal[0] == name:
                raise RuntimeError(found.reasons[name][found.fatal[1]])
            return [value or 0.0 for value in found.values[name]]

        async def value(state: vf.State) -> float:
            return (await values([state]))[0]

        chosen = values if grouped else value
        chosen.__name__ = name
        return chosen

    return vf.Rubric(funcs=[function(name) for name in grader.names], weights=list(grader.weights))


def grade(grader: Grader, states: list[vf.State]) -> Graded:
    """The grades of rollouts of one row: of their last turns, as in r1lab."""
    rows = [state["info"]["row"] for state in states]
    if all("episode" in state for state in states):
        episodes = [state["episode"] for state in states]
        return grader.grade([episode.text for episode in episodes], rows, None, episodes)
    texts, ids = [], []
    for state in states:
        tokens = state["trajectory"][-1]["tokens"] if state["trajectory"] else None
        texts.append(written(state["completion"]))
        ids.append([] if tokens is None else tokens["completion_ids"])
    return grader.grade(texts, rows, ids)


def written(messages: list) -> str:
    """What the model wrote last, with the thinking that a server has taken out of it."""
    last = next((message for message in reversed(messages) if message["role"] == "assistant"), None)
    if last is None:
        return ""
    thinking, content = last.get("reasoning_content"), last.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part.get("text") or "" for part in content)
    return f"<think>{thinking}</think>{content}" if thinking else content


class Played(vf.MultiTurnEnv):
    """The episodes of an environment of r1lab, in the process of verifiers.

    Args:
        spec: `environment`, `tools`, `max_turns` and `on_error`.
        seed: That of the recipe; what an episode draws depends on it and on the number of the row.
    """

    def __init__(self, spec: dict[str, Any], seed: int, **given):
        self.spec, self.seed = spec, seed
        shown = [toolset.schema(tool)["function"] for tool in make(spec).tools.values()]
        tools = [{key: tool.get(key, "") for key in ("name", "description", "parameters")} for tool in shown]
        super().__init__(tool_defs=tools, **given)

    async def setup_state(self, state: vf.State) -> None:
        """Starts the episode, whose environment may end the prompt."""
        state["session"], state["episode"] = make(self.spec), Episode([])
        info = state["info"]
        seed = task_seed(self.seed, info["number"])
        said = await _asked(state, state["session"].reset, info["row"], seed)
        if said:
            last = copy.copy(state["prompt"][-1])
            last["content"] = f"{last['content']}\n\n{said}" if last["content"] else said
            state["prompt"] = [*state["prompt"][:-1], last]

    async def env_response(self, messages: vf.Messages, state: vf.State, **kwargs) -> vf.Messages:
        """Replies to the last turn, and ends the episode as r1lab does."""
        session, episode = state["session"], state["episode"]
        turn, ids = self._turn(messages[-1], state)
        replies = await _asked(state, session.step, turn)
        made = [asdict(call) for call in turn.calls]
        tokens = state["trajectory"][-1]["tokens"]
        own = [] if tokens is None else tokens["completion_ids"]
        episode.segments.append(Segment(own, True, text=turn.text, calls=made, error=turn.problem))
        if replies:
            said = "\n".join(reply.content for reply in replies)
            episode.segments.append(Segment([], False, text=said))
        episode.end = self._end(episode, replies, turn)
        listed: Any = [_message(reply, ids[i] if i < len(ids) else "") for i, reply in enumerate(replies)]
        if episode.end:
            episode.reward, episode.info = await _asked(state, _earned, session)
            state["final_env_response"] = listed
        return listed

    def _turn(self, message: Any, state: vf.State) -> tuple[Turn, list[str]]:
        """A turn, and the ids of its calls: of those that the server has read, or else of those in the text."""
        text, listed = written([message]), message.get("tool_calls") or []
        number, cut = len(state["trajectory"]), state["trajectory"][-1]["is_truncated"]
        if not listed:
            found, problem = calls.read(text)
            return Turn(text, found, number, cut, problem), []
        problem, found = "", []
        for call in listed:
            try:
                found.append(Call(call["name"], json.loads(call["arguments"] or "{}")))
            except ValueError as error:
                problem = f"the call is not valid JSON: {error}"
        turn = Turn(text, [] if problem else found, number, cut, problem)
        return turn, [call["id"] for call in listed]

    def _end(self, episode: Episode, replies: list[Reply], turn: Turn) -> str:
        """How the episode ends after these replies, or nothing; as in `r1lab.episodes.play`."""
        if any(reply.raised for reply in replies) and self.spec["on_error"] != "tell":
            return "tool_error" if self.spec["on_error"] == "end" else "env_error"
        if any(reply.done for reply in replies):
            return "done"
        if not replies:
            return "turn_length" if turn.truncated else "answered"
        return "turns" if len(episode.turns) >= self.spec["max_turns"] else ""

    @vf.cleanup
    async def close_session(self, state: vf.State) -> None:
        """Frees what the episode used; one that verifiers itself has ended has the reward that it had until then."""
        session, episode = state.pop("session", None), state.get("episode")
        if session is None or episode is None:
            return
        if not episode.end:
            episode.end = "length"
            episode.reward, episode.info = await asyncio.to_thread(_earned, session)
        await asyncio.to_thread(session.close)


async def _asked(state: vf.State, function: Callable, *given) -> Any:
    """What an environment returns; if it raises an exception, the rollout is one with an error."""
    try:
        return await asyncio.to_thread(function, *given)
    except Exception as error:
        state["episode"].end = "env_error"
        raise vf.Error(f"{type(error).__name__}: {error}") from error


def _earned(session: Session) -> tuple[Any, dict[str, Any]]:
    return session.reward(), session.info()


def _message(reply: Reply, call: str) -> dict[str, str]:
    """A reply as a message; one to a call that the server has read names it."""
    if reply.role == "tool" and call:
        return {"role": "tool", "tool_call_id": call, "content": reply.content}
    return {"role": "user", "content": reply.content}
