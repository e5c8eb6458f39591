"""The sections `environment` and `tools`: what is accepted, and one line for each mistake."""

import json

import pytest

from r1lab.environments.make import make, spec_of
from r1lab.errors import UserError
from r1lab.recipe import loading
from r1lab.recipe.acting import Environment, environment_of

GRPO = """\
stage: grpo
model: {path: "embedded:tiny-qwen2"}
data: {builder: knights_knaves, people: 2, size: 40}
prompt: {template: chat}
rewards: [{name: knights_knaves}]
train: {per_device_train_batch_size: 16}
"""

CODE = '''
class Shop:
    def __init__(self, *, price: int = 3, name_of: str = "tea"):
        self.price, self.done = price, False

    def reset(self, *, seed: int, answer: str, budget: int = 5, **columns):
        return None

    def buy(self, item: str) -> str:
        """
        Buys an item.

        Args:
            item: Its name.
        """
        return item


class Talk:
    def reset(self): ...
    def step(self, turn): ...


class Half: ...


class Strict:
    def __init__(self, size: int): ...
    def reset(self, tide: str): ...


def weather(city: str) -> str:
    """
    The weather.

    Args:
        city: The name of a city.
    """
    return f"rain in {city}"


def run(name, arguments):
    return f"{name} {arguments}"


def calculator(x: int) -> int:
    """
    Another one.

    Args:
        x: A number.
    """
    return x
'''


@pytest.fixture
def load(write):
    write(CODE, "env.py")
    schema = [{"type": "function", "function": {"name": "look_up", "description": "Looks up.", "parameters": {}}}]
    write(json.dumps(schema), "tools.json")

    def to(*settings, base=GRPO, **options):
        return loading.load([write(base), *settings], **options)

    return to


def problem(load, *settings, **options):
    with pytest.raises(UserError) as caught:
        load(*settings, **options)
    (line,) = caught.value.problems
    return line


def test_a_recipe_without_an_environment_has_none(load):
    recipe = load()
    assert recipe.environment is None and recipe.tools == [] and environment_of(recipe) is None


def test_parameters_are_next_to_the_keys_of_the_section(load):
    recipe = load("environment={name: ./env.py:Shop, price: 7, max_turns: 3, timeout: 2}")
    assert recipe.environment.parameters == {"price": 7}
    assert (recipe.environment.max_turns, recipe.environment.timeout) == (3, 2.0)
    session = make(json.loads(json.dumps(spec_of(recipe))))
    assert session.environment.price == 7 and list(session.tools) == ["buy"]


def test_there_may_be_only_tools(load):
    recipe = load("tools=[calculator, './env.py:weather', {schema: ./tools.json, call: './env.py:run'}]")
    assert environment_of(recipe) == Environment()
    session = make(json.loads(json.dumps(spec_of(recipe))))
    assert session.environment is None and list(session.tools) == ["calculator", "weather", "look_up"]
    assert session.tools["look_up"]() == "look_up {}"


def test_a_server_of_tools_is_not_started_to_load_a_recipe(load):
    assert load("tools=[{mcp: {command: [no-such-program]}}]").tools == [{"mcp": {"command": ["no-such-program"]}}]


def test_a_pipeline_shares_them_with_the_stages_that_have_them(load, write):
    stages = """\
model: {path: "embedded:tiny-qwen2"}
data: {builder: knights_knaves, people: 2, size: 40}
environment: {name: "./env.py:Shop"}
tools: [calculator]
rewards: [{name: knights_knaves}]
stages:
  - {name: warm, stage: sft, data: {builder: knights_knaves, size: 8, solution: evaluation}}
  - {name: before, stage: eval}
  - {name: keep, stage: sample, tools: []}
"""
    _, before, keep = load(base=stages).stages
    assert before.environment.name.endswith("env.py:Shop") and before.tools == ["calculator"]
    assert keep.environment == before.environment and keep.tools == []


def test_a_resolved_recipe_loads_again(load, write):
    recipe = load("environment={name: ./env.py:Shop, price: 7}", "tools=[calculator]")
    again = loading.load([write(loading.dumps(recipe), "again.yaml")])
    assert again.environment == recipe.environment and again.tools == recipe.tools


