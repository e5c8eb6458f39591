"""Facts of rewards stand on the functions, r1lab's own as a user's."""

import subprocess
import sys

import pytest

from r1lab import lookup
from r1lab.engines import Completion
from r1lab.errors import UserError
from r1lab.evaluation import forms
from r1lab.evaluation.records import Judge
from r1lab.recipe import loading
from r1lab.rewards.facts import facts, facts_of

MINE = """
from r1lab.rewards import reward

@reward(looks_for="answer", lenient={"anywhere": True}, asks="server", needs=("url",))
def score(completions, *, answer, anywhere: bool = False, url: str = "", **columns):
    return [float(gold in turn if anywhere else turn == gold) for turn, gold in zip(completions, answer)]

def plain(completions, *, answer, **columns):
    return [0.0 for _ in completions]
"""


@pytest.mark.parametrize("name", lookup.names("rewards"))
def test_every_reward_of_r1lab_has_its_facts(name):
    known = facts(lookup.function("rewards", name))
    assert known is not None, f"put @reward(looks_for=...) above {name}_reward: see r1lab/rewards/facts.py"
    takes = lookup.parameters(lookup.function("rewards", name))
    assert {*known.lenient, *known.needs, *([known.limit] if known.limit else [])} <= takes.keys()
    assert not known.as_published or "mode" in takes


def test_rewards_that_look_for_an_answer_are_those_that_the_evaluation_votes_on():
    found = {name for name in lookup.names("rewards") if forms.votes(name)}
    assert found == {name for name in lookup.names("rewards") if facts_of(name).looks_for == "answer"}
    assert {"accuracy", "knights_knaves"} <= found and not {"format", "code", "length"} & found


def test_a_reward_of_ones_own_may_have_facts(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    name, plain = f"{tmp_path}/mine.py:score", f"{tmp_path}/mine.py:plain"
    assert facts_of(name).looks_for == "answer" and facts_of(plain) is None
    assert forms.votes(name) and forms.votes(plain) and not forms.looks_for_answer(plain)
    assert facts_of(f"{tmp_path}/mine.py:missing") is None and facts_of("no_such_reward") is None
    judge = Judge([{"name": name}], template="none", prefill="")
    (judged,) = judge.judge(
        [Completion("It is 7.", [1], False)], [{"prompt": "?", "answer": "7"}], tmp_path / "failed"
    )
    assert not judged["right"] and judged["lenient"]


def test_a_reward_of_ones_own_that_asks_a_server_is_left_out_in_small_and_names_what_it_needs(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "r.yaml").write_text(
        "{stage: grpo, model: {path: embedded:tiny-qwen2}, data: {builder: arithmetic}, "
        'rewards: [{name: exact_match}, {name: "./mine.py:score"}]}'
    )
    small = loading.load([str(tmp_path / "r.yaml")], tiny=True)
    assert [reward.name for reward in small.rewards] == ["exact_match"]
    with pytest.raises(UserError) as error:
        loading.load([str(tmp_path / "r.yaml")], inputs=True)
    (line,) = error.value.problems
    assert line.endswith("score needs the parameter `url`")


@pytest.mark.parametrize(
    ("facts", "said"),
    [('looks_for="anser"', "should be answer, form, work or manner"), ('looks_for="work", ask="server"', "'ask'")],
)
def test_a_fact_that_there_is_not_is_one_line(tmp_path, facts, said):
    (tmp_path / "mine.py").write_text(
        f"from r1lab.rewards import reward\n@reward({facts})\ndef f(completions): pass\n"
    )
    with pytest.raises(UserError, match="mine.py: does not load: ") as error:
        lookup.function("rewards", f"{tmp_path}/mine.py:f")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_facts_are_read_without_torch():
    code = "import sys; from r1lab.rewards.facts import facts_of; assert facts_of('judge').asks == 'server'"
    code += "; assert not {'torch', 'transformers', 'trl', 'sympy'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
