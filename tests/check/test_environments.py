"""What `check` says of an environment: it plays it, in processes of its own."""

import json
import re

import pytest

from r1lab import lookup
from r1lab.check import check
from r1lab.check.environments import environment_findings
from r1lab.check.seen import Seen
from r1lab.models.loading import load_tokenizer
from r1lab.recipe.schema import GrpoRecipe

GUESS = {"builder": "number_guess", "size": 12}
SHOP = '''
class Shop:
    patience = 3

    def reset(self, *, seed: int, budget: int):
        self.left = budget

    def buy(self, price: int) -> str:
        """
        Buys something.

        Args:
            price: What it costs.
        """
        self.left -= price
        return f"{self.left} coins are left, " + "of many " * 6

    def get_reward(self):
        return float(self.left == 0)

    def solve(self, row):
        for _ in range(row["budget"]):
            yield Call("buy", {"price": 1})
        yield "done"


class Same(Shop):
    def reset(self, *, budget: int):
        self.left = budget


class Undocumented(Shop):
    def sell(self, price):
        return 1


class Unseeded(Shop):
    def reset(self, *, budget: int):
        self.left, self.done = budget, False
        return f"The time is {random.random()}."


class Shared(Shop):
    count = 0

    def reset(self, *, seed: int, budget: int):
        self.left = budget
        Shared.count = 0

    def buy(self, price: int) -> str:
        """
        Buys something.

        Args:
            price: What it costs.
        """
        Shared.count += 1
        self.left -= price
        return f"{Shared.count} sold"


class Free(Shop):
    def get_reward(self):
        return 1.0


class Wrong(Shop):
    def solve(self, row):
        yield "done"


class Worthless(Shop):
    get_reward = None


class Slow(Shop):
    def buy(self, price: int) -> str:
        """
        Buys something.

        Args:
            price: What it costs.
        """
        while True:
            pass


class Raises(Shop):
    def reset(self, *, seed: int, budget: int):
        raise RuntimeError("no connection")


class Exits(Shop):
    def solve(self, row):
        import os
        os._exit(3)
        yield


class Talk:
    def reset(self, budget):
        self.budget = budget

    def step(self, turn):
        return None

    def get_reward(self):
        return 0.0
'''


ROWS = [{"prompt": "Spend it.", "budget": n % 3 + 1} for n in range(12)]
TOKENIZER = load_tokenizer("embedded:tiny-qwen2")


