"""`r1lab play`: an episode of an environment, played by a person at the console or by a model."""

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from r1lab import ask, lookup
from r1lab.environments import Call, toolset
from r1lab.environments.make import make, spec_of
from r1lab.environments.players import Game, played
from r1lab.environments.toolset import Session
from r1lab.episodes.record import ENDS
from r1lab.errors import UserError
from r1lab.recipe import loading
from r1lab.recipe.acting import environment_of
from r1lab.recipe.environments import columns
from r1lab.recipe.schema import Pipeline, StageRecipe
from r1lab.recipe.yaml_source import is_assignment, packaged_recipes
from r1lab.stages.rows import build_rows, task_sections
from r1lab.text import did_you_mean_path

MAX_TOKENS = 256
"""The default of the maximum number of tokens of a model's turn."""


def run(
    environment: str,
    model: str | None,
    sources: list[str],
    *,
    data: str | None,
    seed: int,
    turns: int | None,
    engine: str,
    template: str | None,
    max_tokens: int | None,
    temperature: float,
) -> None:
    """Plays an episode, and prints it.

    Args:
        environment: The name of an environment, as in a recipe, or a recipe with one.
        model: The player; None for the person at the console.
        sources: Settings of the sections `environment` and `tools`, and of a recipe all of its keys.
        data: A builder, or a file of rows. Default: the data of the recipe, or the builder of the environment's name.
        seed: The row depends on it, and what the environment draws.
        turns: The maximum number of turns. Default: `environment.max_turns`.
        template: The prompt template of a model. Default: that of the recipe, or its chat template.
        max_tokens: The maximum number of tokens of a turn. Default: those of the recipe, or `MAX_TOKENS`.

    Raises:
        UserError: There is no such environment, model or data, or a row lacks a column.
    """
    if model is not None and is_assignment(model):
        model, sources = None, [model, *sources]
    for word in sources:
        if not is_assignment(word):
            raise UserError(f"r1lab play: {word}: unexpected argument: settings are KEY=VALUE, after ENV and MODEL")
    for option, value in (("--turns", turns), ("--max-tokens", max_tokens)):
        if value is not None and value < 1:
            raise UserError(f"r1lab play: {option} {value}: must be at least 1")
    of_recipe = environment.endswith((".yaml", ".yml")) or environment in packaged_recipes()
    if of_recipe:
        limits = [f"environment.max_turn_length={max_tokens}"] if max_tokens else []
        stage = _stage(environment, loading.load([environment, *sources, *limits]))
    else:
        stage = _made(environment, sources, data, max_tokens or MAX_TOKENS)
    section = environment_of(stage)
    assert section is not None  # `_stage` and `_made` see to it
    turns = turns or section.max_turns
    stage = stage.model_copy(update={"environment": section.model_copy(update={"max_turns": turns})})
    row = _row(stage, data, seed, given=of_recipe)
    if model is None:
        by_person(make(spec_of(stage)), row, seed, turns)
        return
    by_model(stage, row, seed, model, engine=engine, template=template, temperature=temperature, given=of_recipe)


def _stage(source: str, recipe: Any) -> StageRecipe:
    """The first stage of a recipe that has an environment."""
    stages = recipe.stages if isinstance(recipe, Pipeline) else [recipe]
    for stage in stages:
        if environment_of(stage) is not None:
            return stage
    raise UserError(f"r1lab play: {source}: no stage has an environment: add `environment:` or `tools:` to it")


def _made(environment: str, sources: list[str], data: str | None, tokens: int) -> StageRecipe:
    """An eval stage with an environment, so that its settings are checked as those of a recipe."""
    lookup.function("environments", environment)
    # Without a builder the stage has no rows; the path is not read.
    name, parameters = _builder(environment, data) or ("rows", {"path": "none.jsonl"})
    settings = {
        "stage": "eval", "name": "play", "model.path": "none", "environment.name": environment,
        "environment.max_turn_length": tokens, "rollout.max_completion_length": 10**6, "data.builder": name,
        "rewards": [{"name": "environment"}],
        **{f"data.{key}": value for key, value in parameters.items()},
    }  # fmt: skip
    made = loading.load([*(f"{key}={json.dumps(value)}" for key, value in settings.items()), *sources])
    assert isinstance(made, StageRecipe)  # it has `stage` and no `stages`
    return made


def _builder(environment: str, data: str | None) -> tuple[str, dict[str, Any]] | None:
    """The builder of the rows and its parameters; None if the environment needs no rows.

    Raises:
        UserError: There is no such builder or file, or the environment needs rows and none are given.
    """
    if data is None and environment not in lookup.names("data"):
        if needed := columns(lookup.function("environments", environment)):
            what = f"r1lab play: {environment} needs rows with {', '.join(needed)}"
            raise UserError(f"{what}: add --data FILE, or --data BUILDER")
        return None
    name = data or environment
    if name in lookup.names("data") or ".py:" in name:
        return name, {}
    if "." not in name:
        raise UserError(f"r1lab play: --data {name}: no such file or builder{did_you_mean_path(name)}")
    return "rows", {"path": str(Path(name).expanduser().resolve())}


def _row(stage: Any, data: str | None, seed: int, *, given: bool) -> dict:
    """The row of the episode: the first one of the stage's data, or of `data`.

    Args:
        given: Whether the stage is one of a recipe.

    Raises:
        UserError: The row lacks a column that the environment requires.
    """
    name = None if stage.environment is None else stage.environment.name
    if not given and _builder(str(name), data) is None:
        return {"prompt": ""}
    section = next(iter(task_sections(stage).values())) if stage.stage == "eval" else stage.data
    if given and data is not None:
        builder, parameters = _builder(data, data) or (data, {})
        section = type(section).model_validate({"builder": builder, "split": section.split, **parameters})
    split = section.split if given else "train"
    row = build_rows(section.model_copy(update={"seed": seed, "split": split}), seed=seed, size=1)[0]
    needed = [] if name is None else columns(lookup.function("environments", name))
    if missing := [column for column in needed if column not in row]:
        raise UserError(f"r1lab play: {section.builder} has no column {missing[0]}, which {name} needs: add it")
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
    stage: Any, row: dict, seed: int, model: str, *, engine: str, template: str | None, temperature: float, given: bool
):
    """Plays an episode with a model, and prints what it and the environment say.

    Args:
        stage: Its environment, tools, prompt and lengths are used.
        given: Whether the stage is one of a recipe, whose prompt template then is the default.
    """
    from r1lab.engines import EpisodeEngine, Sampling
    from r1lab.episodes.play import Job
    from r1lab.stages.playing import setting_of

    tokenizer, loaded = ask.opened(model, engine)
    if template or not given:
        chosen = template or ("chat" if tokenizer.chat_template else "none")
        stage = stage.model_copy(update={"prompt": stage.prompt.model_copy(update={"template": chosen})})
    setting = setting_of(stage, tokenizer, min(tokenizer.model_max_length, 10**6))
    assert setting is not None  # the stage has an environment
    sampling = Sampling(temperature=temperature, max_tokens=stage.rollout.max_completion_length)
    player = setting.player(cast(EpisodeEngine, loaded), sampling)
    try:
        (episode,) = player.play([Job(row, seed, sampling_seed=seed)])
    finally:
        setting.host.close()
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
