"""Environments on real OpenEnv servers, which run as processes with packages of their own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r1lab import lookup, net
from r1lab.environments import Call, Turn
from r1lab.environments.make import make
from r1lab.environments.toolset import schema
from r1lab.errors import UserError
from r1lab.recipe import loading
from r1lab.recipe.acting import Environment
from r1lab.stages.playing import host_of

pytest.importorskip("websockets", minversion="15")

REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "openenv.txt"
SESSIONS = 3

SERVER = '''
import random
import sys

import uvicorn
from fastmcp import FastMCP
from openenv.core.env_server import (
    Action, CallToolAction, CallToolObservation, Environment, MCPEnvironment, Observation, State, create_fastapi_app
)
from pydantic import Field


class GuessAction(Action):
    """Guesses the number."""

    number: int = Field(description="The number.")


class GuessObservation(Observation):
    said: str = ""


class Guess(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True
    state = State()

    def reset(self, seed=None, episode_id=None, high: int = 10):
        self.number = random.Random(seed).randint(1, high)
        return GuessObservation(said=f"It is between 1 and {high}.")

    def step(self, action, timeout_s=None):
        if action.number == 13:
            raise ValueError("unlucky")
        said = "higher" if action.number < self.number else "lower" if action.number > self.number else "right"
        return GuessObservation(said=said, done=said == "right", reward=float(said == "right"))


class Shop(MCPEnvironment):
    SUPPORTS_CONCURRENT_SESSIONS = True
    state = State()

    def __init__(self):
        server = FastMCP("shop")

        @server.tool
        def price(item: str, pieces: int = 1) -> int:
            """The price of an item."""
            return {"tea": 3}[item] * pieces

        super().__init__(server)

    def reset(self, seed=None, episode_id=None):
        return Observation()

    def _step_impl(self, action, timeout_s=None):
        return Observation()


SERVED = {"guess": (Guess, GuessAction, GuessObservation), "shop": (Shop, CallToolAction, CallToolObservation)}
app = create_fastapi_app(*SERVED[sys.argv[1]], max_concurrent_envs=int(sys.argv[3]))
uvicorn.run(app, port=int(sys.argv[2]), log_level="critical")
'''


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with what a server imports."""
    folder = tmp_path_factory.mktemp("openenv")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, "-r", REQUIREMENTS]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install requirements/openenv.txt: {done.stderr[-300:]}")
    (folder / "server.py").write_text(SERVER)
    return folder


