"""The exact-match reward: the same text, but for what makes no difference."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.rewards.exact_match import exact_match_reward


def score(turn, gold="Paris", **given):
    return exact_match_reward([turn], answer=[gold], **given)[0]


@pytest.mark.parametrize(
    "turn",
    [
        "Paris",
        "paris",
        " PARIS.\n",
        "**Paris**",
        "“Paris.”",
        "'Paris'!",
        "'Paris!'",
        "Paris?!",
        "\\boxed{Paris}",
        "So \\boxed{\\text{Paris}} it is.",
        "<answer>Paris</answer>",
        "<answer>\n  Paris\n</answer> Done.",
        "<answer>It is \\boxed{Paris}</answer>",
        "<answer>London</answer><answer>Paris</answer>",
        "<think>London?</think>Paris",
        "<think>London?</think>\n\n<answer>Paris</answer>",
        "\\boxed{London}. No: \\boxed{Paris}",
        "Ｐａｒｉｓ",
        "Pa\u200bris\u202c",
        "$Paris$",
    ],
)
def test_right(turn):
    assert score(turn) == 1 and score(turn).reason == "correct"


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ("", "no_answer"),
        ("<think>Paris", "no_answer"),
        ("<think>Paris</think>", "no_answer"),
        ("<answer></answer>", "no_answer"),
        ("<answer></answer>Paris", "no_answer"),
        ("<answer>...</answer>", "no_answer"),
        ("\u202e\u200b", "no_answer"),
        ("London", "wrong"),
        ("Paris or London", "wrong"),
        ("Paris, London, Rome", "wrong"),
        ("It is Paris.", "wrong"),
        ("The answer is Paris", "wrong"),
        ("<answer>Paris and London</answer>", "wrong"),
        ("<answer>Paris</answer><answer>London</answer>", "wrong"),
        ("\\boxed{Paris} \\boxed{London}", "wrong"),
        ("\\boxed{London} or \\boxed{Paris}", "wrong"),
        ("\\boxed{Paris}" * 10_000 + "\\boxed{London}", "wrong"),
        ("Pаris", "wrong"),  # Cyrillic
        ("P a r i s", "wrong"),
        ("Pari", "wrong"),
        ("Paris\0", "wrong"),
        ("Par-is", "wrong"),
        ("\u202esiraP", "wrong"),
    ],
)
def test_not_right(turn, reason):
    assert score(turn) == 0 and score(turn).reason == reason


@pytest.mark.parametrize(
    ("turn", "gold"),
    [("5", "-5"), ("5", "5!"), ("n", "n!"), ("5", ".5"), ("52", "5²"), ("f", "f'"), ("(1,2)", "[1,2]"), ("12", "1 2")]
    + [("5", "$5"), ("5", "5%"), ("1⁄2", "12"), ("Paris", "")],
)
def test_what_makes_a_difference(turn, gold):
    assert score(turn, gold) == 0 and score(gold, turn) == 0


def test_one_of_several():
    assert score("nyc", ["New York", "NYC"]) == 1 and score("London", ["New York", "NYC"]) == 0
    assert score("London", []) == 0 and score("", [""]) == 0
    assert score("5", 5) == 1 and score("5", [4, 5]) == 1


def test_rows_it_does_not_apply_to():
    assert exact_match_reward(["a", "a"], answer=[None, "a"]) == [None, 1]


def test_settings():
    assert score("paris", ignore_case=False) == 0 and score("Paris.", ignore_case=False) == 1
    assert score("Paris!", ignore_punctuation=False) == 0 and score("paris", ignore_punctuation=False) == 1
    assert score("STRASSE", "straße") == 1
    for name in ("ignore_case", "ignore_punctuation"):
        with pytest.raises(UserError, match=f"rewards: exact_match: {name}: 'no' is not true or false"):
            score("", **{name: "no"})


PIECES = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "Paris",
    "\\boxed{",
    "}",
    "$",
    "**",
    ".",
    "!",
    "'",
    "\0",
    " ",
]
PIECES += ["\u202e", "²", "\\text{", "“", "”"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(), max_size=20).map("".join), st.booleans())
def test_any_text(text, setting):
    alone = score(text, ignore_case=setting, ignore_punctuation=setting)
    assert alone in (0, 1)
    rows = exact_match_reward(
        ["Paris", text, ""], answer=["Paris"] * 3, ignore_case=setting, ignore_punctuation=setting
    )
    assert rows[1] == alone


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(categories=["L", "N", "Zs"]), min_size=1).filter(str.strip))
def test_gold_is_right(gold):
    assert score(f"<think> ... </think><answer> {gold} </answer>", gold) == 1


@pytest.mark.parametrize("piece", [*PIECES, "\\boxed{5}", "a", "⁰a", "\u200b"])
def test_a_megabyte_takes_no_time(piece):
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    for turn in (text, f"<answer>{text}</answer>", f"{text}x"):
        score(turn)
    assert time.process_time() - started < 10
