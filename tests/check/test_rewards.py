"""What `check` says of rewards: correct answers score highest, exploits do not, and failures are reported."""

import json
import signal
import time
from pathlib import Path

import pytest

from r1lab import lookup
from r1lab.check import rewards
from r1lab.check.exploits import correct_responses, exploits, gold_answers
from r1lab.data import knights_knaves
from r1lab.grading import grader as graders

LOGIC_RL = Path(__file__).parents[3] / "shared" / "data" / "logic_rl_kk" / "instruct"


@pytest.mark.parametrize("prefill", ["", "<think>"])
@pytest.mark.parametrize(
    ("builder", "specs"),
    [
        ("knights_knaves", [{"name": "knights_knaves"}]),
        ("countdown", [{"name": "countdown", "use_all": True}]),
        ("arithmetic", [{"name": "accuracy"}, {"name": "format", "weight": 0.1}]),
        ("arithmetic", [{"name": "exact_match"}, {"name": "tag_count", "weight": 0.1}]),
    ],
)
def test_correct_responses_score_as_correct_and_exploits_do_not(builder, specs, prefill):
    rows = lookup.function("data", builder)(split="train", seed=0, size=12)
    grader = graders.build(specs, prefill=prefill)
    turns = [correct_responses(row, prefill)["<answer> … </answer>"] for row in rows]
    right = grader.grade(turns, rows, [[1]] * len(rows))
    assert all(right.right)
    for i, row in enumerate(rows):
        others = [other for k, other in enumerate(rows) if k != i]
        tried = exploits(row, others, prefill, seed=i)
        assert len({exploit.name for exploit in tried}) >= 12
        graded = grader.grade([exploit.text for exploit in tried], [row] * len(tried), [[1]] * len(tried))
        assert [e.name for e, r in zip(tried, graded.right) if r] == []
        assert max(graded.totals) < right.totals[i]


@pytest.mark.parametrize("style", ["hermes", "llama", "deepseek"])
def test_calls_of_tools_are_tried_in_each_style_and_nothing_else_is_right(style):
    from r1lab.check.seen import Seen
    from r1lab.recipe import loading

    path = lookup.folder("data") / "tiny" / "tool_calls.jsonl"
    rows = lookup.function("data", "rows")(path=str(path))
    recipe = loading.load(["stage=grpo", "name=t", "model.path=embedded:tiny-qwen2", f"data.path={path}",
                           f"rewards=[{{name: tool_calls, calls: {style}}}]"])  # fmt: skip
    found = rewards.reward_findings(Seen(recipe, rows=rows))
    assert {finding.verdict for finding in found} == {"ok"}, found
    assert any(f"as calls ({style})" in finding.seen for finding in found)


def test_a_row_without_an_answer_has_no_correct_response():
    assert correct_responses({"prompt": "Say hello.", "answer": None}, "") == {}
    assert gold_answers({"prompt": "?", "answer": ["4", "four"]}) == ["4", "four"]
    assert gold_answers({"prompt": "?", "solution": "print(4)"}) == ["print(4)"]


def test_logic_rls_loopholes_are_reported_without_alarm(found, grpo):
    lines = found(grpo(rewards=[{"name": "knights_knaves", "mode": "logic_rl"}]))
    assert all(line.startswith("ok") for line in lines)
    assert any("scores the gold answer 3 on 64 of 64 rows" in line for line in lines)