@pytest.fixture(scope="module")
def serve(packages):
    """A function that starts a server once, and returns the name of its environment in a recipe."""
    started = {}

    def start(kind: str) -> str:
        if kind not in started:
            with net.free_port() as held:
                port = held.getsockname()[1]
            process = subprocess.Popen(
                [sys.executable, packages / "server.py", kind, str(port), str(SESSIONS)],
                env=os.environ | {"PYTHONPATH": str(packages)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            started[kind] = (process, f"openenv:http://127.0.0.1:{port}")
            while True:  # until it listens; the test's own limit ends a server that never does
                try:
                    make(spec(started[kind][1]))
                    break
                except UserError:
                    assert process.poll() is None
                    time.sleep(0.2)
        return started[kind][1]

    yield start
    for process, _ in started.values():
        process.terminate()
        process.wait()


def spec(name, **parameters):
    return {"environment": {"name": name, **parameters}, "tools": []}


@pytest.mark.slow
def test_an_action_is_a_tool(serve):
    session = make(spec(serve("guess")))
    about = schema(session.tools["guess"])["function"]
    assert about["description"] == "Guesses the number." and list(about["parameters"]["properties"]) == ["number"]
    assert session.seeded and session.reset({"prompt": "Guess.", "high": 3}, 5) == "It is between 1 and 3."
    replies = session.step(Turn("", [Call("guess", {"number": number}) for number in (0, "4", 13)]))
    assert replies[0].content == "higher" and replies[0].reward == 0.0
    assert replies[1].content == 'Error: guess: number must be an integer, and is "4"'
    assert replies[2].raised and "unlucky" in replies[2].content
    found = [session.step(Turn("", [Call("guess", {"number": number})]))[0] for number in (1, 2, 3)]
    right = next(reply for reply in found if reply.content == "right")
    assert right.done and session.reward() == 1.0 and session.step(Turn("no call")) == []
    session.close()


@pytest.mark.slow
def test_a_turn_is_a_field_of_the_action(serve):
    session = make(spec(serve("guess"), action="number", observation="said"))
    assert session.tools == {}
    session.reset({"high": 3}, 5)
    first, wrong = session.step(Turn("<think> 9 </think> 0")) + session.step(Turn("none"))
    assert (first.content, first.role) == ("higher", "user")
    assert wrong.error.startswith("number: Input should be a valid integer")
    session.close()
    with pytest.raises(UserError, match="numbr: the actions of .* have other fields: number"):
        make(spec(serve("guess"), action="numbr"))


@pytest.mark.slow
def test_the_seed_draws_the_task(serve):
    def numbers(seed):
        session = make(spec(serve("guess"), action="number"))
        session.reset({"high": 100}, seed)
        said = [session.step(Turn(str(n)))[0].content for n in (20, 40, 60, 80)]
        session.close()
        return said

    assert numbers(1) == numbers(1) and len({tuple(numbers(seed)) for seed in range(6)}) > 1


@pytest.mark.slow
def test_an_environment_with_tools(serve):
    session = make(spec(serve("shop")))
    about = schema(session.tools["price"])["function"]
    assert about["description"] == "The price of an item." and about["parameters"]["required"] == ["item"]
    assert session.reset({"prompt": "?"}, 0) is None
    calls = [Call("price", {"item": "tea", "pieces": 4}), Call("price", {}), Call("price", {"item": "gold"})]
    told = session.step(Turn("", calls))
    assert told[0].content == "12" and told[1].content == "Error: price: the argument item is missing"
    assert "Error calling tool 'price'" in told[2].error and not told[2].raised
    session.close()


@pytest.mark.slow
def test_more_episodes_than_sessions_wait_for_one_and_then_fail(serve):
    open_ones = [make(spec(serve("guess"))) for _ in range(SESSIONS)]
    for session in open_ones:
        session.reset({}, 0)
    more = make(spec(serve("guess")))
    with pytest.raises(RuntimeError, match="at capacity: 3/3 .* raise the server's max_concurrent_envs"):
        more.reset({}, 0)
    for session in open_ones:
        session.close()
    assert more.reset({}, 0) == "It is between 1 and 10."
    more.close()


@pytest.mark.slow
def test_episodes_run_in_processes(serve):
    section = Environment(name=serve("guess"), action="number", workers=1)
    with_it = host_of(section, spec(section.name, **section.parameters))
    try:
        for key in range(SESSIONS):
            with_it.reset(key, {"high": 1}, key)
        for key in range(SESSIONS):
            with_it.step(key, Turn("1"))
            with_it.end(key)
        events = []
        while len(events) < 3 * SESSIONS:
            events += with_it.events(wait=True)
    finally:
        with_it.close()
    assert {event.kind for event in events} == {"reset", "step", "end"}
    assert [event.reward for event in events if event.kind == "end"] == [1.0] * SESSIONS


def test_a_recipe_is_checked_without_the_server(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("""\
stage: grpo
model: {path: "embedded:tiny-qwen2"}
data: {builder: knights_knaves, people: 2, size: 40}
rewards: [{name: environment}]
train: {per_device_train_batch_size: 16}
environment: {name: "openenv:http://localhost:9", action: number}
""")
    recipe = loading.load([str(path)])
    assert recipe.environment.parameters == {"action": "number"}
    for setting, said in [
        ("environment.acton=x", "environment.acton: unknown parameter (did you mean `action`?)"),
        ("environment.name=openenv:localhost", "should be the address of a server"),
        ("tools=[calculator]", "have no effect with openenv:http://localhost:9"),
    ]:
        with pytest.raises(UserError) as caught:
            loading.load([str(path), setting])
        assert said in caught.value.problems[0]


def test_a_server_that_is_not_there_is_one_line():
    with pytest.raises(UserError) as caught:
        make(spec("openenv:http://127.0.0.1:9"))
    (line,) = caught.value.problems
    assert line.startswith("openenv:http://127.0.0.1:9: ConnectError") and line.endswith("and does it run?")


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "r1lab.environments.openenv", None)
    with pytest.raises(UserError, match=r"pip install 'r1lab\[openenv\]'"):
        lookup.function("environments", "openenv:http://localhost:8000")
