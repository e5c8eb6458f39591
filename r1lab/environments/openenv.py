"""Environments of OpenEnv: a server, in a container or not, each of whose sessions is an episode.

This is its WebSocket protocol and not its package `openenv-core`, which requires an `mcp` below 2 through `fastmcp`,
and a web interface. Needs the package `websockets`, which is an extra.
"""

import json
import re
import time
from contextlib import suppress
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from r1lab import net
from r1lab.environments.base import Reply, ToolError, Turn
from r1lab.environments.tools import with_schema
from r1lab.environments.toolset import Session, as_text
from r1lab.errors import UserError

START = 30.0
"""Seconds in which a server has to answer a new connection."""
ANSWER = 300.0
"""Seconds in which it has to answer a message; the deadlines of the processes that run environments are shorter."""
FREE = 5.0
"""Seconds in which a session has to become free."""
LONGEST = 100 << 20
"""Bytes of a message, as in OpenEnv's own client."""


class OpenEnv:
    """An episode on an OpenEnv server: `openenv:http://HOST:PORT`.

    The model calls the tools of an environment that has some (`MCPEnvironment`). For another one, the action is a tool
    with the fields of the action, or, with `action`, each turn of the model is a field of the action. The rewards of
    the steps are summed.

    Args:
        action: The field of an action that the text of a turn becomes, after the thinking, or in `<answer>`.
        observation: The field of an observation that the model reads. Default: the only one, or all of them as JSON.
    """

    url = ""

    def __init__(self, *, action: str | None = None, observation: str | None = None):
        self._action, self._observation = action, observation
        self._connection: ClientConnection | None = None
        offered = _offered(self.url)
        if action is not None and action not in offered["fields"]:
            fields = ", ".join(offered["fields"]) or "none"
            raise UserError(f"environment.action: {action}: the actions of {self.url} have other fields: {fields}")
        run = self._call if offered["tools"] else self._act
        self.__tools__ = [] if action else [with_schema(run, tool) for tool in offered["schemas"]]

    def reset(self, *, seed: int, **row) -> str | None:
        waited = time.monotonic() + FREE
        while True:
            self.close()
            self._connection = _connected(self.url)
            try:
                return self._read(_answer(self._connection, "reset", {**row, "seed": seed})) or None
            except _Full as error:
                if time.monotonic() > waited:
                    raise RuntimeError(f"{error}: raise the server's max_concurrent_envs") from error
                time.sleep(0.1)

    def step(self, turn: Turn) -> list[Reply]:
        if self._action is None:
            return Session(None, self.__tools__).step(turn)
        try:
            return [self._act("", {self._action: turn.answer}, role="user")]
        except ToolError as error:
            return [Reply(f"Error: {error}", role="user", error=str(error))]

    def _act(self, name: str, arguments: dict[str, Any], *, role: str = "tool") -> Reply:
        """Takes an action, whatever the name of the tool."""
        assert self._connection is not None  # an episode begins with `reset`
        found = _answer(self._connection, "step", arguments)
        return Reply(self._read(found), role=role, done=bool(found.get("done")), reward=found.get("reward"))

    def _call(self, name: str, arguments: dict[str, Any]) -> Reply:
        """Calls a tool of an environment that has some."""
        assert self._connection is not None
        action = {"type": "call_tool", "tool_name": name, "arguments": arguments}
        found = _answer(self._connection, "step", action)
        seen = found.get("observation", {})
        result = seen.get("result") or {}
        if problem := (seen.get("error") or {}).get("message"):
            raise ToolError(problem)
        parts = result.get("content", []) if isinstance(result, dict) else [{"text": as_text(result)}]
        text = "\n".join(part.get("text", f"({part.get('type')})") for part in parts)
        if isinstance(result, dict) and result.get("is_error"):
            raise ToolError(text)
        return Reply(text, done=bool(found.get("done")), reward=found.get("reward"))

    def _read(self, found: dict[str, Any]) -> str:
        """An observation as the model reads it; nothing if it is empty."""
        seen = found.get("observation", {})
        if self._observation is not None:
            if self._observation not in seen:
                fields = ", ".join(seen) or "none"
                raise KeyError(f"the observation has no field {self._observation}; it has: {fields}")
            return as_text(seen[self._observation])
        if len(seen) == 1:
            return as_text(next(iter(seen.values())))
        return json.dumps(seen, ensure_ascii=False) if seen else ""

    def close(self) -> None:
        """Ends the session on the server."""
        if self._connection is not None:
            _closed(self._connection)
            self._connection = None


