"""Tools of a real MCP server, which runs as a process."""

import os
import subprocess
import sys
import time

import pytest

from r1lab import net
from r1lab.environments import Call, Turn
from r1lab.environments.make import make
from r1lab.environments.toolset import schema
from r1lab.errors import UserError

pytest.importorskip("mcp")

SERVER = '''
import os
import sys

from mcp.server import MCPServer

server = MCPServer("shop")


@server.tool()
def price(item: str, pieces: int = 1) -> int:
    """The price of an item."""
    return {"tea": 3}[item] * pieces


@server.tool()
def process() -> int:
    """The process of the server."""
    return os.getpid()


if len(sys.argv) > 1:
    server.run(transport="streamable-http", port=int(sys.argv[1]))
else:
    server.run(transport="stdio")
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("mcp") / "server.py"
    path.write_text(SERVER)
    return str(path)


def spec(**where):
    return {"environment": None, "tools": [{"mcp": where}, "calculator"]}


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_that_is_started_offers_its_tools(script):
    session = make(spec(command=[sys.executable, script]))
    assert list(session.tools) == ["price", "process", "calculator"]
    found = schema(session.tools["price"])["function"]
    assert found["description"] == "The price of an item." and found["parameters"]["required"] == ["item"]
    calls = [
        Call("price", {"item": "tea", "pieces": 4}),
        Call("price", {}),
        Call("price", {"item": "tea", "pieces": "4"}),
    ]
    told = session.step(Turn("", [*calls, Call("price", {"item": "gold"})]))
    assert [reply.content for reply in told[:3]] == [
        "12", "Error: price: the argument item is missing", 'Error: price: pieces must be an integer, and is "4"',
    ]  # fmt: skip
    assert told[3].content.startswith("Error: price: Error executing tool price") and not told[3].raised


def test_a_process_connects_once_and_ends_the_server_with_itself(script):
    where = {"command": [sys.executable, script]}
    program = (
        "from r1lab.environments.make import make\n"
        f"spec = {spec(**where)!r}\n"
        "print(make(spec).tools['process'](), make(spec).tools['process']())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second = map(int, done.stdout.split())
    assert first == second and not alive(first)


def test_a_server_with_an_address(script):
    with net.free_port() as held:
        port = held.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, script, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:  # until it listens; the test's own limit ends a server that never does
            try:
                session = make(spec(url=f"http://127.0.0.1:{port}/mcp"))
                break
            except UserError:
                assert server.poll() is None
                time.sleep(0.2)
        (reply,) = session.step(Turn("", [Call("process", {})]))
        assert reply.content == str(server.pid)
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"command": ["no-such-program"]}, "mcp: no-such-program: FileNotFoundError"),
        ({"command": [sys.executable, "-c", "raise SystemExit(3)"]}, "mcp: "),
        ({"url": "http://127.0.0.1:9/mcp"}, "mcp: http://127.0.0.1:9/mcp: "),
        ({}, "mcp: should be {mcp: {command: [PROGRAM, ...]}} or {mcp: {url: ADDRESS}}"),
        ({"command": "python server.py"}, "mcp: should be {mcp: {command: [PROGRAM, ...]}} or {mcp: {url: ADDRESS}}"),
        ({"command": ["x"], "url": "http://x"}, "mcp: should be"),
    ],
)
def test_a_server_that_is_not_there_is_one_line(where, said):
    with pytest.raises(UserError) as caught:
        make(spec(**where))
    (line,) = caught.value.problems
    assert said in line and "\n" not in line
