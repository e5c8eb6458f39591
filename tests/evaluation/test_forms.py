"""Strict and lenient: the same answer in other forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1lab.engines import Completion
from r1lab.evaluation import forms
from r1lab.evaluation.records import Judge

ROW = {"prompt": "3+4?", "answer": "7", "task": "sums"}


def judged(text, *, template="chat", rewards=None, prefill="", row=ROW, tmp_path=None):
    judge = Judge(rewards or [{"name": "accuracy"}], template=template, prefill=prefill)
    (found,) = judge.judge([Completion(text, [1, 2], [], False)], [row], None)
    return {key: found[key] for key in ("right", "valid", "strict", "lenient")}


@pytest.mark.parametrize(
    "template, text, right, valid, lenient",
    [
        ("chat", r"<think> 3 + 4 </think> \boxed{7}", True, True, True),
        ("chat", "<think> 3 + 4 </think> It comes to **7**", True, False, True),
        ("chat", r"<think> 3 + 4 </think> \boxed{8}", False, True, False),
        ("chat", r"<think> 3 + 4 is \boxed{7} and then", False, False, True),  # the thinking never ends
        ("r1-zero", "<think> 3 + 4 </think> <answer> 7 </answer>", True, True, True),
        ("r1-zero", r"It is \boxed{7}", True, False, True),  # the grader takes it, the prompt asked for tags
        ("r1-zero", "<think> It is <answer> 7 </answer>", False, False, True),
        ("r1-zero", "", False, False, False),
    ],
)
def test_maths(template, text, right, valid, lenient):
    expected = {"right": right, "valid": valid, "strict": right and valid, "lenient": lenient}
    assert judged(text, template=template) == expected


@pytest.mark.parametrize(
    "text, strict, lenient",
    [
        ("<think> Luke lies, so. </think> <answer> (1) Zoey is a knight (2) Luke is a knave </answer>", True, True),
        ("Zoey is a knight. I take it back: Zoey is a knight, and **Luke** is a knave.", False, True),
        ("Luke is a knight? No. Zoey: knight, Luke: knave", False, True),
        ("<think> Zoey is a knight and Luke is a knave", False, True),
        ("Zoey is a knight", False, False),
        ("<answer> Zoey is a knave, Luke is a knave </answer> Zoey is a knight, Luke is a knave", False, False),
    ],
)
def test_puzzles(text, strict, lenient):
    row = {"prompt": "?", "answer": "(1) Zoey is a knight\n(2) Luke is a knave", "task": "knights_knaves/2ppl"}
    found = judged(text, template="r1-zero", rewards=[{"name": "knights_knaves"}], row=row)
    assert (found["strict"], found["lenient"]) == (strict, lenient)
    assert found["right"] == strict  # the reward is strict itself


def test_a_loophole_of_the_reward_is_no_strict_answer():
    """Logic-RL's own reward takes tags around nothing; strict does not."""
    row = {"prompt": "?", "answer": "(1) Zoey is a knight", "task": "knights_knaves/1ppl"}
    reward = [{"name": "knights_knaves", "mode": "logic_rl"}]
    found = judged("<think></think><answer>Zoey is a knight</answer>", template="logic-rl", rewards=reward, row=row)
    assert found == {"right": True, "valid": False, "strict": False, "lenient": True}


def test_a_prefilled_tag_is_put_back_once():
    found = judged(" 3 + 4 </think> <answer> 7 </answer>", template="logic-rl", prefill="<think>")
    assert found == {"right": True, "valid": True, "strict": True, "lenient": True}
    wrong = judged(" 3 + 4 is 7. The answer is 7", template="logic-rl", prefill="<think>")
    assert wrong == {"right": False, "valid": False, "strict": False, "lenient": True}


def test_requests_have_no_form_but_an_end():
    row = {"prompt": "Say yes", "constraints": [{"kind": "keywords", "words": ["yes"]}], "answer": None}
    rewards = [{"name": "instruction", "mode": "all"}]
    assert judged("<think> Hm. </think> yes", rewards=rewards, row=row) == dict.fromkeys(
        ("right", "valid", "strict", "lenient"), True
    )
    assert not any(judged("<think> yes", rewards=rewards, row=row).values())


@given(st.text(alphabet="<>/thinkanswer{}\\boxed 7*\n.", max_size=120))
def test_strict_is_never_above_right_nor_right_above_lenient(text):
    found = judged(text, rewards=[{"name": "exact_match"}], template="r1-zero")
    assert found["strict"] <= found["right"] <= found["lenient"]
    assert found["strict"] == (found["right"] and found["valid"])


@given(st.text(max_size=80))
def test_loosened_keeps_what_was_said(text):
    assert forms.loosened(text, reward="accuracy").startswith(text.replace("<think>", "").replace("</think>", ""))