@cache
def environment(url: str) -> type[OpenEnv]:
    """The class of the episodes on a server.

    Raises:
        UserError: It is no address.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UserError(f"openenv:{url}: should be the address of a server, as in openenv:http://localhost:8000")
    return type("OpenEnv", (OpenEnv,), {"url": url.rstrip("/"), "__module__": __name__, "__doc__": OpenEnv.__doc__})


@cache
def _offered(url: str) -> dict[str, Any]:
    """What the model may do: the `fields` of an action, the `schemas` of the tools, and whether they are `tools` of
    the environment or the action itself.

    Raises:
        UserError: The server does not answer.
    """
    try:
        with httpx.Client(**net.client_settings(url), timeout=START) as client:
            action = client.get(f"{url}/schema").raise_for_status().json()["action"]
        fields = {name: about for name, about in action.get("properties", {}).items() if name != "metadata"}
        tools = not fields or {"tool_name", "arguments"} <= fields.keys()
        if tools:
            connection = _connected(url)
            listed = _answer(connection, "step", {"type": "list_tools"})["observation"]["tools"]
            _closed(connection)
            schemas = [_schema(tool["name"], tool["description"], tool["input_schema"]) for tool in listed]
        else:
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", action.get("title", "").removesuffix("Action")).lower() or "act"
            description = " ".join(action.get("description", "").split())
            schemas = [_schema(name, description, {**action, "properties": fields})]
    except (httpx.HTTPError, OSError, WebSocketException, RuntimeError, KeyError, ValueError, ToolError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"openenv:{url}: {why}: is it an OpenEnv server, and does it run?") from error
    return {"fields": list(fields), "schemas": schemas, "tools": tools}


def _schema(name: str, description: str, parameters: dict) -> dict:
    about = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": about}


def _connected(url: str) -> ClientConnection:
    """A session on a server, until `_closed`."""
    proxy = None if net.is_loopback(urlsplit(url).hostname or "") else True
    connection = connect(f"ws{url.removeprefix('http')}/ws", open_timeout=START, max_size=LONGEST, proxy=proxy)
    return connection.__enter__()  # versions of websockets differ in what `connect` returns, but not in this


def _closed(connection: ClientConnection) -> None:
    with suppress(ConnectionClosed):
        connection.send(json.dumps({"type": "close"}))
    connection.close()


def _answer(connection: ClientConnection, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """What the server answers to a message.

    Raises:
        ToolError: It refuses the action.
        RuntimeError: The environment raised an exception, or all sessions are in use.
    """
    with suppress(ConnectionClosed):  # a server that is full says so, and closes the connection
        connection.send(json.dumps({"type": kind, "data": data}))
    answer = json.loads(connection.recv(timeout=ANSWER))
    found = answer.get("data", {})
    if answer.get("type") != "error":
        return found
    message, code = str(found.get("message")), found.get("code")
    if code == "VALIDATION_ERROR":
        wrong = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in found.get("errors", [])]
        raise ToolError("; ".join(wrong) or message)
    raise (_Full if code == "CAPACITY_REACHED" else RuntimeError)(f"the server says: {message}")


class _Full(RuntimeError):
    """All sessions of a server are in use; that of an episode that has just ended still is for a moment."""
