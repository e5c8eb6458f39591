"""The accuracy reward: answers in all their clothes, tricks that do not pay, and what would hang."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.grading import pool
from r1lab.rewards.accuracy import accuracy_reward

MOST = [
    r"<think> 3 + 4 </think> \boxed{7}", "<think> 3 + 4 </think><answer> 7 </answer>", "The answer is 7.",
    "So Zoey has **7** apples.", "#### 7", "7", r"<think>x</think> Thus $x = 7$. The final answer is $\boxed{7}$.",
    r"\boxed{5}. Wait, that is wrong. It should be \boxed{7}.", r"The answer is 5. No: the answer is 7.",
    r"<answer> 5 </answer> Wait. <answer> 7 </answer>", r"\boxed{14/2}", "Final Answer: **7**", r"\boxed{\text{7}}",
    "<think> It is 5. </think>\nAnswer: 7", r"\[ \boxed{7} \]", "<answer>The answer is 7.</answer>",
]  # fmt: skip

LEAST = [
    "", " ", "I do not know.", r"\boxed{8}", "<answer></answer>", r"\boxed{}", r"<think> \boxed{7} </think>",
    r"<think> \boxed{7}", "<think> The answer is 7. </think> The answer is 8.", "The answer is 5 or 7.",
    r"\boxed{5, 7}",
    r"\boxed{7}. Wait, no. \boxed{8}", "<answer> 1 2 3 4 5 6 7 </answer>", "<answer> 7 or 8 </answer>",
    "<answer> answer here </answer>", r"\boxed{7 \text{ or } 8}", "<answer> 7 <answer> 5 </answer> 7 </answer>",
    r"\boxed{" * 9 + "7", r"\boxed{7?}8", "<answer> 1, 2, 3, 4, 5, 6, 7, 8, 9 </answer>", "seven hundred",
    "\u202e7\u202c8", r"\boxed{٧٧}", "7\x008",
]  # fmt: skip


@pytest.mark.parametrize("turn", MOST)
def test_most(turn):
    (score,) = accuracy_reward([turn], answer=["7"])
    assert (score, score.reason) == (1.0, "correct")


@pytest.mark.parametrize("turn", LEAST)
def test_least(turn):
    (score,) = accuracy_reward([turn], answer=["7"])
    assert score == 0.0 and score.reason.partition(":")[0] in ("wrong", "no_answer", "unparsed")


def test_reasons():
    turns = [r"\boxed{7}", r"\boxed{8}", "Hm, let me think about that for a while", r"\boxed{9^{9^{9}}}", "7"]
    scores = accuracy_reward(turns, answer=["7", "7", "7", "7", "?"])
    reasons = ["correct", "wrong: 8", "no_answer", "unparsed: 9^{9^{9}}"]
    assert [s.reason for s in scores[:4]] == reasons
    assert scores[4] is None and scores.reasons[4] == "gold_unparsed"


def test_no_gold_does_not_apply_and_a_number_is_a_gold():
    assert accuracy_reward(["7", "7"], answer=[None, 7]) == [None, 1.0]


def test_long_texts_and_many_boxes_are_graded_in_time():
    turns = [
        "x" * 1_000_000 + r" \boxed{7}", r"\boxed{8}. " * 10_000 + r"\boxed{7}", "{" * 100_000 + r"\boxed{7}",
        "<think>" * 10_000 + "</think> 7", "**" * 50_000 + r"\boxed{7}", "the answer is " * 20_000 + r"7. \boxed{7}",
        r"\boxed{" * 10_000 + "7" + "}" * 10_000, "$" * 100_000 + r"\boxed{7}", "\\" * 100_001 + " \\boxed{7}",
        "<answer>" * 10_000 + "7" + "</answer>" * 10_000, r"\boxed{" + "(" * 5_000 + "7" + ")" * 5_000 + "}",
        r"\boxed{" + "9" * 100_000 + "}", "aaaa, " * 100_000 + "is 7", r"\boxed{" + "1+" * 900 + "1}",
    ]  # fmt: skip
    scores = accuracy_reward(turns, answer=["7"] * len(turns))
    assert [float(s) for s in scores[:6]] == [1.0] * 6
    assert all(s.reason != "timeout" for s in scores), [s.reason for s in scores]


def test_a_deadline_that_is_none_is_refused():
    with pytest.raises(UserError, match="deadline"):
        accuracy_reward(["7"], answer=["7"], deadline=0)


HOSTILE = [
    "9^{9^{9^{9}}}", "(10^{10^{10}})!", "2^{2^{2^{2^{2^{2}}}}}", r"\gcd(10^{10^7},7)", r"\cos(10^{100000})",
    r"\binom{10^9}{5\cdot 10^8}", r"\sum_{k=1}^{10^9} k^k", r"\prod_{k=1}^{10^7} k", r"\sqrt{2}^{1000000001}",
    "(1+x)^{100000}", "(1+x+y+z)^{3000}", r"\int_0^1 x^{x^x} dx", r"\int \frac{\sin(x^x)}{\ln(\ln x)} dx", "99999!!",
    r"\lim_{x\to\infty} \frac{x!}{x^x}", r"\sin(\sin(\sin(10^{99999})))", r"\sum_{k=1}^{\infty} \frac{1}{k^{k}}",
    r"\frac{(x^{99}-1)(x^{77}-1)(y^{55}+x)}{(x-1)(y-1)(x+y)^{44}}", r"\log_{2}(3^{10^{9}})", "((((((9!)!)!)!)!)!)!",
    r"\det\begin{pmatrix}" + r"\\".join("&".join(f"x^{{{i * j}}}+{i}" for i in range(9)) for j in range(9))
    + r"\end{pmatrix}", r"\gcd(10^{10^8}, 3^{10^8})", r"\operatorname{lcm}(1,2,3,9^{9^9})",
]  # fmt: skip


def test_hostile_answers_from_a_thread_beside_ordinary_ones():
    """Ordinary verdicts are right, the main thread is alive, and nothing is left."""
    accuracy_reward(["7"], answer=["7"])  # the server is up, as in any batch but a run's first
    ordinary = [rf"<think> Hm. </think> \boxed{{\frac{{{i}}}{{{i + 1}}}}}" for i in range(64)]
    golds = [str(i / (i + 1)) if i % 2 else rf"\frac{{{2 * i}}}{{{2 * i + 2}}}" for i in range(64)]
    turns = [rf"\boxed{{{h}}}" for h in HOSTILE]
    mixed, wanted = [], []
    for i, turn in enumerate(ordinary):
        mixed.append(turn)
        wanted.append(golds[i])
        if i < len(turns):
            mixed.append(turns[i])
            wanted.append("7")
    beats, result = [time.monotonic()], {}

    def grade():
        result["scores"] = accuracy_reward(mixed, answer=wanted, deadline=2.0)

    thread = threading.Thread(target=grade)
    thread.start()
    while thread.is_alive():
        time.sleep(0.01)
        beats.append(time.monotonic())
    by_turn = dict(zip(mixed, result["scores"]))
    assert [float(by_turn[turn]) for turn in ordinary] == [1.0] * 64
    assert [float(by_turn[turn]) for turn in turns] == [0.0] * len(HOSTILE)
    assert len(beats) > 20  # a grader that held the interpreter lock would let none through
    graders = pool.shared("r1lab.grading.maths:grade")
    assert len(graders._idle) <= graders.workers


TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(
            [r"\boxed{", "}", "{", "<think>", "</think>", "<answer>", "</answer>", "$", "**", "7", "the answer is ",
             "\n", "#### ", r"\frac", "^", "(", ")", "!", "or", ",", "=", "x", "%", r"\text{", " ", "\x00", "é"]
        ),
        max_size=30,
    ).map("".join),
)  # fmt: skip

GOLDS = ["7", r"\frac12", "x+1", "B", "Monday", "?"]


def _told(score):
    return None if score is None else (float(score), score.reason)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.sampled_from(GOLDS)), min_size=1, max_size=8))
def test_no_text_raises_or_leaves_the_range_and_company_does_not_matter(pairs):
    turns, golds = [t for t, _ in pairs], [g for _, g in pairs]
    scores = accuracy_reward(turns, answer=golds)
    # Of a gold that cannot be read there is no signal.
    assert all(gold == "?" if score is None else score in (0.0, 1.0) for score, gold in zip(scores, golds))
    assert all(score is None or score.reason for score in scores)
    alone = [accuracy_reward([t], answer=[g])[0] for t, g in reversed(pairs)]
    assert list(map(_told, scores)) == list(map(_told, reversed(alone)))