def test_rewards_that_need_a_server_are_not_called(found, grpo):
    judge = {"name": "judge", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    lines = found(grpo(rewards=[{"name": "knights_knaves"}, judge]))
    assert any("judge: needs a server, so it was not tried" in line for line in lines)
    assert all(line.startswith("ok") for line in lines)


def test_the_form_of_code_and_of_choices(found, grpo):
    rows = [
        {
            "prompt": f"Write f(n) that adds {n}.",
            "solution": f"def f(n):\n    return n + {n}",
            "tests": f'[{{"function": "f", "args": [1], "output": {n + 1}}}]',
        }
        for n in range(4)
    ]
    with open("code.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    lines = found(grpo(data={"builder": "rows", "path": "code.jsonl"}, rewards=[{"name": "code"}]))
    assert any("code: scores the gold answer 1 on 4 of 4 rows, as a code block" in line for line in lines)


def test_a_deadline_ends_what_runs_and_leaves_no_alarm():
    before = signal.getsignal(signal.SIGPROF)
    with pytest.raises(rewards.TooLong):
        with rewards.deadline(0.2):
            while True:
                pass
    with rewards.deadline(0):
        pass
    assert signal.getsignal(signal.SIGPROF) == before and signal.getitimer(signal.ITIMER_PROF)[0] == 0


def test_a_deadline_is_of_cpu_time_up_to_a_cap(monkeypatch):
    with rewards.deadline(0.2):
        time.sleep(0.4)
    monkeypatch.setattr(rewards, "CAP", 0.3)
    with pytest.raises(rewards.TooLong):
        with rewards.deadline(0.2):
            time.sleep(600)


SLOW = """
import time
def score(completions, *, answer):
    until = time.process_time() + SECONDS * len(completions)
    while time.process_time() < until: pass
    return [float(f"<answer> {gold} <" in text) for text, gold in zip(completions, answer)]
"""


def test_a_reward_that_is_slow_and_works_is_no_error(found, grpo, monkeypatch):
    monkeypatch.setattr(rewards, "DEADLINE", 0.5)
    Path("mine.py").write_text(SLOW.replace("SECONDS", "0.05"))
    lines = found(grpo(rewards=[{"name": "./mine.py:score"}]))
    assert not any(line.startswith("error") for line in lines)
    assert any("s of CPU time per completion, too long to try them on 64 rows" in line for line in lines)


def test_a_reward_that_waits_is_not_taken_for_endless(found, grpo, monkeypatch):
    """As on a busy machine, where a plain reward takes long by the wall clock."""
    monkeypatch.setattr(rewards, "DEADLINE", 0.5)
    Path("mine.py").write_text(SLOW.replace("SECONDS", "0").replace("until =", "time.sleep(0.2); until ="))
    lines = found(grpo(rewards=[{"name": "./mine.py:score"}]))
    assert not any(line.startswith("error") or "CPU time" in line for line in lines)


def test_a_reward_with_signals_of_its_own_is_tried_and_ended(found, grpo, monkeypatch):
    """math-verify's timeouts are alarms, which once took away the check's own."""
    monkeypatch.setattr(rewards, "DEADLINE", 1.0)
    body = "from math_verify import parse\ndef score(completions, *, answer):\n parse('$7$')\n while True: pass"
    Path("mine.py").write_text(body)
    (line,) = found(grpo(rewards=[{"name": "./mine.py:score"}]), "error")
    assert "over 1 s of CPU time for one completion (a correct answer), or never end" in line


def test_correct_answers_that_take_too_long_are_reported(found, grpo):
    Path("code.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "prompt": f"Write f(n) that adds {n}.",
                    "solution": f"def f(n):\n    while n > 1: pass\n    return n + {n}",
                    "tests": json.dumps([{"function": "f", "args": [k], "output": n + k} for k in (1, 2 - n % 2)]),
                }
            )
            + "\n"
            for n in range(4)
        )
    )
    settings = grpo(data={"builder": "rows", "path": "code.jsonl"}, rewards=[{"name": "code", "timeout": 0.3}])
    (line,) = [line for line in found(settings, "warning") if "rewards.0" in line]
    assert "code: 2 of 4 correct answers exceed the reward's time limit and score 0" in line


@pytest.mark.parametrize(("wrong", "verdict"), [(20, "error"), (12, "warning")])
def test_gold_that_is_never_right_cannot_work_and_gold_that_is_sometimes_can(found, grpo, wrong, verdict):
    rows = [{"prompt": f"What is {n} + 7?", "answer": str(n + 7), "kind": n < wrong} for n in range(20)]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = "def score(completions, *, answer, kind):\n"
    text += " return [float(f'<answer> {a} <' in t and not k) for t, a, k in zip(completions, answer, kind)]"
    Path("mine.py").write_text(text)
    lines = found(grpo(data={"builder": "rows", "path": "sums.jsonl"}, rewards=[{"name": "./mine.py:score"}]))
    reported = [line for line in lines if f"the gold answer does not score as correct on {wrong} of 20 rows" in line]
    assert [line.split()[0] for line in reported] == [verdict]