@pytest.fixture
def lines(grpo, tmp_path, monkeypatch):
    """The findings about an environment of a file, each as a line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "env.py").write_text("import random\nfrom r1lab.environments import Call\n" + SHOP)

    def of(name: str, rows=ROWS, environment=None, tokens=200, length=None) -> list[str]:
        name = f"./env.py:{name}" if name[0].isupper() else name
        section = {"name": name, "timeout": 0.5} | (environment or {})
        rollout = {"engine": "transformers", "max_completion_length": tokens, "max_model_length": length}
        settings = grpo(rewards=[{"name": "environment"}], environment=section, rollout=rollout)
        recipe = GrpoRecipe.model_validate({"name": "x"} | settings)
        found = environment_findings(Seen(recipe, tokenizer=TOKENIZER, rows=rows))
        return [f"{one.verdict} {'.'.join(map(str, one.keys))}: {one.message}" for one in found]

    return of


def test_an_environment_that_is_in_order(lines):
    assert lines("Shop", environment={"max_turns": 4, "max_reply_length": 8})[:1] == [
        "ok environment.name: ./env.py:Shop: `solve` earns 1 in all of 8 episodes, in 2 to 4 turns, a player that "
        "says nothing in 0, and a random one in 0"
    ]
    assert "`solve` earns 1 in all" in lines("Same")[0]  # the row decides everything


def test_limits_that_are_too_low_for_the_gold_player(lines):
    _, turns, own, replies = lines("Shop", environment={"max_turns": 3, "max_reply_length": 20}, tokens=60)
    assert turns == (
        "warning environment.max_turns: 3: `solve` needs more turns than that in 2 of 8 episodes: set at least 4"
    )
    assert own.startswith("warning rollout.max_completion_length: 60: `solve` writes more tokens than that in")
    assert replies.startswith("warning environment.max_reply_length: 20: `solve` gets replies of more tokens")


@pytest.mark.parametrize(
    ("name", "verdict", "what"),
    [
        ("Unseeded", "error", "the same row and seed give another episode: episode 1 has 'The time is 0."),
        ("Shared", "error", "episodes at the same time change each other: episode 2 has '1 sold', and then '2 sold'"),
        ("Free", "error", "a player that says nothing earns 1 in 8 of 8 episodes: correct `get_reward`"),
        ("Wrong", "error", "its own `solve` earns less than 1 in 8 of 8 episodes: 0.0: correct `solve`, the rules"),
        ("Worthless", "error", "rewards.0: environment: ./env.py:Worthless says of no episode what it is worth"),
        ("Slow", "error", "environment.timeout: ./env.py:Slow: `step` fails in"),
        ("Raises", "error", "`reset` fails in 8 of 8 episodes of a player that says nothing: RuntimeError: no conn"),
        ("Exits", "error", "`step` fails in 8 of 8 episodes of its own `solve`: its process ended"),
        ("Undocumented", "error", "a tool has no schema: sell: "),
        ("Talk", "ok", "has no `solve`, so that whether its tasks can be solved was not tried"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(lines, name, verdict, what):
    found = lines(name)
    (line,) = [line for line in found if what in line]
    assert line.startswith(verdict) and sum(line.startswith("error") for line in found) == (verdict == "error")


def test_prompts_with_tools_and_episodes_must_fit_into_the_context(lines):
    def told(length):
        return lines("Shop", length=length, tokens=200)[-1]

    assert told(100).startswith("error prompt.template: a prompt with its tools has ")
    assert told(600).startswith("warning environment: an episode may have ")


def test_rows_without_a_column_of_reset(lines):
    assert lines("Shop", rows=[*ROWS, {"prompt": "?"}]) == [
        "error data: ./env.py:Shop: 1 of 13 rows have no column `budget`, which its `reset` requires: add it to the "
        "rows, or give the parameter `budget` of `reset` a default"
    ]


@pytest.mark.parametrize("name", ["number_guess", "desk", "knights_knaves_ask"])
def test_our_own_are_in_order(lines, name):
    rows = lookup.function("data", name)(size=12)
    line, *others = lines(name, rows=rows, environment={"max_turns": 12, "timeout": 5.0}, tokens=900)
    assert all("context" in other for other in others)
    assert line.startswith(f"ok environment.name: {name}: `solve` earns 1 in all of 8 episodes")


def test_a_check_plays_the_environment_and_tries_its_reward_on_no_single_turn(found, grpo):
    sections = {"data": GUESS, "rewards": [{"name": "environment"}], "environment": {"name": "number_guess"}}
    told = found(grpo(**sections))
    assert "ok      rewards: environment: grades episodes, so it was not tried on single turns" in told
    assert any(line.startswith("ok      environment: number_guess: `solve` earns 1") for line in told)
    assert not any(line.startswith("error") for line in told)


@pytest.mark.slow
def test_the_probe_plays_episodes(tmp_path, monkeypatch, grpo):
    monkeypatch.chdir(tmp_path)
    recipe = grpo(
        data=GUESS, rewards=[{"name": "environment"}],
        rollout={"engine": "transformers", "num_generations": 2, "max_completion_length": 24},
        environment={"name": "number_guess", "max_turns": 3, "max_turn_length": 8},
    )  # fmt: skip
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    told = [line for line in check.lines(["r.yaml"], probe=True) if "probe" in line]
    pattern = r"probe: episodes: 3\.0 turns and 0\.0 calls on average, \d+% of the replies are errors; ended by length"
    assert any(re.search(pattern, line) for line in told)
