"""`r1lab play`: an episode of an environment, played by a person at the console or by a model."""

import ast
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any, cast

from r1lab import ask, lookup
from r1lab.data import calls as builders
from r1lab.environments import Call, calls, toolset
from r1lab.environments.host import LocalHost
from r1lab.environments.make import make
from r1lab.environments.players import Game, played
from r1lab.environments.toolset import Session
from r1lab.episodes.record import ENDS
from r1lab.errors import UserError
from r1lab.recipe.environments import columns
from r1lab.text import did_you_mean_path

MAX_TOKENS = 256
"""The default of the maximum number of tokens of a model's turn."""


def run(
    environment: str,
    model: str | None,
    *,
    data: str | None,
    seed: int,
    turns: int,
    engine: str,
    template: str | None,
    max_tokens: int | None,
    temperature: float,
) -> None:
    """Plays an episode, and prints it.

    Args:
        environment: The name of an environment, as in a recipe.
        model: The player; None for the person at the console.
        data: A builder, or a file of rows. Default: the builder with the environment's name.
        seed: The first row of the builder depends on it, and what the environment draws.
        turns: The maximum number of turns.
        template: The prompt template of a model; None for its chat template.

    Raises:
        UserError: There is no such environment, model or data, or a row lacks a column.
    """
    for option, value in (("--turns", turns), ("--max-tokens", max_tokens)):
        if value is not None and value < 1:
            raise UserError(f"r1lab play: {option} {value}: must be at least 1")
    lookup.function("environments", environment)
    spec = {"environment": {"name": environment}, "tools": []}
    try:
        session = make(spec)
    except TypeError as error:
        raise UserError(f"r1lab play: {environment}: {error}: give the parameter a default") from error
    row = first_row(environment, data, seed)
    if model is None:
        by_person(session, row, seed, turns)
        return
    limits = {"turns": turns, "tokens": max_tokens or MAX_TOKENS, "temperature": temperature}
    by_model(lambda: make(spec), row, seed, model, engine=engine, template=template, **limits)


def first_row(environment: str, data: str | None, seed: int) -> dict:
    """The row of an episode: the first one of the data.

    Raises:
        UserError: There are no data, or the row lacks a column that the environment requires.
    """
    needed = columns(lookup.function("environments", environment))
    if data is None and environment not in lookup.names("data"):
        if needed:
            what = f"r1lab play: {environment} needs rows with {', '.join(needed)}"
            raise UserError(f"{what}: add --data FILE, or --data BUILDER")
        return {"prompt": ""}
    name, parameters = data or environment, {}
    if data is not None and data not in lookup.names("data") and ".py:" not in data:
        if "." not in data:
            raise UserError(f"r1lab play: --data {data}: no such file or builder{did_you_mean_path(data)}")
        name, parameters = "rows", {"path": data}
    row = builders.rows_of(name, parameters, {"split": "train", "size": 1, "seed": seed})[0]
    if missing := [column for column in needed if column not in row]:
        raise UserError(f"r1lab play: {name} has no column {missing[0]}, which {environment} needs: add it")
    return row


def by_person(session: Session, row: dict, seed: int, turns: int) -> Game:
    """Plays an episode whose turns are typed; the end of the input ends it."""
    print(_text(row["prompt"]))
    for tool in session.tools.values():
        function = toolset.schema(tool)["function"]
        print(f"  {_signature(function)}  {function.get('description', '')}")
    if session.tools:
        print("Type a call, such as NAME(ARGUMENT='VALUE'), or the last turn.")

    def typed(said: str) -> str | list[Call]:
        if said:
            print(said)
        line = input("> " if sys.stdin.isatty() else "")
        return found if (found := call(line, session.tools)) else line

    try:
        game = played(session, row, seed, typed, turns=turns)
    except EOFError:
        print("\nended by you, without a reward")
        return Game()
    replied = len(game.said) > len(game.turns)
    if replied:
        print(game.said[-1])
    _print_end("turns" if not game.ended else "done" if replied else "answered", game.reward, game.info)
    return game


def call(line: str, tools: dict[str, Callable]) -> list[Call]:
    """The call of a tool that a person typed as in Python; none if it is text.

    >>> call("age('Mia')", {"age": lambda person: 7})
    [Call(name='age', arguments={'person': 'Mia'})]
    """
    if not re.match(r"\s*[\w.]+\s*\(", line):
        return []
    try:
        node = ast.parse(line.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or ast.unparse(node.func) not in tools:
            return []
        name = ast.unparse(node.func)
        values = [ast.literal_eval(value) for value in node.args]
        named = {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg}
    except (SyntaxError, ValueError):
        return []
    return [Call(name, dict(zip(_parameters(tools[name]), values)) | named)]


def _parameters(tool: Callable) -> list[str]:
    declared = getattr(tool, "schema", None)
    if isinstance(declared, dict):
        return list(declared["function"].get("parameters", {}).get("properties", {}))
    return list(inspect.signature(tool).parameters)


def _signature(function: dict) -> str:
    properties = function.get("parameters", {}).get("properties", {})
    listed = [f"{name}: {about.get('type', 'any')}" for name, about in properties.items()]
    return f"{function['name']}({', '.join(listed)})"


def by_model(
    session: Callable[[], Session],
    row: dict,
    seed: int,
    model: str,
    *,
    engine: str,
    template: str | None,
    turns: int,
    tokens: int,
    temperature: float,
):
    """Plays an episode with a model, and prints what it and the environment say."""
    from r1lab.engines import EpisodeEngine, Sampling
    from r1lab.episodes.play import Job, Limits, Player
    from r1lab.episodes.prompt import beginning
    from r1lab.episodes.template import TurnTemplate
    from r1lab.models import prompts

    tokenizer, loaded = ask.opened(model, engine)
    settings = {"template": template or ("chat" if tokenizer.chat_template else "none")}
    style = calls.style_of(tokenizer)
    schemas = [toolset.schema(tool) for tool in session().tools.values()]
    between = TurnTemplate(tokenizer, **settings)
    begin = beginning(tokenizer, schemas, **settings)
    _, prefill = prompts.render(row["prompt"], tokenizer, **settings)
    stop = [] if between.end is None else [between.end]
    limits = Limits(turns, tokens, turns * tokens, min(tokenizer.model_max_length, 10**6))
    generated = cast(EpisodeEngine, loaded).open(Sampling(temperature=temperature), stop)
    player = Player(generated, LocalHost(session), limits, between, begin, style=style, prefill=prefill)
    (episode,) = player.play([Job(row, seed, sampling_seed=seed)])
    print(tokenizer.decode(episode.prompt_ids))
    for segment in episode.segments:
        print(f"{model}> {segment.text}" if segment.own else segment.text)
    _print_end(episode.end, episode.reward, episode.info)
    return episode


def _print_end(end: str, reward: float | dict[str, float] | None, info: dict[str, Any]) -> None:
    about = info.get("problem") or info.get("reason")
    print(f"ended: {ENDS[end]}", f"reward: {'none' if reward is None else reward}", *filter(None, [about]), sep="; ")


def _text(prompt: str | list[dict]) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
