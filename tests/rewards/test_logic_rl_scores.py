"""Logic-RL's scores for Knights and Knaves, held against another reading of their description."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.rewards import knights_knaves_reward

LOGIC_RL = Path(__file__).parents[3] / "shared" / "data" / "logic_rl_kk" / "instruct"
THINK = "<think> If Zoey lied, Luke would be a knight. </think>"
GOLD = "(1) Zoey is a knight\n(2) Luke is a knave"
RIGHT = f"{THINK}\n<answer> {GOLD} </answer>"


def logic_rl(text):
    (value,) = knights_knaves_reward([text], answer=[GOLD], mode="logic_rl")
    return float(value)


QUIRKS = {
    RIGHT: 3.0,
    f"<think></think><answer>{GOLD}</answer>": 3.0,  # empty thinking
    f"Hello {THINK} and <answer>{GOLD}</answer> Wait, or else?": 3.0,  # text everywhere
    f"{THINK}<answer>So zoey IS  a\nKnight! LUKE is a knave, it's night.</answer>": 3.0,
    f"{THINK}<answer>It is false that Zoey is a knight. Luke is a knave.</answer>": 3.0,
    f"{THINK}<answer>Zoey is a knave. Luke is a knave.</answer>": -0.5,
    f"{THINK}<answer>Zoey is a knight, Zoey is a knave, Luke is a knave</answer>": -1.0,  # three kinds for two
    f"{THINK}<answer>**Zoey** is a **knight**, Luke is a knave</answer>": -1.0,
    f"{THINK}<answer>Zoey: knight, Luke: knave</answer>": -1.0,
    f"{THINK}<answer>Zoey is not a knight, Luke is a knave</answer>": -1.0,
    f"{THINK}<answer>Zoey is a knight, Bob is a knave</answer>": -1.0,
    f"{THINK}<answer>Zoeys are knights, Luke is a knave</answer>": -1.0,
    f"{THINK}<answer>  </answer>": -1.0,
    f"{THINK}<answer>{GOLD}": -3.0,
    f"{THINK}{THINK}<answer>{GOLD}</answer>": -3.0,
    f"<answer>{GOLD}</answer>{THINK}": -3.0,
    f"<think>no end<answer>{GOLD}</answer>": -3.0,
    "": -3.0,
}


def published(text, gold):
    """Logic-RL's score, from the description of its semantics: a format part and an answer part, added."""
    spots = []
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        at = [i for i in range(len(text)) if text.startswith(tag, i)]
        if len(at) != 1:
            return -1 + -2
        spots.append(at[0])
    if sorted(spots) != spots:
        return -1 + -2
    answer = text[spots[2] + len("<answer>") : spots[3]].strip()
    people = {line.split()[1]: line.split()[-1] for line in gold.split("\n")}
    if not answer or sum(answer.lower().count(kind) for kind in ("knight", "knave")) != len(people):
        return 1 + -2
    identities = {}
    for name in people:
        claims = re.finditer(r"(?=\b(\w+)\s+is\s+a\s+(knight|knave)\b)", answer.lower())
        found = [claim[2] for claim in claims if claim[1] == name.lower()]
        if not found:
            return 1 + -2
        identities[name] = found[0]
    return 1 + 2 if identities == people else 1 + -1.5


@pytest.mark.parametrize(("text", "expected"), QUIRKS.items())
def test_logic_rl_scores(text, expected):
    assert logic_rl(text) == published(text, GOLD) == expected


PIECES = [
    *[
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        " ",
        "\n",
        " is ",
        " is a ",
        "a",
        "not",
        "Zoey",
        "Luke",
        "knight",
    ],
    *[
        "knave",
        "KNIGHT",
        "zoey",
        ", ",
        "**",
        ": ",
        "Zoey is a knight",
        "Luke is a knave",
        "Zoey is a knave",
        THINK,
        GOLD,
    ],
]


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.booleans())
def test_logic_rl_mode_agrees_with_its_description(text, whole):
    turn = f"{THINK}<answer>{text}</answer>" if whole else text
    assert logic_rl(turn) == published(turn, GOLD)


@pytest.mark.skipif(not LOGIC_RL.is_dir(), reason="needs ../shared/data/logic_rl_kk")
def test_all_of_logic_rls_rows_score_as_published_in_every_form():
    from r1lab.data import logic_rl as builder

    swap = {"knight": "knave", "knave": "knight"}
    rows = builder(path=str(LOGIC_RL)) + builder(path=str(LOGIC_RL), split="test")
    assert len(rows) == 5000
    for expected, write in {
        3.0: lambda gold: f"{THINK}\n<answer> {gold} </answer>",
        -0.5: lambda gold: f"{THINK}<answer>{re.sub('knight$|knave$', lambda m: swap[m[0]], gold)}</answer>",
        -1.0: lambda gold: f"{THINK}<answer>{gold.replace(' is a ', ': ')}</answer>",
        -3.0: lambda gold: f"{THINK}{gold}",
    }.items():
        golds = [row["answer"] for row in rows]
        turns = [write(gold) for gold in golds]
        assert knights_knaves_reward(turns, answer=golds, mode="logic_rl") == [expected] * 5000
        assert [published(turn, gold) for turn, gold in zip(turns, golds)] == [expected] * 5000
