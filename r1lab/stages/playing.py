"""The episodes of a stage: its environment, its tools, and how the model's turns are rendered."""

import atexit
from functools import partial
from typing import Any

from r1lab import lookup
from r1lab.engines import Engine, EpisodeEngine
from r1lab.environments import calls, make, toolset
from r1lab.environments.host import Host, LocalHost
from r1lab.environments.processes import ProcessHost
from r1lab.episodes.engine import Episodes, Setting
from r1lab.episodes.play import Limits
from r1lab.episodes.prompt import beginning
from r1lab.episodes.template import TurnTemplate
from r1lab.errors import UserError
from r1lab.evaluation import provenance
from r1lab.models import prompts
from r1lab.recipe.acting import Environment, environment_of

BETWEEN = 64
"""Tokens between two turns besides the replies, at most: their tags, and the beginning of the next turn."""


def setting_of(recipe: Any, tokenizer, all_tokens: int) -> Setting | None:
    """Returns how the episodes of a stage are played; None if it has neither an environment nor tools.

    Args:
        all_tokens: The maximum number of tokens of an episode with its prompt.
    """
    section = environment_of(recipe)
    if section is None:
        return None
    spec = make.spec_of(recipe)
    try:
        schemas = [toolset.schema(tool) for tool in make.make(spec).tools.values()]
    except ValueError as error:
        raise UserError(f"tools: {error}: add it, because the model is shown the schema") from error
    template = recipe.prompt.model_dump()
    own = recipe.rollout.max_completion_length
    limits = Limits(
        turns=section.max_turns,
        turn_tokens=section.max_turn_length or own,
        own_tokens=own,
        all_tokens=all_tokens,
        reply_tokens=section.max_reply_length,
    )
    return Setting(
        host_of(section, spec),
        limits,
        TurnTemplate(tokenizer, **template),
        beginning(tokenizer, schemas, **template),
        style=calls.style_of(tokenizer) if section.calls == "auto" else section.calls,
        prefill=prompts.render("?", tokenizer, tools=schemas or None, **template)[1],
        on_error=section.on_error,
        tools=bool(schemas),
    )


IN_PROCESS = {"calculator"}
"""Tools that need neither a deadline nor a process of their own."""


def host_of(section: Environment, spec: dict[str, Any]) -> Host:
    """Returns where the environments of a stage run: r1lab's own in this process, and others in worker processes."""
    name = section.name
    own = name is None or name in lookup.names("environments")
    own = own and all(isinstance(tool, str) and tool in IN_PROCESS for tool in spec["tools"])
    if section.workers == 0 or (section.workers is None and own):
        return LocalHost(partial(make.make, spec))
    host = ProcessHost("r1lab.environments.make:make", spec, timeout=section.timeout, workers=section.workers)
    atexit.register(host.close)
    return host


def longest(section: Environment | None, prompt: int, own: int) -> int:
    """Returns the tokens of the longest episode with its prompt.

    Args:
        prompt: Tokens of the longest prompt.
        own: The maximum number of the model's own tokens.
    """
    replies = 0 if section is None else (section.max_turns - 1) * (section.max_reply_length + BETWEEN)
    return prompt + own + replies


def environment_settings(recipe: Any) -> dict[str, Any]:
    """Returns what the episodes of an evaluation depend on, for `evaluation.json`: environment, tools and source."""
    section = environment_of(recipe)
    if section is None:
        return {}
    spec = make.spec_of(recipe)
    session = make.make(spec)
    parts = [type(session.environment), *session.tools.values()]
    return {
        "environment": section.model_dump() | {"tools": spec["tools"]},
        "environment_source": provenance.source_digest([part for part in parts if part is not type(None)]),
    }


def played_by(engine: Engine, setting: Setting | None, rows: list[dict]) -> Engine:
    """Returns the engine whose completions are episodes of these rows, or the engine itself without a setting."""
    if setting is None:
        return engine
    if not isinstance(engine, EpisodeEngine):
        raise UserError("rollout.engine: server: an environment needs an engine in this process: set engine: auto")
    return Episodes(engine, setting, rows)