def test_in_small_an_episode_has_two_turns(load):
    assert load("environment={name: ./env.py:Shop}").environment.max_turns == 6
    assert load(base=GRPO + "environment: {name: './env.py:Shop'}", tiny=True).environment.max_turns == 2


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("environment={name: number_gess}", "environment.name: number_gess: no such environment"),
        ("environment={name: './env.py:Shpo'}", "has no class Shpo (did you mean `Shop`?)"),
        ("environment={name: './env.py'}", "names no class: write it as"),
        ("environment={name: './none.py:Shop'}", "none.py: no such file"),
        ("environment={name: './env.py:weather'}", "has no class weather"),
        ("environment={name: './env.py:Half'}", "has no method `reset`, with which an episode starts: add it"),
        ("environment={name: './env.py:Shop', prise: 3}", "prise: unknown parameter (did you mean `price`?)"),
        ("environment={name: './env.py:Shop', max_turn: 3}", "unknown parameter (did you mean `max_turns`?)"),
        ("environment={name: './env.py:Shop', price: '3'}", "should be a whole number, not the text '3'"),
        ("environment={name: './env.py:Strict'}", "needs the parameter `size`"),
        ("environment={name: './env.py:Shop', max_turns: 0}", "environment.max_turns: should be at least 1, not 0"),
        ("environment={name: './env.py:Shop', on_error: stop}", "should be one of tell, end, skip"),
        ("environment={name: './env.py:Shop', calls: xml}", "should be one of auto, hermes, llama, deepseek"),
        ("environment={max_turns: 3}", "environment: has no name, and there are no tools"),
        ("tools=[calculater]", "tools.0: calculater: no such tool (did you mean `calculator`?)"),
        ("tools=['./env.py:wether']", "has no function wether (did you mean `weather`?)"),
        ("tools=[{mcp: {command: python}}]", "tools.0: mcp: should be {mcp: {command: [PROGRAM, ...]}}"),
        ("tools=[{schema: tools.json}]", "tools.0: should be a name such as calculator"),
        ("tools=[{schema: none.json, call: './env.py:run'}]", "tools.0: schema: none.json: No such file"),
        ("tools=[{schema: env.py, call: './env.py:run'}]", "env.py: not valid JSON"),
        ("tools=[calculator, './env.py:calculator']", "tools.1: calculator: tools.0 has the same name: rename one"),
        ("train.max_tool_calling_iterations=3", "not set here: set `environment.max_turns` instead"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(load, setting, said):
    assert said in problem(load, setting)


def test_tools_of_an_environment_with_step_have_no_effect(load):
    line = problem(load, "environment={name: './env.py:Talk'}", "tools=[calculator]")
    assert line.endswith("env.py:Talk, whose `step` gets all calls: remove them") and "tools: have no effect" in line


def test_parameters_without_a_name_are_unknown(load):
    line = problem(load, "environment={price: 3}", "tools=[calculator]")
    assert "environment.price: unknown key: without environment.name there are no parameters: set name" in line


def test_what_reset_requires_is_a_column_of_the_rows(load):
    with pytest.raises(UserError) as caught:
        load("environment={name: './env.py:Strict', size: 2}", inputs=True)
    assert any("has no column `tide`, for the environment" in line for line in caught.value.problems)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["tools=[calculator]", "train.scale_rewards=batch"], "tools: not built yet with train.scale_rewards"),
        (
            ["tools=[calculator]", "train.vllm_tensor_parallel_size=2", "launch.gpus=2"],
            "tools: not built yet with train.vllm_tensor_parallel_size: set launch.rollout: server",
        ),
        (
            ["tools=[calculator]", "rollout.url='http://127.0.0.1:1'", "rollout.engine=server"],
            "tools: not built yet with rollout.engine: server, which gets texts and no tokens: set auto",
        ),
    ],
)
def test_settings_with_which_no_episodes_are_played_yet_are_refused(load, settings, why):
    with pytest.raises(UserError) as caught:
        load(*settings, inputs=True)
    assert any(why in line for line in caught.value.problems)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["train.overlap=true"], "train.overlap: true: has no effect with tools: remove one of them"),
        (["rollout={async: {staleness: 1}}", "launch.gpus=2"], "rollout.async: without servers it is for one rank"),
    ],
)
def test_what_episodes_do_not_run_with_is_refused_in_one_line(load, settings, why):
    assert why in problem(load, "tools=[calculator]", *settings)


def test_a_sample_stage_keeps_no_pairs_of_episodes(load):
    base = "\n".join(line for line in GRPO.splitlines() if not line.startswith("train")).replace("grpo", "sample")
    assert load("tools=[calculator]", base=base, inputs=True).stage == "sample"
    assert "tools: not built yet with keep: pairs, because a dpo stage" in problem(
        load, "tools=[calculator]", "keep=pairs", base=base, inputs=True
    )
