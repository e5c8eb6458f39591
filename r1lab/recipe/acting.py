"""The sections `environment` and `tools` of a recipe."""

from typing import Any, Literal

from pydantic import Field

from r1lab.recipe.sections import Call


class Environment(Call):
    """What the model acts in over several turns; all other keys are parameters of the environment.

    `name` is an environment of r1lab's own, a dotted path, or a class in a file, `./env.py:Class`; without it there
    are only `tools`. An episode has at most `max_turns` turns of the model, each of at most `max_turn_length` tokens.
    Its own tokens of all turns together are at most `rollout.max_completion_length`, which is also the default of
    `max_turn_length`. Of a reply that is longer than `max_reply_length` tokens, the middle is left out.

    A step of the environment has `timeout` seconds. `on_error` decides what happens if a tool raises an exception:
    `tell` the model, `end` the episode, or `skip` it, which then does not count. `workers` is the number of processes
    that run environments: by default one per core, and none for r1lab's own. 0 runs them in the process of the stage,
    without a timeout. `calls`
    is the format in which the model writes calls of tools; `auto` is that of its chat template.
    """

    name: str | None = Field(default=None, min_length=1)
    max_turns: int = Field(default=6, ge=1)
    max_turn_length: int | None = Field(default=None, ge=1)
    max_reply_length: int = Field(default=256, ge=1)
    timeout: float = Field(default=5.0, gt=0)
    on_error: Literal["tell", "end", "skip"] = "tell"
    workers: int | None = Field(default=None, ge=0)
    calls: Literal["auto", "hermes", "llama", "deepseek"] = "auto"


ToolSpec = str | dict[str, Any]
"""A tool by its name, as a function of a file, or as a map; `r1lab.environments.tools` describes them."""


def environment_of(recipe: Any) -> Environment | None:
    """The section `environment` of a stage, with its defaults if there are only `tools`; None without both."""
    section = getattr(recipe, "environment", None)
    return Environment() if section is None and getattr(recipe, "tools", None) else section


def filled(data: dict[str, Any]) -> dict[str, Any]:
    """A stage whose environment is of verifiers, with the environment's rows and rubric if it names no others."""
    section = data.get("environment")
    library, _, module = str(section.get("name")).partition(":") if isinstance(section, dict) else ("", "", "")
    if library != "verifiers" or not isinstance(section, dict):
        return data
    rows = {"builder": library, "module": module}
    if "arguments" in section:
        rows["arguments"] = section["arguments"]
    return {"data": rows, "rewards": [{"name": "environment"}], **data}
