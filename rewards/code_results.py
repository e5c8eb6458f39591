"""Whether the output or the result of a program equals the expected one."""

import math
import re
from decimal import Context, Decimal

_DECIMAL = re.compile(r"[+-]?(?:0|[1-9]\d*|(?=\.\d))(?:\.(\d*))?(?:[eE][+-]?\d{1,4})?", re.ASCII)
_ROUNDED = Context(prec=40, traps=[])


def printed(text: str, expected: str) -> bool:
    """Whether a program printed the expected output.

    The comparison is line by line and, within a line, word by word. Numbers are compared as decimals. If the expected
    number has decimals, the error must be below a relative 1e-6 (1e-9 around zero) or, with six decimals or more,
    below half of the last one; with fewer, below both. `007` is text, and so are `1_000`, `nan` and `inf`.

    >>> printed("3.0 0.33333333333333331", "3 0.333333333333"), printed("12345678.13", "12345678.12")
    (True, False)
    """
    lines, wanted = text.strip().split("\n"), expected.strip().split("\n")
    return len(lines) == len(wanted) and all(map(_same_line, lines, wanted))


def _same_line(line: str, expected: str) -> bool:
    if line == expected:
        return True
    words, wanted = line.split(), expected.split()
    return len(words) == len(wanted) and all(map(_same_word, words, wanted))


def _same_word(word: str, expected: str) -> bool:
    if word == expected:
        return True
    shown = _DECIMAL.fullmatch(expected)
    if not (shown and _DECIMAL.fullmatch(word)):
        return False
    number, wanted = Decimal(word), Decimal(expected)
    if number == wanted:
        return True
    decimals = len(shown[1] or "")
    if not decimals:
        return False
    error = _ROUNDED.abs(_ROUNDED.subtract(number, wanted))
    allowed = max(Decimal("1e-9"), _ROUNDED.multiply(_ROUNDED.abs(wanted), Decimal("1e-6")))
    exponent = wanted.as_tuple().exponent
    assert isinstance(exponent, int)  # a letter for infinity and NaN, which `_DECIMAL` rejects
    half = Decimal((0, (5,), exponent - 1))
    return error < (max(allowed, half) if decimals >= 6 else min(allowed, half))


def same(value: object, expected: object) -> bool:
    """Whether two values read from JSON are equal, floats within a relative 1e-6 (1e-9 around zero).

    >>> same([0.1 + 0.2], [0.3]), same({"a": 1.0}, {"a": 1}), same(True, 1)
    (True, True, False)
    """
    if isinstance(expected, list):
        return isinstance(value, list) and len(value) == len(expected) and all(map(same, value, expected))
    if isinstance(expected, dict):
        return (
            isinstance(value, dict)
            and value.keys() == expected.keys()
            and all(same(value[k], expected[k]) for k in value)
        )
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if (
        isinstance(value, float)
        and isinstance(expected, float)
        and math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-9)
    ):
        return True
    return value == expected
