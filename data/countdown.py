"""Countdown, the puzzle of TinyZero: make a target from numbers."""

import random
from typing import Literal

from r1lab.data.generate import choices, different
from r1lab.data.knights_knaves import complete
from r1lab.errors import UserError

PROMPT = (
    "Using the numbers {numbers}, create an equation that equals {target}. You can use basic arithmetic operations "
    "(+, -, *, /) and each number can only be used once. Show your work in <think> </think> tags. And return the "
    "final answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
)
"""TinyZero's question (github.com/Jiayi-Pan/TinyZero)."""


def countdown(
    *,
    split: Literal["train", "test"] = "train",
    size: int | None = None,
    seed: int = 0,
    numbers: int | list[int] | tuple[int, ...] = (3, 4),
    highest: int = 99,
    targets: list[int] | tuple[int, ...] = (10, 100),
    solution: bool = False,
) -> list[dict]:
    """Countdown puzzles in TinyZero's wording, each with at least one solution that uses all the numbers.

    The target is computed from the numbers in whole-number arithmetic, so every puzzle has a solution. Train and test
    never share a puzzle: the split is a hash of the sorted numbers and the target, the same for every seed.

    Args:
        split: `"train"`, or `"test"`, one puzzle in five.
        size: The number of puzzles. Default: 1,000; a smaller size gives the first of them.
        numbers: How many numbers a puzzle has, or a list of such counts, used in turn.
        highest: The highest number; the lowest is 1.
        targets: The lowest and the highest target.
        solution: Adds a `completion` that works out one solution, for SFT.

    Returns:
        Rows with `prompt`, `answer` (one of several solutions), `task` (`countdown/3numbers`), `numbers`, `target`,
            and `completion` if `solution` is set. For the reward `countdown` with `use_all: true`.

    >>> countdown(size=1, numbers=2, highest=9, solution=True)[0]["completion"]
    '<think> 7 + 3 = 10. </think>\\n<answer> 7 + 3 </answer>'
    """
    counts = choices(numbers, "countdown: numbers", at_least=2)
    if highest < 1 or len(targets) != 2 or targets[0] > targets[1]:
        raise UserError(
            f"countdown: highest: {highest}, targets: {list(targets)}: should be as in highest: 99, targets: [10, 100]"
        )
    rng = random.Random(f"countdown/{seed}/{split}")

    def draw(count: int) -> tuple[object, dict] | None:
        have = [rng.randint(1, highest) for _ in range(counts[count % len(counts)])]
        target, expression, steps = _reach(have, rng)
        if not targets[0] <= target <= targets[1]:
            return None
        row = {
            "prompt": PROMPT.format(numbers=have, target=target),
            "answer": expression,
            "task": f"countdown/{len(have)}numbers",
            "numbers": have,
            "target": target,
        }
        if solution:
            row["completion"] = complete(" ".join(steps), expression)
        return (tuple(sorted(have)), target), row

    hint = "raise highest, or the span of targets, or lower size (eval.size in an evaluation)"
    return different(draw, name="countdown", split=split, size=size, hint=hint)


def _reach(numbers: list[int], rng: random.Random) -> tuple[int, str, list[str]]:
    """A value made of all numbers at random, without fractions or negative steps, its expression, and the steps."""
    terms, steps = [(n, str(n)) for n in numbers], []
    while len(terms) > 1:
        a, b = (terms.pop(rng.randrange(len(terms))) for _ in range(2))
        if a[0] < b[0]:
            a, b = b, a
        sign = rng.choice("+-*/" if b[0] and a[0] % b[0] == 0 else "+-*")
        value = {"+": a[0] + b[0], "-": a[0] - b[0], "*": a[0] * b[0], "/": a[0] // b[0] if b[0] else 0}[sign]
        steps.append(f"{a[0]} {sign} {b[0]} = {value}.")
        left, right = (f"({text})" if " " in text else text for _, text in (a, b))
        terms.append((value, f"{left} {sign} {right}"))
    return *terms[0], steps
