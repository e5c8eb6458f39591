"""Tools of a recipe: r1lab's own, functions of a file or a package, and others that bring their own schema.

An entry of `tools` is

- the name of one of r1lab's own: `calculator` or `python`;
- a function with types and a docstring: `./tools.py:weather`, `package.module.weather`;
- `{schema: FILE, call: ./tools.py:run}`: tools in OpenAI's format, and a function `run(name, arguments)` for all;
- `{mcp: {command: [PROGRAM, ...]}}` or `{mcp: {url: ADDRESS}}`: the tools of an MCP server.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from r1lab import lookup
from r1lab.environments.own_tools import calculator, python
from r1lab.errors import UserError
from r1lab.text import did_you_mean

FORMS = "a name such as calculator, ./tools.py:weather, {schema: tools.json, call: ./tools.py:run}, or {mcp: ...}"
OWN: dict[str, Callable] = {"calculator": calculator, "python": python}
"""r1lab's own tools, by name."""


def made(entry: str | dict[str, Any]) -> list[Callable]:
    """The tools of an entry of a recipe's `tools`.

    Raises:
        UserError: There is no such tool, or the entry has another form.
    """
    if isinstance(entry, str):
        return [_named(entry)]
    if entry.keys() == {"schema", "call"}:
        return _dispatched(str(entry["schema"]), str(entry["call"]))
    if (server := server_of(entry)) is not None:
        try:
            from r1lab.environments import mcp
        except ImportError as error:
            raise UserError(f"mcp: needs the package mcp: {error}: pip install 'r1lab[mcp]'") from error
        return mcp.tools(server)
    raise UserError(f"should be {FORMS}")


def server_of(entry: str | dict[str, Any]) -> dict[str, Any] | None:
    """The MCP server that an entry names, as `command` or `url`; None if it names none.

    Raises:
        UserError: It names one in another form.
    """
    if isinstance(entry, str) or entry.keys() != {"mcp"}:
        return None
    where = entry["mcp"]
    if isinstance(where, dict) and len(where) == 1:
        command = where.get("command")
        listed = isinstance(command, list) and command and all(isinstance(word, str) for word in command)
        if listed or isinstance(where.get("url"), str):
            return where
    raise UserError("mcp: should be {mcp: {command: [PROGRAM, ...]}} or {mcp: {url: ADDRESS}}")


def _named(name: str) -> Callable:
    if "." in name:
        return lookup.external(name)
    if name not in OWN:
        hint = did_you_mean(name, OWN, otherwise=f"; there are: {', '.join(OWN)}")
        raise UserError(f"{name}: no such tool{hint}; ./tools.py:function names your own")
    return OWN[name]


def _dispatched(file: str, call: str) -> list[Callable]:
    """The tools of a file in OpenAI's format, each of which calls one function with its name and arguments."""
    try:
        listed = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"schema: {file}: {error.strerror}: write a JSON list of tools into it") from error
    except ValueError as error:
        raise UserError(f"schema: {file}: not valid JSON: {error}") from error
    run = _named(call)
    schemas = [_schema(one, file) for one in (listed if isinstance(listed, list) else [listed])]
    return [with_schema(run, schema) for schema in schemas]


def _schema(found: Any, file: str) -> dict:
    function = found.get("function", found) if isinstance(found, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        form = '{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'
        raise UserError(f"schema: {file}: each tool should be {form}")
    return {"type": "function", "function": function}


def with_schema(run: Callable[[str, dict], Any], schema: dict) -> Callable:
    """A tool that is not a Python function: one in OpenAI's format that `run(name, arguments)` calls."""
    name = schema["function"]["name"]

    def tool(**arguments):
        return run(name, arguments)

    tool.__name__ = name
    tool.schema = schema  # pyright: ignore[reportFunctionMemberAccess]: read by `r1lab.environments.toolset`
    return tool
