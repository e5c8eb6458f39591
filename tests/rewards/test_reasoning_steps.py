"""The reasoning-steps reward: steps that say something, in the thinking."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.rewards.reasoning_steps import reasoning_steps_reward

STEPS = ["two and three make five", "five and one make six", "six is even"]


def score(text, **given):
    return reasoning_steps_reward([text], **given)[0]


def think(*lines):
    return "<think>" + "\n".join(lines) + "</think> 6"


FULL = [
    think(*(f"Step {i}: {step}" for i, step in enumerate(STEPS, 1))),
    think(*(f"{i}. {step}" for i, step in enumerate(STEPS, 1))),
    think(*(f"- {step}" for step in STEPS)),
    think(*(f"* {step}" for step in STEPS)),
    think(*(f"  - {step}" for step in STEPS)),
    think(*(f"**Step {i}:** {step}" for i, step in enumerate(STEPS, 1))),
    think(*(f"### Step {i}: {step}" for i, step in enumerate(STEPS, 1))),
    think(f"First, {STEPS[0]}. Next, {STEPS[1]}. Finally, {STEPS[2]}."),
    think(f"First, {STEPS[0]}.", f"Second, {STEPS[1]}.", f"- {STEPS[2]}"),
    think(*(f"{i}. {i} + {i} = {2 * i}" for i in range(1, 9))),
    "\n".join(f"- {step}" for step in STEPS),
    "<think>" + "\n".join(f"- {step}" for step in STEPS),
    think(*(f"- {step}\0\u202e" for step in STEPS)),
]


@pytest.mark.parametrize("text", FULL)
def test_three_steps(text):
    assert score(text) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "6",
        "<think></think>6",
        think(*STEPS),
        think("First, Second, Next, Finally,"),
        think("First, First, First,"),
        think("- a", "- b", "- c"),
        think("1.", "2.", "3."),
        think("Step 1:", "Step 2:", "Step 3:"),
        think("- ...", "- ---", "- ***"),
        think("- reasoning process here", "- answer here", "- thinking"),
        think("First " * 1000),
        think("3.14 is pi, roughly", "2.71 is e, roughly", "1.41 is a root"),
        think("-1 is less than 0", "-2 is less than -1", "-3 is less than -2"),
        think("Firstly this is", "Nextdoor they are"),
        think("") + "\n" + "\n".join(f"- {step}" for step in STEPS),
        think("Ｓｔｅｐ １： two and three make five", "Fіrst, five and one make six"),
    ],
)
def test_no_step(text):
    assert score(text) == 0


def test_the_same_again_counts_once():
    same = think(*[f"- {STEPS[0]}"] * 1000)
    assert score(same) == pytest.approx(1 / 3) and score(same).reason == "steps: 1"
    assert score(think(*(f"Step {i}: {STEPS[0]}" for i in range(1000)))) == pytest.approx(1 / 3)
    assert score(think(f"First, {STEPS[0]}.", f"Next, {STEPS[0].upper()}!")) == pytest.approx(1 / 3)


def test_the_number_is_a_setting():
    assert score(FULL[0], steps=6) == 0.5 and score(FULL[0], steps=1) == 1
    for steps in (0, -1, 2.5, True, "3", None):
        with pytest.raises(UserError, match="rewards: reasoning_steps: steps: .* is not a whole number"):
            score("", steps=steps)


PIECES = ["First,", "Step 1:", "\n- ", "\n1.", "<think>", "</think>", "a b ", "\0", "\u202e"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(), max_size=20).map("".join))
def test_any_text(text):
    alone = score(text)
    assert 0 <= alone <= 1
    assert reasoning_steps_reward([FULL[0], text, ""])[1] == alone


@pytest.mark.parametrize("piece", [*PIECES, "Step ", "Step 1", "1", " ", "\n", "\n ", "-", "First", "\\boxed{5}"])
def test_a_megabyte_takes_no_time(piece):
    started = time.process_time()
    score(piece * (1_000_000 // len(piece)))
    assert time.process_time() - started < 5
