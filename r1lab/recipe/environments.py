"""Checks the sections `environment` and `tools` of a stage."""

import inspect
from typing import Any

from r1lab import lookup
from r1lab.environments import tools as environment_tools
from r1lab.errors import UserError
from r1lab.recipe.acting import Environment, ToolSpec, environment_of
from r1lab.recipe.calls import call_problems
from r1lab.recipe.values import Problems
from r1lab.recipe.yaml_source import Keys


def environment_problems(recipe: Any) -> Problems:
    """Whether the environment and the tools of a stage exist, and accept their parameters.

    Args:
        recipe: A stage, which may have neither.
    """
    section: Environment | None = getattr(recipe, "environment", None)
    tools: list[ToolSpec] = getattr(recipe, "tools", [])
    found = _tools_problems(tools)
    if section is None:
        return found
    if section.name is not None:
        return found + _class_problems(section, bool(tools))
    if section.parameters:
        key = next(iter(section.parameters))
        found.append((("environment", key), "unknown key: without environment.name there are no parameters: set name"))
    if not tools:
        found.append((("environment",), "has no name, and there are no tools: set environment.name, or tools"))
    return found


def _class_problems(section: Environment, tools: bool) -> Problems:
    """Whether the class that an environment names is one, and accepts its parameters."""
    name, keys = str(section.name), ("environment",)
    found = call_problems("environments", name, section.parameters, keys)
    if any(at == ("environment", "name") for at, _ in found):
        return found
    environment = lookup.function("environments", name)
    if not callable(getattr(environment, "reset", None)):
        found.append((("environment", "name"), f"{name}: has no method `reset`, with which an episode starts: add it"))
    if tools and hasattr(environment, "step"):
        why = f"have no effect with {name}, whose `step` gets all calls: remove them"
        found.append((("tools",), why))
    return found


def _tools_problems(tools: list[ToolSpec]) -> Problems:
    """Whether each tool exists, and no two have the same name."""
    found: Problems = []
    names: dict[str, int] = {}
    for index, entry in enumerate(tools):
        keys: Keys = ("tools", index)
        try:
            made = [] if environment_tools.server_of(entry) else environment_tools.made(entry)
        except UserError as error:
            found += [(keys, problem) for problem in error.problems]
            continue
        for tool in made:
            if tool.__name__ in names:
                why = f"{tool.__name__}: tools.{names[tool.__name__]} has the same name: rename one of them"
                found.append((keys, why))
            names[tool.__name__] = index
    return found


def unplayed(recipe: Any) -> Problems:
    """Whether the stage has an environment, but settings with which no episodes are played yet."""
    if environment_of(recipe) is None:
        return []
    key = "environment" if recipe.environment else "tools"
    rollout, missing = recipe.rollout, ""
    if rollout.engine == "server":
        missing = "with rollout.engine: server, which gets texts and no tokens: set auto, and remove rollout.url"
    elif recipe.on_policy and recipe.train.get("scale_rewards") == "batch":
        missing = "with train.scale_rewards: batch: set group or none"
    elif recipe.on_policy and (recipe.train.get("vllm_tensor_parallel_size") or 1) > 1:
        missing = (
            "with train.vllm_tensor_parallel_size: set launch.rollout: server and rollout.tensor_parallel instead"
        )
    elif recipe.stage == "sample" and recipe.keep.which == "pairs":
        missing = "with keep: pairs, because a dpo stage trains on single turns: set right, best or all"
    return [((key,), f"not built yet {missing}")] if missing else []


def columns(environment: Any) -> list[str]:
    """The columns of the data that an environment requires: the parameters of `reset` without a default."""
    parameters = inspect.signature(environment.reset).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    return [name for name in required if name not in ("self", "seed")]
