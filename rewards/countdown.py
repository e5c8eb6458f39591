"""Countdown: whether an equation makes the target from the numbers, in exact arithmetic."""

import re
from collections import Counter
from fractions import Fraction

from r1lab.errors import UserError
from r1lab.grading.arithmetic import LONGEST, evaluate
from r1lab.grading.boxes import last_boxed
from r1lab.grading.markup import plain
from r1lab.grading.parts import answer_block
from r1lab.rewards.facts import reward
from r1lab.rewards.score import Score

_FRACTION = re.compile(r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_SIGNS = {
    "×": "*",
    "·": "*",
    "⋅": "*",
    "∗": "*",
    "∙": "*",
    "÷": "/",
    "∕": "/",
    "⁄": "/",
    "−": "-",
    "–": "-",
    "[": "(",
    "]": ")",
}
_SIGNS |= {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left": "", r"\right": "", r"\,": " "}
_SIGNS |= dict.fromkeys((r"\;", r"\:", r"\!", r"\quad", r"\ "), " ") | {"==": "=", "＝": "=", r"\ast": "*"}
_SIGNS |= dict.fromkeys("✕✖⨯", "*")
_SIGN = re.compile("|".join(re.escape(sign) for sign in sorted(_SIGNS, key=len, reverse=True)))
_CROSS = re.compile(r"(?<=[\d)])( ?)[xX]( ?)(?=[\d(-])")
_FENCE = re.compile(r"(`{3,}|~{3,})[\w+-]*\n(.*?)\n?\1", re.DOTALL)
_RESULT = re.compile(r"-?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?", re.ASCII)


@reward(looks_for="answer", in_tags=True)
def countdown_reward(
    completions, *, numbers, target, use_all: bool = False, format_score: float = 0.0, **columns
) -> list[float | None]:
    """1 for an equation in the `<answer>` block that makes the target, using each number at most once.

    This is TinyZero's countdown reward (github.com/Jiayi-Pan/TinyZero). TinyZero requires all the numbers and gives
    0.1 for any answer in its tags; `use_all: true` and `format_score: 0.1` do the same here, except that only
    expressions get the 0.1. Values are exact. Integers, + - * / and parentheses may be written as LaTeX or with ×, x
    and ÷. "= TARGET" may follow, also with decimals, or "TARGET =" may come first.

    Args:
        completions: Responses, with a prefilled `<think>` restored.
        numbers: For each row the list of numbers; None if the reward does not apply.
        target: For each row the number to make.
        use_all: Whether every number must be used.
        format_score: The score of an expression that can be evaluated but is not correct.

    Returns:
        `Score`s of 0, `format_score` or 1 with the reasons correct, wrong, wrong_numbers, unused_numbers,
            division_by_zero, unparsed and no_answer.

    >>> turn = "<think> 3 * 8 </think> <answer> (5 - 2) * 8 = 24 </answer>"
    >>> countdown_reward([turn, "<answer> 4 * 6 </answer>"], numbers=[[2, 5, 8]] * 2, target=[24, 24])
    [1.0, 0.0]
    """
    if not isinstance(use_all, bool):
        raise UserError(f"rewards: countdown: use_all: {use_all!r} is not true or false")
    if not isinstance(format_score, int | float) or not 0 <= format_score < 1:
        raise UserError(f"rewards: countdown: format_score: {format_score!r} is not a number from 0 to less than 1")
    scores = []
    for turn, have, goal in zip(completions, numbers, target, strict=True):
        if have is None or goal is None:
            scores.append(None)
            continue
        reason = _reason(turn, Counter(have), Fraction(goal), use_all)
        value = 1.0 if reason == "correct" else 0.0 if reason in ("no_answer", "unparsed") else format_score
        scores.append(Score(value, reason))
    return scores


def _reason(turn: str, have: Counter, target: Fraction, use_all: bool) -> str:
    block = answer_block(turn)
    if block is None:
        return "no_answer"
    left, equals, right = _arithmetic(_said(block)).partition("=")
    if equals and _RESULT.fullmatch(left.strip()) and not _RESULT.fullmatch(right.strip()):
        left, right = right, left  # 24 = 3 * 8
    try:
        value, used = evaluate(left)
        claimed = _claimed(right.strip()) if equals else target
    except ZeroDivisionError:
        return "division_by_zero"
    except (SyntaxError, ValueError):
        return "unparsed"
    if used - have:
        return "wrong_numbers"
    if use_all and have - used:
        return "unused_numbers"
    return "correct" if value == claimed == target else "wrong"


def _said(block: str) -> str:
    """The content of the last box, if that is more than the result, else all of a block, without a code fence."""
    boxed = last_boxed(block[: 40 * LONGEST])
    if boxed and not _RESULT.fullmatch(boxed):
        return boxed
    fenced = _FENCE.fullmatch(block.strip()[: 40 * LONGEST])
    return fenced[2] if fenced else block.replace(rf"\boxed{{{boxed}}}", boxed) if boxed else block


def _claimed(right: str) -> Fraction:
    """The value of the right side of an equation: a number, which may have decimals, or an expression."""
    if len(right) <= LONGEST and _RESULT.fullmatch(right):
        return Fraction(right.replace(",", ""))
    return evaluate(right)[0]


def _arithmetic(text: str) -> str:
    """An expression in Python's notation, truncated if it is longer than any that is evaluated."""
    text = plain(text)[: 4 * LONGEST]
    for _ in range(4):  # fractions in fractions
        text = _FRACTION.sub(r"((\1)/(\2))", text)
    text = " ".join(_SIGN.sub(lambda sign: _SIGNS[sign[0]], text).split())
    return _CROSS.sub(r"\1*\2", text)
