"""The exact value of an arithmetic expression."""

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

LONGEST = 300
"""Characters of an expression: longer ones could exhaust the stack."""

MOST_DIGITS = 1000
"""Decimal digits of a number that is computed, in the numerator and in the denominator."""

_BASIC: dict[type, Callable] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_FURTHER: dict[type, Callable] = {ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow}
_INTEGERS = re.compile(r"[0-9+\-*/()\s]+")
_DECIMALS = re.compile(r"[0-9.+\-*/%()\s]+")


def evaluate(expression: str, *, further: bool = False) -> tuple[Fraction, Counter]:
    """The value of an arithmetic expression, exactly, and the numbers in it.

    Args:
        further: Whether decimals, `//`, `%` and `**` with an integer exponent may occur in addition to integers,
            + - * / and parentheses.

    Raises:
        ValueError, SyntaxError: It has something else, is too long, or a number in it has too many digits.
        ZeroDivisionError: It divides by zero.

    >>> evaluate("(5 - 2) / 9")
    (Fraction(1, 3), Counter({5: 1, 2: 1, 9: 1}))
    >>> evaluate("0.1 + 2 ** -1", further=True)[0]
    Fraction(3, 5)
    """
    if len(expression) > LONGEST or not (_DECIMALS if further else _INTEGERS).fullmatch(expression):
        raise ValueError("not an arithmetic expression")
    expression = expression.strip()
    operations = _BASIC | _FURTHER if further else _BASIC
    used = Counter()

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp) and type(node.op) in operations:
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Pow):
                _check_power(left, right)
            return _checked(Fraction(operations[type(node.op)](left, right)))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            return -value(node.operand) if isinstance(node.op, ast.USub) else value(node.operand)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            number = Fraction(ast.get_source_segment(expression, node) or "")  # not the float, which is rounded
            used[number.numerator if number.denominator == 1 else number] += 1
            return number
        raise ValueError("not an arithmetic expression")

    return value(ast.parse(expression, mode="eval").body), used


def _checked(number: Fraction) -> Fraction:
    if _bits(number) > MOST_DIGITS * 3.33:
        raise ValueError(f"a number has more than {MOST_DIGITS} digits")
    return number


def _check_power(base: Fraction, exponent: Fraction) -> None:
    if exponent.denominator != 1:
        raise ValueError("an exponent is not an integer")
    if base not in (0, 1, -1) and (_bits(base) - 1) * abs(exponent) > MOST_DIGITS * 3.33:
        raise ValueError(f"a number has more than {MOST_DIGITS} digits")


def _bits(number: Fraction) -> int:
    return max(number.numerator.bit_length(), number.denominator.bit_length())
