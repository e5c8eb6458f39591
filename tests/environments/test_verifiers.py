"""Environments of verifiers: as verifiers itself plays them."""

import signal
import sys

import pytest

from r1lab import lookup
from r1lab.data import verifiers
from r1lab.environments import Call, Turn
from r1lab.environments.make import make, spec_of
from r1lab.environments.toolset import schema
from r1lab.errors import UserError
from r1lab.recipe import loading
from r1lab.stages.playing import host_of

pytest.importorskip("verifiers", reason="pip install --no-deps -r requirements/verifiers.txt")

CODE = '''
import verifiers as vf
from datasets import Dataset


class Counting(vf.MultiTurnEnv):
    async def setup_state(self, state):
        state["seen"] = 0

    async def env_response(self, messages, state, **kwargs):
        state["seen"] += 1
        said = messages[-1].content
        if said == "fail":
            raise RuntimeError("the environment failed")
        if said == state["answer"]:
            state["final_env_response"] = [{"role": "user", "content": "right"}]
        return [{"role": "user", "content": f"{said} is wrong"}]


def price(item: str, pieces: int = 1) -> int:
    """The price of an item.

    Args:
        item: Its name.
        pieces: How many.
    """
    return {"tea": 3}[item] * pieces


def last(completion, answer, **kwargs):
    return float(answer in completion[-2 if completion[-1].role == "user" else -1].content)


def turns(state, **kwargs):
    return len(state["trajectory"])


def load_environment(kind="counting", size=4):
    rows = [{"question": f"Say {i}.", "answer": str(i)} for i in range(size)]
    given = {"dataset": Dataset.from_list(rows), "eval_dataset": Dataset.from_list(rows[:1])}
    given["system_prompt"] = "Count."
    if kind == "tools":
        return vf.ToolEnv(tools=[price], rubric=vf.Rubric(funcs=[last]), **given)
    if kind == "single":
        return vf.SingleTurnEnv(rubric=vf.Rubric(funcs=[last]), **given)
    if kind == "groups":
        return vf.SingleTurnEnv(rubric=vf.Rubric(funcs=[lambda completions: [1.0]]), **given)
    if kind == "other":
        return 3
    return Counting(max_turns=3, rubric=vf.Rubric(funcs=[last, turns], weights=[1.0, 0.5]), **given)
'''

RECIPE = """\
stage: grpo
model: {path: "embedded:tiny-qwen2"}
prompt: {template: chat}
environment: {name: "verifiers:counting_env"}
train: {per_device_train_batch_size: 16}
"""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verifiers")
    (folder / "counting_env.py").write_text(CODE)
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))


def spec(**arguments):
    given = {"arguments": arguments} if arguments else {}
    return {"environment": {"name": "verifiers:counting_env", **given}, "tools": []}


def begun(number=2, **arguments):
    session = make(spec(**arguments))
    assert session.reset(verifiers(module="counting_env")[number], 0) is None
    return session


def test_one_line_of_a_recipe_has_rows_and_rewards(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    recipe = loading.load([str(path)])
    assert recipe.data.parameters == {"module": "counting_env"} and [r.name for r in recipe.rewards] == ["environment"]
    assert spec_of(recipe) == spec()
    more = loading.load([str(path), "environment.arguments.size=7", "rewards=[{name: environment, weight: 2}]"])
    assert more.data.parameters["arguments"] == {"size": 7} and more.rewards[0].weight == 2
    assert len(lookup.function("data", more.data.builder)(**more.data.parameters)) == 7


def test_rows_are_those_of_the_data_set():
    rows = verifiers(module="counting_env", size=2, seed=1)
    assert len(rows) == 2 and len(verifiers(module="counting_env", split="test")) == 1
    row = verifiers(module="counting_env")[3]
    assert row["prompt"] == [{"role": "system", "content": "Count."}, {"role": "user", "content": "Say 3."}]
    assert (row["answer"], row["task"]) == ("3", "counting_env")


def test_an_episode_ends_as_the_environment_says():
    session = begun()
    (reply,) = session.step(Turn("1", number=1))
    assert (reply.content, reply.role, reply.done) == ("1 is wrong", "user", False)
    (final,) = session.step(Turn("2", number=2))
    assert final.content == "right" and final.done
    assert session.reward() == 1.0 + 0.5 * 2
    assert session.info()["metrics"] == {"last": 1.0, "turns": 2.0, "num_turns": 2.0}


def test_an_episode_ends_at_the_limits_of_its_environment():
    session = begun()
    assert [len(session.step(Turn("x", number=n))) for n in (1, 2, 3)] == [1, 1, 0]
    assert session.reward() == 1.5 and session.info()["stop_condition"] == "max_turns_reached"


def test_calls_of_tools():
    session = begun(kind="tools")
    assert schema(session.tools["price"])["function"]["description"] == "The price of an item."
    told = session.step(Turn("", [Call("price", {"item": "tea", "pieces": 4}), Call("price", {"item": "gold"})]))
    assert [(reply.content, reply.role) for reply in told] == [("12", "tool"), ("'gold'", "tool")]
    assert session.step(Turn("<tool_call>", problem="the call is not valid JSON"))[0].error
    assert session.step(Turn("It is 2.")) == [] and session.reward() == 1.0


def test_what_fails_is_no_reward():
    with pytest.raises(RuntimeError, match="the environment failed"):
        begun().step(Turn("fail"))


def test_episodes_run_in_processes(tmp_path, monkeypatch, module):
    monkeypatch.chdir(module)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    recipe = loading.load([str(path), "environment.workers=1", "environment.arguments.kind=single"])
    host = host_of(recipe.environment, spec_of(recipe))
    try:
        host.reset(0, verifiers(module="counting_env")[1], 5)
        host.step(0, Turn("1"))
        host.end(0)
        events = []
        while len(events) < 3:
            events += host.events(wait=True)
    finally:
        host.close()
    assert [event.kind for event in events] == ["reset", "step", "end"] and events[2].reward == 1.0


def test_the_signals_of_a_run_are_kept():
    kept = signal.getsignal(signal.SIGINT)
    make(spec(size=9))
    assert signal.getsignal(signal.SIGINT) is kept


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"knd": 1}, "unexpected keyword argument 'knd': check environment.name and environment.arguments"),
        ({"kind": "groups"}, "its rubric scores groups"),
        ({"kind": "other"}, "verifiers:counting_env: "),
    ],
)
def test_what_cannot_be_played_is_one_line(arguments, said):
    with pytest.raises(UserError) as caught:
        make(spec(**arguments))
    (line,) = caught.value.problems
    assert said in line and "\n" not in line
