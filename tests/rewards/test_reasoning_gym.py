"""Reasoning Gym's own scorers, run where they can do no harm."""

import importlib.util
import json
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.rewards.reasoning_gym import reasoning_gym_reward

NAMES = [
    "leg_counting", "countdown", "knights_knaves", "simple_equations", "chain_sum", "number_sorting", "spiral_matrix",
    "string_insertion", "word_sorting", "polynomial_multiplication", "syllogism", "family_relationships",
]  # fmt: skip
TAKE_HEDGES = ("knights_knaves", "polynomial_multiplication")  # which give full marks to "the right one, or another"
NO_ANSWER = [
    "", " ", "<think>", "<think> 12", "<think> 12 </think>", "<answer></answer>",
    "<think> 12 </think><answer> </answer>", "<think><answer> 12 </answer>", "\n\t",
    "<answer>\n</answer>", "12 <answer></answer>",
]  # fmt: skip


@pytest.fixture(scope="module")
def entries():
    """An entry of each data set, by name."""
    gym = pytest.importorskip("reasoning_gym", reason="reasoning-gym is an extra: pip install reasoning-gym")
    return {name: gym.create_dataset(name, size=1, seed=7)[0] for name in NAMES}


def grade(said, entry, **parameters):
    metadata = json.dumps(entry["metadata"], default=str)
    (score,) = reasoning_gym_reward([said], answer=[entry["answer"]], metadata=[metadata], **parameters)
    return score, score.reason


@pytest.mark.parametrize("name", NAMES)
def test_gold_is_right_and_junk_is_not(entries, name):
    entry = entries[name]
    for turn in (entry["answer"], f"<think> Hm. </think><answer> {entry['answer']} </answer>"):
        assert grade(turn, entry) == (1.0, "correct")
    for junk in ("xyzzy", "\0", "\u202e", "x" * 1_000_000, r"\boxed{0}" * 10_000):
        assert grade(junk, entry)[0] < 1
    if name not in TAKE_HEDGES:
        assert grade(f"{entry['answer']} or 0 or 1", entry)[0] < 1


@pytest.mark.parametrize("turn", NO_ANSWER)
def test_no_answer(turn):
    (score,) = reasoning_gym_reward([turn], answer=["12"], metadata=[{"source_dataset": "leg_counting"}])
    assert (score, score.reason) == (0.0, "no_answer")


@pytest.mark.parametrize("said", ["1", "12.5", "a", "[1]", "(", "None", "-", "é", "<answer> 11 </answer>", "{}"])
def test_wrong(entries, said):
    assert grade(said, entries["leg_counting"]) == (0.0, "wrong")


def test_part_of_the_mark_is_reasoning_gyms_own(entries):
    score, why = grade(f"It is {entries['syllogism']['answer']}.", entries["syllogism"])
    assert 0 < score < 1 and why == "partial"


def test_rows_of_other_tasks_do_not_count(entries):
    entry = entries["chain_sum"]
    turns, gold = ["4", entry["answer"], "<think>"], ["4", entry["answer"], entry["answer"]]
    scores = reasoning_gym_reward(turns, answer=gold, metadata=[None, entry["metadata"], entry["metadata"]])
    assert scores == [None, 1.0, 0.0]


def test_neither_order_nor_company_matters(entries):
    rows = [(said, entry) for entry in entries.values() for said in (entry["answer"], "0")]
    columns = {
        "answer": [entry["answer"] for _, entry in rows],
        "metadata": [json.dumps(entry["metadata"], default=str) for _, entry in rows],
    }
    together = reasoning_gym_reward([said for said, _ in rows], **columns)
    backwards = {name: column[::-1] for name, column in columns.items()}
    assert reasoning_gym_reward([said for said, _ in rows[::-1]], **backwards)[::-1] == together
    assert together == [grade(said, entry)[0] for said, entry in rows]


def test_an_answer_that_never_ends_costs_its_own_row(entries):
    entry = entries["spiral_matrix"]  # whose scorer evaluates what it cannot compare
    turns = ["[9**9**9**9]", entry["answer"]]
    metadata = [json.dumps(entry["metadata"], default=str)] * 2
    started = time.monotonic()
    scores = reasoning_gym_reward(turns, answer=[entry["answer"]] * 2, metadata=metadata, deadline=2.0)
    assert scores == [0.0, 1.0] and scores[0].reason == "timeout"
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("name", ["string_insertion", "spiral_matrix", "polynomial_multiplication"])
def test_an_answer_that_is_a_program_does_nothing(entries, name, tmp_path):
    file = tmp_path / "written"
    for program in (
        f"__import__('os').system('touch {file}')",
        f"open('{file}', 'w').write('x')",
        f"__import__('subprocess').run(['touch', '{file}'])",
        f"__import__('os').mkdir('{file}')",
        "exit()",
        f"__import__('os').kill({os.getpid()}, 15)",
    ):
        assert grade(program, entries[name])[0] < 0.5
    assert not file.exists()


def test_a_row_that_is_wrong(entries):
    with pytest.raises(ValueError, match="metadata: .*no_such_set"):
        grade("12", {"answer": "12", "metadata": {"source_dataset": "no_such_set"}})
    with pytest.raises(ValueError, match="metadata: KeyError: 'source_dataset'"):
        grade("12", {"answer": "12", "metadata": {}})
    with pytest.raises(ValueError, match="metadata: KeyError: 'sorted_words'"):
        grade("a, b", {"answer": "a, b", "metadata": {"source_dataset": "word_sorting"}})


def test_without_reasoning_gym(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="reasoning-gym is not installed: pip install reasoning-gym"):
        reasoning_gym_reward(["4"], answer=["4"], metadata=[{"source_dataset": "leg_counting"}])


def test_a_deadline_that_is_none():
    with pytest.raises(UserError, match="reasoning_gym: deadline: 0 is not"):
        reasoning_gym_reward(["4"], answer=["4"], metadata=[None], deadline=0)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_text_has_a_score_in_range(entries, data):
    entry = entries[data.draw(st.sampled_from(NAMES))]
    text = data.draw(st.text() | st.text("0123456789+-*/() []x=", max_size=12))
    assert 0 <= grade(text, entry, deadline=1.0)[0] <= 1
