"""`r1lab play`: an episode at the console, by a person or by a model."""

import io
import json

import pytest

from r1lab import cli, play
from r1lab.data.calls import rows_of
from r1lab.environments import Call
from r1lab.environments.make import make

SHOP = '''
class Shop:
    def reset(self, *, seed: int, budget: int):
        self.left = budget

    def buy(self, price: int) -> int:
        """
        Buys something.

        Args:
            price: What it costs.
        """
        self.left -= price
        return self.left

    def get_reward(self):
        return float(self.left == 0)


class Free:
    def __init__(self, size): ...
    def reset(self): ...
'''


@pytest.fixture
def played(monkeypatch, capsys, tmp_path):
    """Runs the command with what a person types, in a folder with an environment of the user's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "env.py").write_text(SHOP)
    rows = [{"prompt": "Spend it all.", "budget": 5}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*words, typed=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        status = cli.main(["play", *words])
        return status, capsys.readouterr()

    return run


def test_a_person_finds_the_number(played):
    row = rows_of("number_guess", {}, {"split": "train", "size": 1, "seed": 3})[0]
    session = make({"environment": {"name": "number_guess"}, "tools": []})
    session.reset(row, 3)
    secret = session.environment.secret
    other = row["low"] if secret != row["low"] else row["high"]
    status, shown = played("number_guess", "--seed", "3", typed=f"{other}\n{secret}\n")
    assert status == 0 and row["prompt"] in shown.out and "You have" in shown.out
    assert "higher" in shown.out or "lower" in shown.out
    assert shown.out.splitlines()[-1] == "ended: the environment ended it; reward: 1.0; found"


def test_a_person_calls_tools_as_in_python(played):
    _, shown = played("./env.py:Shop", "--data", "rows.jsonl", typed="buy(2)\nbuy(price=3)\ndone\n")
    assert "buy(price: integer)  Buys something." in shown.out and "Spend it all." in shown.out
    assert shown.out.splitlines()[-1] == "ended: a turn without a call; reward: 1.0"


def test_the_end_of_the_input_ends_the_episode(played):
    status, shown = played("number_guess", typed="")
    assert status == 0 and shown.out.splitlines()[-1] == "ended by you, without a reward"


def test_too_many_turns_end_the_episode(played):
    _, shown = played("desk", "--turns", "1", typed="age('Nobody')\n")
    assert shown.out.splitlines()[-1].startswith("ended: the maximum number of turns; reward: 0.0")
    assert "nobody here is called Nobody" in shown.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["number_gess"], "number_gess: no such environment (did you mean `number_guess`?)"),
        (["./env.py:Shop"], "r1lab play: ./env.py:Shop needs rows with budget: add --data FILE, or --data BUILDER"),
        (["./env.py:Shop", "--data", "desk"], "env.py:Shop needs: add it"),
        (["./env.py:Shop", "--data", "nothing"], "r1lab play: --data nothing: no such file or builder"),
        (["./env.py:Shop", "--data", "none.jsonl"], "none.jsonl"),
        (["./env.py:Free"], "env.py:Free needs the parameter `size`"),
        (["desk", "environment.hops=3"], "command line: environment.hops: unknown parameter"),
        (["number_guess", "tools=[calculator]"], "tools: have no effect with number_guess, whose `step` gets all"),
        (["number_guess", "tiny", "more"], "more: unexpected argument: settings are KEY=VALUE, after ENV and MODEL"),
        (["quickstart"], "r1lab play: quickstart: no stage has an environment: add `environment:` or `tools:` to it"),
        (["desk", "--turns", "0"], "r1lab play: --turns 0: must be at least 1"),
        (["desk", "no/such/model"], "no/such/model: no such folder"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(played, words, said):
    status, shown = played(*words)
    assert status in (1, 2) and said in shown.err and len(shown.err.splitlines()) == 1


@pytest.mark.parametrize("name", ["number_guess", "desk"])
def test_a_model_plays(played, name):
    status, shown = played(name, "embedded:tiny-qwen2", "--turns", "2", "--max-tokens", "6")
    assert status == 0, shown.err
    lines = shown.out.splitlines()
    assert any(line.startswith("embedded:tiny-qwen2> ") for line in lines) and lines[-1].startswith("ended: ")
    assert ('"friend"' in shown.out) == (name == "desk")


def test_settings_of_the_environment_and_tools(played):
    _, shown = played("number_guess", "environment.guesses=1", "--seed", "3", typed="0\n")
    assert "You have 1 guesses." in shown.out and "not found, with 0 guesses left" in shown.out
    _, shown = played("desk", "--seed", "1", "tools=[calculator]", "environment.max_turns=1",
                      typed="calculator('2**70')\n")  # fmt: skip
    assert "1180591620717411303424" in shown.out and "the maximum number of turns" in shown.out
    _, shown = played("./env.py:Free", "environment.size=2", typed="yes\n")
    assert shown.out.splitlines()[-1] == "ended: a turn without a call; reward: none"


RECIPE = """
stage: grpo
model: {path: "embedded:tiny-qwen2"}
data: {path: ./rows.jsonl}
environment: {name: "./env.py:Shop", max_turns: 1}
tools: [calculator]
prompt: {template: r1-zero}
rewards: [{name: environment}]
rollout: {max_completion_length: 6}
"""


def test_the_environment_of_a_recipe(played, tmp_path):
    (tmp_path / "shop.yaml").write_text(RECIPE)
    _, shown = played("shop.yaml", typed="buy(5)\n")
    assert "calculator(expression: string)" in shown.out and "Spend it all." in shown.out
    assert shown.out.splitlines()[-1] == "ended: the maximum number of turns; reward: 1.0"
    status, shown = played("shop.yaml", "embedded:tiny-qwen2", "rollout.max_completion_length=3")
    assert status == 0 and "User: # Tools" in shown.out and shown.out.splitlines()[-1].startswith("ended: ")


def test_what_is_no_call_is_text():
    tools = {"age": lambda person, year=0: 7}
    assert play.call("age('Mia', year=3)", tools) == [Call("age", {"person": "Mia", "year": 3})]
    for line in ("", "7", "age", "height('Mia')", "age(Mia)", "age('Mia'", "(7)"):
        assert play.call(line, tools) == []
