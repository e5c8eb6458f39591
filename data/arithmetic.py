"""Sums, differences and products to calculate: the smallest task with an answer that a rule can check."""

import random
from typing import Literal

from r1lab.data.generate import choices, different
from r1lab.data.knights_knaves import complete
from r1lab.errors import UserError


def arithmetic(
    *,
    split: Literal["train", "test"] = "train",
    size: int | None = None,
    seed: int = 0,
    digits: int | list[int] = 2,
    terms: int | list[int] = 2,
    operations: list[Literal["+", "-", "*"]] | tuple[Literal["+", "-", "*"], ...] = ("+", "-"),
    solution: bool = False,
) -> list[dict]:
    """Expressions such as `12 + 34 * 5` and their values.

    Train and test never share an expression, nor one with its terms or factors in another order: the split is a hash
    of the expression as a sorted sum of sorted products, the same for every seed.

    Args:
        split: `"train"`, or `"test"`, one expression in five.
        size: The number of rows. Default: 1,000; a smaller size gives the first of them.
        digits: The number of digits of each number, or a list of such counts to sample from for each number.
        terms: The number of terms of an expression, or a list of such counts, used in turn.
        operations: The operators to sample from.
        solution: Adds a `completion` that calculates the value, products first, for SFT.

    Returns:
        Rows with `prompt`, `answer` (a whole number, negative ones with `-`), `task` (`arithmetic/2terms`), and
            `completion` if `solution` is set. For the rewards `accuracy` and `exact_match`.

    >>> row = arithmetic(size=1, digits=1, terms=3, operations=["+", "*"], solution=True)[0]
    >>> row["prompt"], row["answer"]
    ('What is 3 * 2 + 8?', '14')
    >>> row["completion"]
    '<think> 3 * 2 = 6. 6 + 8 = 14. </think>\\n<answer> 14 </answer>'
    """
    lengths = choices(digits, "arithmetic: digits")
    counts = choices(terms, "arithmetic: terms", at_least=2)
    if not operations or set(operations) - set("+-*"):
        raise UserError(f"arithmetic: operations: {list(operations)}: should be a list of '+', '-' and '*'")
    rng = random.Random(f"arithmetic/{seed}/{split}")

    def draw(count: int) -> tuple[object, dict]:
        lowest = [10 ** (rng.choice(lengths) - 1) for _ in range(counts[count % len(counts)])]
        numbers = [rng.randint(low, 10 * low - 1) for low in lowest]
        signs = [rng.choice(operations) for _ in numbers[1:]]
        expression = str(numbers[0]) + "".join(f" {sign} {n}" for sign, n in zip(signs, numbers[1:]))
        canonical, value, steps = _worked(numbers, signs)
        row = {"prompt": f"What is {expression}?", "answer": str(value), "task": f"arithmetic/{len(numbers)}terms"}
        if solution:
            row["completion"] = complete(" ".join(steps), str(value))
        return canonical, row

    hint = "raise digits or terms, or lower size (eval.size in an evaluation)"
    return different(draw, name="arithmetic", split=split, size=size, hint=hint)


def _worked(numbers: list[int], signs: list[str]) -> tuple[object, int, list[str]]:
    """The canonical form of an expression, its value, and the steps to it, products before sums."""
    products, steps = [("+", [numbers[0]])], []
    for sign, n in zip(signs, numbers[1:]):
        if sign == "*":
            products[-1][1].append(n)
        else:
            products.append((sign, [n]))
    values = []
    for _, factors in products:
        value = factors[0]
        for n in factors[1:]:
            steps.append(f"{value} * {n} = {value * n}.")
            value *= n
        values.append(value)
    total = values[0]
    for (sign, _), value in zip(products[1:], values[1:]):
        result = total + value if sign == "+" else total - value
        steps.append(f"{total} {sign} {value} = {result}.")
        total = result
    return tuple(sorted((sign, tuple(sorted(factors))) for sign, factors in products)), total, steps
