"""Tools of an MCP server: a command that is started, or an address. Needs the package `mcp`, which is an extra."""

import asyncio
import atexit
import json
import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from mcp import Client, StdioServerParameters

from r1lab.environments.base import ToolError
from r1lab.environments.tools import with_schema
from r1lab.errors import UserError

START = 30.0
"""Seconds in which a server has to answer at the start."""


def tools(where: dict[str, Any]) -> list[Callable]:
    """The tools of a server, which this process connects to once.

    Args:
        where: `command`, a list, or `url`.

    Raises:
        UserError: The server does not answer.
    """
    return _connected(json.dumps(where), os.getpid()).tools


@cache
def _connected(where: str, process: int) -> "Server":
    return Server(json.loads(where))


class Server:
    """A connection to a server, with a thread of its own, because the client of `mcp` is asynchronous.

    Attributes:
        tools: What the server offers.
    """

    def __init__(self, where: dict[str, Any]):
        named = where.get("url") or " ".join(where["command"])
        self.loop, self.ready, self.ended = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
        self.problem: BaseException | None = None
        self.tools: list[Callable] = []
        self.thread = threading.Thread(target=self._run, args=(where,), daemon=True)
        self.thread.start()
        if not self.ready.wait(START) or self.problem:
            self.close()
            why = f"{type(self.problem).__name__}: {self.problem}" if self.problem else f"no answer for {START:g} s"
            raise UserError(f"mcp: {named}: {' '.join(why.split())}: start it by hand to see why")
        atexit.register(self.close)

    def _run(self, where: dict[str, Any]) -> None:
        try:
            self.loop.run_until_complete(self._serve(where))
        except BaseException as error:  # of the server, or of the libraries below `mcp`
            self.problem = _innermost(error)
        finally:
            self.ready.set()

    async def _serve(self, where: dict[str, Any]) -> None:
        command = where.get("command")
        at = StdioServerParameters(command=command[0], args=command[1:]) if command else where["url"]
        async with Client(at) as self.client:
            listed, cursor = [], None
            while True:
                page = await self.client.list_tools(cursor=cursor)
                listed += page.tools
                cursor = page.next_cursor
                if cursor is None:
                    break
            self.tools = [with_schema(self.call, _schema(tool)) for tool in listed]
            self.ready.set()
            await self.ended.wait()

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """What a tool returns.

        Raises:
            ToolError: The server says that the call failed.
        """
        result = asyncio.run_coroutine_threadsafe(self.client.call_tool(name, arguments), self.loop).result()
        text = "\n".join(getattr(part, "text", f"({part.type})") for part in result.content)
        if result.is_error:
            raise ToolError(text)
        return text

    def close(self) -> None:
        """Ends the connection, and a server that was started."""
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.ended.set)
            self.thread.join(5)


def _schema(tool: Any) -> dict:
    """A tool of a server in OpenAI's format."""
    about = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
    return {"type": "function", "function": about}


def _innermost(error: BaseException) -> BaseException:
    """The first exception in groups of exceptions."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
