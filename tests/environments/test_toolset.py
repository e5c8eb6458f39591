"""A session makes tools of a user's class, calls them, and tells the model what went wrong."""

import asyncio

import pytest

from r1lab.environments.base import Call, Reply, Turn
from r1lab.environments.toolset import Session, ToolError, methods, misfit, schema


class Desk:
    """A class as for TRL's `environment_factory`."""

    def reset(self, ages: dict, **kwargs) -> str | None:
        self.ages, self.asked, self.columns = ages, 0, kwargs
        return f"{len(ages)} people."

    def age(self, person: str) -> int:
        """
        The age of a person.

        Args:
            person: The name of the person.
        """
        self.asked += 1
        return self.ages[person]

    def add(self, a: int, b: int = 1) -> int:
        """
        Adds two numbers.

        Args:
            a: The first one.
            b: The second one.
        """
        return a + b

    def get_reward(self) -> float:
        return float(self.asked > 0)

    def _hidden(self) -> None: ...


class Words:
    """An environment that answers text."""

    done = False

    def reset(self, *, seed: int, answer: int):
        self.seed, self.answer, self.info = seed, answer, {}

    def step(self, turn: Turn):
        if turn.text == "stop":
            return None
        if turn.text == str(self.answer):
            self.done, self.info = True, {"reason": "guessed"}
            return Reply("Right.", reward=1.0)
        return "higher"


def said(*called: Call, text: str = "", problem: str = "") -> Turn:
    return Turn(text, list(called), problem=problem)


def session() -> Session:
    made = Session(Desk())
    assert made.reset({"ages": {"Mia": 7}, "answer": "7"}, seed=3) == "2 people.".replace("2", "1")
    return made


def test_public_methods_are_tools_and_have_schemas():
    names = [method.__name__ for method in methods(Desk())]
    assert names == ["add", "age"]
    found = schema(Desk().add)["function"]
    assert found["description"] == "Adds two numbers." and found["parameters"]["required"] == ["a"]
    assert found["parameters"]["properties"]["a"] == {"type": "integer", "description": "The first one."}

    class Named(Desk):
        __tools__ = ["age"]

    assert [method.__name__ for method in methods(Named())] == ["age"]
    assert methods(Words()) == []


def test_a_tool_without_types_is_an_error_that_names_it():
    def weather(city): ...

    with pytest.raises(ValueError, match="weather"):
        schema(weather)


def test_calls_are_made_in_their_order():
    made = session()
    assert made.step(said(Call("age", {"person": "Mia"}), Call("add", {"a": 2.0}))) == [Reply("7"), Reply("3.0")]
    assert made.step(said(text="7")) == [] and made.reward() == 1.0
    assert made.environment.columns == {"answer": "7"}  # `seed` is not a column


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (Call("height", {}), "there is no tool height; there are: add, age"),
        (Call("age", {}), "age: the argument person is missing"),
        (Call("age", {"person": "Mia", "x": 1}), "age: it has no argument x; it has: person"),
        (Call("age", {"person": 3}), "age: person must be a text, and is 3"),
        (Call("add", {"a": True}), "add: a must be an integer, and is True"),
        (Call("age", {"person": "Bob"}), "age: KeyError: 'Bob'"),
    ],
)
def test_the_model_is_told_what_is_wrong_with_a_call(call, told):
    (reply,) = session().step(said(call))
    assert reply.content == f"Error: {told}" and reply.error.startswith(told)
    assert reply.raised == ("KeyError" in told)


def test_a_call_that_could_not_be_read_is_told_and_the_episode_goes_on():
    (reply,) = session().step(said(problem="the call is not valid JSON"))
    assert reply.content == "Error: the call is not valid JSON" and not reply.done


def test_a_tool_can_refuse_a_call():
    def buy(item: str) -> str:
        raise ToolError(f"{item} is sold out")

    (reply,) = Session(tools=[buy]).step(said(Call("buy", {"item": "tea"})))
    assert reply.content == "Error: buy: tea is sold out" and not reply.raised


def test_an_environment_that_answers_text():
    made = Session(Words())
    assert made.reset({"answer": 5, "prompt": "guess"}, seed=8) is None and made.environment.seed == 8
    assert made.step(said(text="4")) == [Reply("higher", role="user")]
    assert made.step(said(text="5")) == [Reply("Right.", reward=1.0, done=True)]
    assert made.reward() == 1.0 and made.info() == {"reason": "guessed"}
    assert Session(Words()).step(said(text="stop")) == []


def test_rewards_of_replies_are_added_to_that_of_the_environment():
    class Both(Words):
        def get_reward(self):
            return 10.0

    made = Session(Both())
    made.reset({"answer": 1}, seed=0)
    made.step(said(text="1"))
    assert made.reward() == 11.0


def test_an_environment_without_a_reward_has_none():
    class Quiet:
        def reset(self): ...

    made = Session(Quiet())
    made.reset({"answer": 1}, seed=0)
    assert made.reward() is None and made.step(said(text="x")) == []


def test_a_tool_with_a_schema_of_its_own_is_checked_by_it():
    def call(**arguments):
        return arguments

    call.schema = {
        "function": {"name": "call", "parameters": {"properties": {"x": {"type": "integer"}}, "required": ["x"]}}
    }
    assert misfit(call, {"x": 1}) == "" and misfit(call, {}) == "the argument x is missing"
    assert misfit(call, {"x": "1"}) == 'x must be an integer, and is "1"'


class Waits:
    """Coroutines, as TRL's `environment_factory` takes them, and members that are no tools there."""

    class Settings: ...

    @classmethod
    def made(cls): ...

    async def reset(self, **columns) -> str:
        self.queue: asyncio.Queue = asyncio.Queue()  # belongs to the loop in which it is first awaited
        return "Wait."

    async def put(self, text: str) -> str:
        """
        Puts a text down.

        Args:
            text: The text.
        """
        await self.queue.put(text)
        raise ToolError("not now") if text == "no" else SystemExit if text == "exit" else KeyError(text)

    async def get(self) -> str:
        """Takes it up again."""
        return await asyncio.wait_for(self.queue.get(), 1)

    async def get_reward(self) -> float:
        await asyncio.sleep(0)
        return 0.5


def test_methods_may_be_coroutines():
    session = Session(Waits())
    assert session.reset({"prompt": "?"}, seed=1) == "Wait." and set(session.tools) == {"put", "get"}
    assert schema(session.tools["put"])["function"]["parameters"]["required"] == ["text"]
    replies = session.step(said(Call("put", {"text": "no"}), Call("put", {"text": "a"}), Call("get", {})))
    assert [reply.content for reply in replies[:1]] == ["Error: put: not now"] and replies[1].raised
    assert replies[2].content == "no" and session.reward() == 0.5
    with pytest.raises(SystemExit):  # it belongs to the worker process
        session.step(said(Call("put", {"text": "exit"})))
    session.close()
