"""The countdown reward: an equation of the numbers that makes the target."""

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.grading.arithmetic import evaluate
from r1lab.rewards.countdown import countdown_reward

NUMBERS, TARGET = [2, 5, 8, 3], 24


def score(answer, numbers=NUMBERS, target=TARGET, **given):
    return score_turn(f"<think> Let me see. </think><answer>{answer}</answer>", numbers, target, **given)


def score_turn(turn, numbers=NUMBERS, target=TARGET, **given):
    return countdown_reward([turn], numbers=[numbers], target=[target], **given)[0]


@pytest.mark.parametrize(
    "answer",
    [
        "3 * 8",
        " 8*3 ",
        "(5 - 2) * 8",
        "(5-2)*8 = 24",
        "$(5-2) \\times 8 = 24$",
        "(5 − 2) × 8",
        "\\boxed{(5-2) \\cdot 8}",
        "\\[ 3 \\times 8 \\]",
        "\\left(5 - 2\\right) \\times 8",
        "[5 - 2] * 8",
        "8 / (2 / (3 + 5 - 2))",
        "8 * 3 + 5 - 5",
        "8\n* 3",
        "**3 * 8**",
        "`3 * 8`",
        "3 · 8.",
        "3 x 8",
        "```python\n3 * 8\n```",
        "```\n3 * 8 = 24\n```",
        "~~~text\n(5 - 2) * 8\n~~~",
        "3 \\times 8 = \\boxed{24}",
        "\\[ 3 \\times 8 = \\boxed{24} \\]",
        "So: \\boxed{3 * 8}",
        "3 ✕ 8 ＝ 24",
        "3 \\ast 8",
        "3x8",
        "(5 - 2) x 8",
        "(5-2)x(8)",
        "3 X 8 = 24",
        "3 * 8 = 24.0",
        "3 * 8 = 24.00",
        "$3 \\times 8 = 24.0$",
        "24 = 3 * 8",
        "24.0 = 8 * (5 - 2)",
        "3 * 8 == 24",
        "+3 * 8",
        "3 ∙ 8",
        "(5\\;-\\;2)\\ \\times\\,8",
        "3 * 8 = 20 + 4",
        "-(-8 * 3)",
        "\\frac{8}{2} \\times (3 + 5 - 2)",
    ],
)
def test_right(answer):
    repeated = {"8 / (2 / (3 + 5 - 2))", "8 * 3 + 5 - 5", "\\frac{8}{2} \\times (3 + 5 - 2)"}
    value = score(answer, [2, 5, 8, 3, 2, 5] if answer in repeated else NUMBERS)
    assert value == 1 and value.reason == "correct"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "unparsed"),
        ("24 is it", "unparsed"),
        ("3 y 8", "unparsed"),
        ("3 + 8 = \\boxed{24}", "wrong"),
        ("38 - 14 = \\boxed{24}", "wrong_numbers"),
        ("\\boxed{24}", "wrong_numbers"),
        ("3 * 8 \\boxed{3 + 8}", "wrong"),
        ("```python\n3 + 8\n```", "wrong"),
        ("```python\n3 * 8\n8 * 3\n```", "unparsed"),
        ("x 3 * 8", "unparsed"),
        ("3 xx 8", "unparsed"),
        ("0x3 * 8", "wrong_numbers"),
        ("3 * 8 = 24.5", "wrong"),
        ("3 * 8 = 24.0000001", "wrong"),
        ("3 * 8 = 2,4", "unparsed"),
        ("3 * 8 = 24.0.0", "unparsed"),
        ("25 = 3 * 8", "wrong"),
        ("24 = 3 + 8", "wrong"),
        ("24 = 38 - 14", "wrong_numbers"),
        ("24 = 24", "wrong_numbers"),
        ("24.0 = 24", "unparsed"),
        ("3 * 8 === 24", "unparsed"),
        ("3 * 8 = = 24", "unparsed"),
        ("3 * 8 != 24", "unparsed"),
        ("3 * 8.0", "unparsed"),
        ("The equation is 3 * 8", "unparsed"),
        ("3 * 8 or 8 * 3", "unparsed"),
        ("3 * 8, 5 - 2", "unparsed"),
        ("3 * 8 = 24 = 24", "unparsed"),
        ("5 - 2 = 3\n3 * 8 = 24", "unparsed"),
        ("2 ** 5 - 8", "unparsed"),
        ("2 ^ 5 - 8", "unparsed"),
        ("8 // 3 + 2", "unparsed"),
        ("3.0 * 8", "unparsed"),
        ("3(8)", "unparsed"),
        ("03 * 8", "unparsed"),
        ("+", "unparsed"),
        ("()", "unparsed"),
        ("(3 * 8", "unparsed"),
        ("３ * ８", "unparsed"),
        ("٣ * ٨", "unparsed"),
        ("3 * 8\0", "unparsed"),
        ("\u202e3 * 8", "unparsed"),
        ("3 * 8 # 24", "unparsed"),
        ("__import__('os').system('true')", "unparsed"),
        ("9**9**9**9", "unparsed"),
        ("3 * 8 =", "unparsed"),
        ("24", "wrong_numbers"),
        ("3 * 8 * 1", "wrong_numbers"),
        ("38 - 14", "wrong_numbers"),
        ("8 + 8 + 8", "wrong_numbers"),
        ("3 * 8 + 5 - 5", "wrong_numbers"),
        ("28 - 3 - 5 + 4", "wrong_numbers"),
        ("3 + 8", "wrong"),
        ("3 * 8 = 25", "wrong"),
        ("5 + 3 = 24", "wrong"),
        ("8 / 3 * 5", "wrong"),
        ("3 / (5 - 3 - 2)", "division_by_zero"),
        ("8 / (5 - 2 - 3)", "division_by_zero"),
        ("3 * 8 = 24 / (5 - 5)", "division_by_zero"),
    ],
)
def test_not_right(answer, reason):
    assert score(answer) == 0 and score(answer).reason == reason


