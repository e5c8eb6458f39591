"""`r1lab play`: an episode at the console, by a person or by a model."""

import io
import json

import pytest

from r1lab import cli, play
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
    row = play.first_row("number_guess", None, 3)
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
        (["./env.py:Shop", "--data", "desk"], "desk has no column budget, which ./env.py:Shop needs: add it"),
        (["./env.py:Shop", "--data", "nothing"], "r1lab play: --data nothing: no such file or builder"),
        (["./env.py:Shop", "--data", "none.jsonl"], "none.jsonl"),
        (["./env.py:Free"], "missing 1 required positional argument: 'size': give the parameter a default"),
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


def test_what_is_no_call_is_text():
    tools = {"age": lambda person, year=0: 7}
    assert play.call("age('Mia', year=3)", tools) == [Call("age", {"person": "Mia", "year": 3})]
    for line in ("", "7", "age", "height('Mia')", "age(Mia)", "age('Mia'", "(7)"):
        assert play.call(line, tools) == []
