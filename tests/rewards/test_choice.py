"""The multiple-choice reward: one letter, committed to."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.rewards.choice import choice_reward, read_choice

CAPITALS = ["London", "Paris", "New York City", "A or B"]


def score(turn, gold="B", choices=None):
    return choice_reward([turn], answer=[gold], choices=choices and [choices])[0]


RIGHT = [
    "<answer>B</answer>",
    "<answer> (B) </answer>",
    "<answer>\n**B**\n</answer>",
    "<answer>B. Paris</answer>",
    "<answer>b</answer>",
    "<answer>The answer is B.</answer>",
    "<answer>\\boxed{B}</answer>",
    "<answer>Option B</answer>",
    "<answer>[B]</answer>",
    "<answer>B</answer> It is not A.",
    "\\boxed{B}",
    "\\boxed{\\text{B}}",
    "\\boxed{\\textbf{(B) } Paris}",
    "\\boxed{\\mathrm{B}}",
    "$\\boxed{\\textbf{(B)}\\ 5}$",
    "The answer is (B).",
    "The answer is B because it is the capital, and A is not.",
    "The answer is B. A is wrong.",
    "The correct option is B.",
    "The correct answer is option (B) Paris.",
    "Answer: B",
    "**Answer:** B) Paris",
    "Final answer: **B**",
    "The answer is A. No: the answer is B.",
    "\\boxed{A}, no, \\boxed{B}",
    "Of all these it can only be **B**, I would say now.",
    "I compare A and C.\nB",
    "I compare A and C.\n\n(B)",
    "The answer is B - Paris.",
    "The answer is B, Paris.",
    "The answer is B (Paris).",
    "The answer is B: a vitamin.",
    "答案是B。",
    "Ｂ",
    "\\boxed{Ⓑ}",
]


@pytest.mark.parametrize("turn", RIGHT)
def test_right(turn):
    assert score(turn) == 1 and score(turn).reason == "correct"
    assert score(f"<think>A? \\boxed{{A}} The answer is A.</think>{turn}") == 1
    assert score(turn, gold="A") == 0 and score(turn, gold="A").reason == "wrong"


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ("", "no_answer"),
        ("<think>B", "no_answer"),
        ("<think>The answer is B.</think>", "no_answer"),
        ("<think><answer>B</answer></think>", "no_answer"),
        ("<answer></answer>", "no_answer"),
        ("<answer></answer> The answer is B.", "no_answer"),
        ("I would say that B may be the one to take here.", "no_answer"),
        ("A or B", "hedged"),
        ("The answer is A or B.", "hedged"),
        ("The answer is B or A.", "hedged"),
        ("The answer is (B) or (C).", "hedged"),
        ("The answer is B, or A.", "hedged"),
        ("<answer>A, B</answer>", "hedged"),
        ("<answer>B, A</answer>", "hedged"),
        ("<answer>B/C</answer>", "hedged"),
        ("<answer>B and C</answer>", "hedged"),
        ("<answer>B & C</answer>", "hedged"),
        ("<answer>B C</answer>", "hedged"),
        ("<answer>B. C.</answer>", "hedged"),
        ("<answer>B) C) D)</answer>", "hedged"),
        ("<answer>B\nC</answer>", "hedged"),
        ("<answer>A, B, C, D</answer>", "hedged"),
        ("<answer>(B)(C)</answer>", "hedged"),
        ("<answer>B. Paris or A. London</answer>", "hedged"),
        ("<answer>B: Paris, A: London</answer>", "hedged"),
        ("<answer>(B) Paris (A) London</answer>", "hedged"),
        ("<answer>B) Paris\nA) London</answer>", "hedged"),
        ("\\boxed{B \\text{ or } C}", "hedged"),
        ("\\boxed{B, C}", "hedged"),
        ("<answer>ABCD</answer>", "unparsed"),
        ("<answer>not B</answer>", "unparsed"),
        ("<answer>either of them</answer>", "unparsed"),
        ("<answer>Bee</answer>", "unparsed"),
        ("<answer>В</answer>", "unparsed"),  # Cyrillic
        ("<answer>β</answer>", "unparsed"),
        ("<answer>\u202eB</answer>", "unparsed"),
        ("<answer>\0B</answer>", "unparsed"),
        ("<answer>42</answer>", "unparsed"),
        ("<answer>C</answer>", "wrong"),
        ("<answer>Z</answer>", "wrong"),
        ("The answer is B. No: the answer is C.", "wrong"),
        ("\\boxed{B} \\boxed{C}", "wrong"),
        ("\\boxed{B}" * 10_000 + "\\boxed{C}", "wrong"),
        ("<answer>B</answer><answer>C</answer>", "wrong"),
        ("A. London\nB. Paris\nC. Rome\nD. Oslo\nThe answer is D.", "wrong"),
    ],
)
def test_not_right(turn, reason):
    assert score(turn) == 0 and score(turn).reason == reason


@pytest.mark.parametrize(
    "turn",
    [
        "<answer>Paris</answer>",
        "\\boxed{\\text{Paris}}",
        "The answer is Paris.",
        "**PARIS**",
        "<answer>B. paris</answer>",
    ]
    + ["<answer>(B) Paris.</answer>", "<answer>B</answer>", "\\boxed{B}", "Answer: **B) Paris**", "\\boxed{paris}"],
)
def test_the_text_of_the_option(turn):
    assert score(turn, choices=CAPITALS) == 1
    assert score(turn, gold="A", choices=CAPITALS) == 0


def test_letter_and_text_must_agree():
    assert score("<answer>B. London</answer>", choices=CAPITALS).reason == "contradiction"
    assert score("<answer>A. Paris</answer>", choices=CAPITALS).reason == "contradiction"
    assert score("<answer>London or Paris</answer>", choices=CAPITALS).reason == "unparsed"
    assert score("<answer>B. Vitamin A and (C)</answer>", choices=["x", "Vitamin A and (C)"]) == 1


def test_letters_before_texts_and_texts_before_lists():
    assert score("<answer>B</answer>", choices=["B", "A"]) == 1
    assert score("<answer>A or B</answer>", gold="D", choices=CAPITALS) == 1
    assert score("<answer>same</answer>", choices=["same", "same"]).reason == "unparsed"
    assert score("<answer>B. same</answer>", choices=["same", "same"]) == 1


def test_rows_it_does_not_apply_to_and_bad_ones():
    assert choice_reward(["B", "B"], answer=[None, "b"]) == [None, 1]
    assert choice_reward(["Paris", "B"], answer=["(B)", "B"], choices=[CAPITALS, None]) == [1, 1]
    for gold in ("BC", "", "5", "Paris"):
        with pytest.raises(ValueError, match="not the letter of an option"):
            score("B", gold=gold)
    with pytest.raises(UserError, match="rewards: choice: choices: is a column"):
        choice_reward(["B", "B"], answer=["B", "B"], choices=["London", "Paris"])


PIECES = ["<think>", "</think>", "<answer>", "</answer>", "A", "B", " or ", ", ", "(", ")", "\\boxed{", "}", "\\text{"]
PIECES += ["The answer is ", "**", "$", "\0", "\u202e", ". ", "\n", "Paris", "option "]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(), max_size=20).map("".join))
def test_any_text(text):
    alone = score(text, choices=CAPITALS)
    assert alone in (0, 1)
    assert choice_reward(["B", text, ""], answer=["B"] * 3, choices=[CAPITALS] * 3)[1] == alone
    assert score(text, "A") + score(text, "B") + score(text, "C") <= 1  # never two of them


@pytest.mark.parametrize("piece", [*PIECES, "A,", "A or ", "(A)", "A. ", " ", "/", "[", "and ", "B)\n"])
def test_a_megabyte_takes_no_time(piece):
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    for turn in (text, f"<answer>{text}</answer>", f"<answer>B{text}</answer>", f"<answer>B. {text}</answer>"):
        score(turn)
    read_choice(text, CAPITALS)
    assert time.process_time() - started < 10
