"""The tag-count reward: a quarter for each tag in its place."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.rewards.tag_count import tag_count_reward

GOOD = "<think> Two and two make four. </think>\n<answer> 4 </answer>"
LINES = "<think>\nTwo and two.\n</think>\n<answer>\n4\n</answer>"
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]


def score(text, **given):
    return tag_count_reward([text], **given)[0]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        LINES,
        f"Sure. {GOOD}",
        f"{GOOD} Done.",
        GOOD.replace("\n", " So: "),
        GOOD.replace("\n", ""),
        "<think>我们</think><answer>四</answer>",
        "<think>a < b > c </ d</think><answer>$x<1$</answer>",
        f"{GOOD}\0",
        f"\u202e{GOOD}",
        "<think>x</think><answer>\\boxed{4}</answer>",
    ],
)
def test_all_four(text):
    assert score(text) == 1 and score(text).reason == "all_tags"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "The answer is 4.",
        "<THINK> a </THINK> <ANSWER> 4 </ANSWER>",
        "< think> a </ think>",
        "<think",
        "〈think〉a〈/think〉",
        "＜think＞a＜/think＞",
        "<thіnk>Cyrillic</thіnk>",
        "<think><think>a</think></think>",
        GOOD * 2,
        "<think>one</think>" * 10_000 + "<answer>4</answer>" * 10_000,
        "\0",
    ],
)
def test_none(text):
    assert score(text) == 0 and score(text).reason == "missing: <think> </think> <answer> </answer>"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think> a", 0.25),
        ("a </think>", 0.25),
        ("<think> one </think> 4", 0.5),
        ("<think> one </think><answer> 4", 0.75),
        ("<think> one <think> b </think><answer> 4 </answer>", 0.75),
        ("<think> one </think><answer> 4 </answer><answer> 5 </answer>", 0.5),
        ("<think></think><answer></answer>", 0.5),
        ("<think> reasoning process here </think><answer> answer here </answer>", 0.5),
        ("<think> ... </think><answer> 4 </answer>", 0.75),
        ("<answer> 4 </answer><think> one </think>", 0.5),
        ("</think> one <think>", 0.25),
        ("</answer> 4 <answer> one </think> b <think>", 0.25),
    ],
)
def test_what_counts(text, value):
    assert score(text) == value


def test_on_lines_of_their_own():
    assert score(LINES, newlines=True) == 1
    assert score(GOOD, newlines=True) == 0
    assert score(LINES.replace("\n</think>", "</think>"), newlines=True) == 0.75


def test_settings():
    with pytest.raises(UserError, match="rewards: tag_count: newlines: 'yes' is not true or false"):
        score(GOOD, newlines="yes")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*TAGS, "\n", "a"]) | st.text(), max_size=12).map("".join), st.booleans())
def test_any_text(text, newlines):
    alone = score(text, newlines=newlines)
    assert alone in (0, 0.25, 0.5, 0.75, 1)
    assert tag_count_reward([GOOD, text, ""], newlines=newlines)[1] == alone


def test_a_megabyte_takes_no_time():
    started = time.process_time()
    for piece in (*TAGS, "<", "\n", "_"):
        score(f"<think>{piece * 150_000}</think><answer>{piece * 150_000}</answer>")
    assert time.process_time() - started < 10