@pytest.mark.parametrize(
    "turn",
    ["", "3 * 8", "\\boxed{3 * 8}", "<think>3 * 8", "<think><answer>3 * 8</answer>", "<answer>3 * 8"]
    + ["<think><answer>3 * 8</answer></think> 24", "3 * 8</answer>", "The answer is 3 * 8", "\0"],
)
def test_only_in_the_answer_block(turn):
    assert score_turn(turn, format_score=0.1) == 0 and score_turn(turn).reason == "no_answer"


def test_the_last_block_counts():
    assert score_turn("<answer>3 + 8</answer><answer>3 * 8</answer>") == 1
    assert score_turn("<answer>3 * 8</answer><answer>3 + 8</answer>") == 0
    assert score_turn("<answer>3 * 8</answer>" * 10_000 + "<answer>3 + 8</answer>") == 0


def test_all_the_numbers():
    assert score("3 * 8", [3, 8], use_all=True) == 1
    assert score("3 * 8", use_all=True).reason == "unused_numbers"
    assert score("24", [24, 3]) == 1 and score("24", [24, 3], use_all=True) == 0


def test_the_score_of_the_format():
    assert score("3 + 8", format_score=0.1) == 0.1
    assert score("24", format_score=0.1) == 0.1 and score("8 / (5 - 2 - 3)", format_score=0.1) == 0.1
    assert score("", format_score=0.1) == 0 and score("hello", format_score=0.1) == 0
    assert score("3 * 8", format_score=0.1) == 1


def test_exactly():
    assert score("8 / (3 - 8 / 3)", [8, 8, 3, 3]) == 1
    assert score("1 / 3", [1, 3], 0.333333333) == 0
    assert score("1 / 2", [1, 2], 0.5) == 1
    assert score("-3", [3], -3) == 1


def test_rows_it_does_not_apply_to():
    turns = ["<answer>3 * 8</answer>"] * 3
    assert countdown_reward(turns, numbers=[None, NUMBERS, NUMBERS], target=[24, None, 24]) == [None, None, 1]


@pytest.mark.parametrize(
    "given",
    [{"use_all": "yes"}, {"use_all": 1}, {"format_score": 1}, {"format_score": -0.1}, {"format_score": "0.1"}]
    + [{"format_score": float("nan")}],
)
def test_settings(given):
    (name,) = given
    with pytest.raises(UserError, match=f"^rewards: countdown: {name}: "):
        score("3 * 8", **given)


EXPRESSIONS = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({' '.join(parts)})"),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS)
def test_any_expression(expression):
    try:
        value, used = evaluate(expression)
    except ZeroDivisionError:
        return
    assert float(value) == pytest.approx(float(eval(expression)))
    assert score(expression, list(used.elements()), value, use_all=True) == 1
    assert score(expression, list(used.elements())[1:], value) == 0
    assert score(expression, list(used.elements()), value + Fraction(1, 10**9)) == 0


PIECES = ["<answer>", "</answer>", "<think>", "</think>", "3", "8", "*", "/", "-", "(", ")", "=", " ", "\\frac{", "}{"]
PIECES += ["}", "\\boxed{", "\0", "\u202e", "×", "$", "0", "\n", "\\left("]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(), max_size=25).map("".join))
def test_any_text(text):
    for turn in (text, f"<answer>{text}</answer>"):
        alone = score_turn(turn, format_score=0.1)
        assert alone in (0, 0.1, 1)
        turns = ["<answer>3 * 8</answer>", turn, ""]
        company = countdown_reward(turns, numbers=[NUMBERS] * 3, target=[24] * 3, format_score=0.1)
        assert company[1] == alone


@pytest.mark.parametrize("piece", [*PIECES, "9", "-", "(-", "9*", "9+", "9/"])
@pytest.mark.parametrize("length", [100, 299, 300, 1_000_000])
def test_long_answers_take_no_time(piece, length):
    started = time.process_time()
    for text in (piece * (length // len(piece)), piece * (length // len(piece)) + "9"):
        assert score(text) == 0
        score_turn(text)
    assert time.process_time() - started < 5