@pytest.mark.skipif(not LOGIC_RL.is_dir(), reason="needs ../shared/data/logic_rl_kk")
def test_answers_of_logic_rl_are_in_order():
    rows = lookup.function("data", "logic_rl")(path=str(LOGIC_RL), people=[3], size=8)
    turns = [correct_responses(row, "<think>")["<answer> … </answer>"] for row in rows]
    grader = graders.build([{"name": "knights_knaves", "mode": "logic_rl"}], prefill="<think>")
    assert set(grader.grade(turns, rows).totals) == {3.0}


def test_exploits_are_the_same_each_time():
    rows = knights_knaves(split="train", seed=0, size=6, people=[2])
    assert exploits(rows[0], rows[1:], "", seed=3) == exploits(rows[0], rows[1:], "", seed=3)


def test_no_exploit_is_right_by_its_words(found, grpo, tmp_path):
    """The gold is a number, or is one of the choices that the question lists."""
    for name, prompt in (("ones", "How many moons has the Earth? Case {}"), ("choices", "Is {} more than 5, 0 or 1?")):
        rows = [{"prompt": prompt.format(n), "answer": "1"} for n in range(20, 30)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        data = {"builder": "rows", "path": str(path)}
        assert found(grpo(data=data, rewards=[{"name": "accuracy"}]), "error") == []


READERS = """
import re

def last_number(completions, *, answer):
    return [float(re.findall(r"\\d+", text)[-1:] == [gold]) for text, gold in zip(completions, answer)]

def last_number_after(completions, *, answer):
    return last_number([text.partition("</think>")[2] for text in completions], answer=answer)

def anywhere_in_the_thinking(completions, *, answer):
    return [float(gold in re.findall(r"\\d+", text)) for text, gold in zip(completions, answer)]
"""


@pytest.mark.parametrize(
    ("name", "paid"),
    [
        ("last_number", "correct thinking without an answer"),
        ("last_number_after", ""),
        ("anywhere_in_the_thinking", "a wrong answer after correct thinking"),
    ],
)
def test_a_reward_that_reads_the_answer_out_of_the_thinking_is_reported(found, grpo, name, paid):
    rows = [{"prompt": f"What is {n} + {n + 1}?", "answer": str(2 * n + 1)} for n in range(11, 41)]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("mine.py").write_text(READERS)
    lines = found(grpo(data={"builder": "rows", "path": "sums.jsonl"}, rewards=[{"name": f"./mine.py:{name}"}]))
    reported = [line for line in lines if "correct thinking" in line]
    assert len(reported) == bool(paid) and all(line.startswith("warning") and paid in line for line in reported)


STRANGE = """
import sys

def a_dict(completions, **columns):
    return {"score": [1.0] * len(completions)}

async def later(completions, **columns):
    return [1.0] * len(completions)

def leaves(completions, **columns):
    sys.exit("no key")

def nothing(completions, **columns):
    return [None] * len(completions)
"""


@pytest.mark.parametrize(
    ("name", "verdict", "said"),
    [
        ("a_dict", "error", "a_dict: gave a value of type dict for "),
        ("later", "error", "later: is an `async def`: make it a plain `def`, with asyncio.run inside"),
        ("leaves", "error", "leaves: fails on a correct answer: SystemExit: no key"),
        ("nothing", "warning", "nothing: gives None to everything, so it has no effect on any of 8 rows"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_a_reward_gives_in_place_of_values_is_reported(found, grpo, name, verdict, said):
    Path("strange.py").write_text(STRANGE, encoding="utf-8")
    mine = [{"name": "knights_knaves"}, {"name": f"./strange.py:{name}"}]
    data = {"builder": "knights_knaves", "people": [2], "size": 8}
    assert any(said in line for line in found(grpo(rewards=mine, data=data), verdict))


def test_a_trl_reward_for_conversations_gets_an_explanation(found, grpo, tmp_path):
    (tmp_path / "trls.py").write_text(
        "def score(completions, **_):\n    return [float(len(c[0]['content'])) for c in completions]\n"
    )
    (line,) = found(grpo(rewards=[{"name": "knights_knaves"}, {"name": "./trls.py:score"}]), "error")
    assert "score: fails on a correct answer: TypeError" in line and "completions are strings here" in line
