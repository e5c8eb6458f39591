r"""Expressions, equations and regions as math-verify parses them, and whether two of them are equal.

Values decide if there are any: two expressions are equal if they agree at a few points to forty digits, which is
faster than SymPy's `simplify`, and can also show that they differ. math-verify's `verify` compares everything else.
"""

import logging
import re
from functools import lru_cache
from typing import TypeGuard

import sympy
from latex2sympy2_extended.logic import And
from latex2sympy2_extended.math_normalization import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.function import AppliedUndef

from r1lab.grading import structure
from r1lab.grading.latex import LONGEST, repaired
from r1lab.grading.size import too_large
from r1lab.grading.units import agree, measured

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of timeouts that are off: the pool has its own

# math-verify's own list of units takes the variables c, d, g, h, l, m, o, s and t for units, and its repair of
# operators joins a fraction with the digit after it. If it cannot parse the whole, it must not search for a part.
_PARSER = LatexExtractionConfig(
    try_extract_without_anchor=False,
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(basic_latex=True, units=False, malformed_operators=False, boxed="all"),
)
_DERIVED = re.compile(r"(?<=[a-zA-Z)}'])'")  # math-verify ignores the primes of f'(x) and B'
_DIGITS_APART = re.compile(r"\d\s+\d")
# The digits to which two values are computed, and how many of them must agree; fewer for integrals and series.
_EXACT, _NUMERIC = (50, 40), (20, 13)


class Unreadable(Exception):
    """An answer that cannot be compared with the gold answer."""


# Exceptions that SymPy raises on meaningless forms, such as an interval that ends in a matrix.
SENSELESS = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RecursionError, TypeError, ValueError)


@lru_cache(maxsize=4096)
def parsed(text: str):
    """The SymPy form that math-verify finds in an answer; None if it cannot parse all of it."""
    text_in_box = rf"\boxed{{{repaired(text)}}}"
    found = parse(text_in_box, [_PARSER], parsing_timeout=None)  # pyright: ignore[reportArgumentType]  # documented
    form = next((form for form in found if not isinstance(form, str)), None)
    if isinstance(form, (sympy.Tuple, sympy.Interval)) and text[0] in "([" and text[-1] not in ")]":
        return None  # math-verify stops parsing after a tuple
    return form


def same_expression(answer: str, gold: str) -> bool:
    r"""Whether two expressions or equations, with or without units, are equal.

    Raises:
        Unreadable: One of the two cannot be parsed, or is too large to evaluate.

    >>> same_expression(r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"), same_expression("x^2-1", "(x-1)(x+1)")
    (True, True)
    >>> same_expression(r"\sqrt{2}t", r"\sqrt{2}"), same_expression("x-y", "y-x")
    (False, False)
    """
    if len(answer) > LONGEST:
        raise Unreadable
    given, expected = measured(answer), measured(gold)
    if not agree(given.unit, expected.unit) or given[2:] != expected[2:]:
        return False
    if answer[:1] != "'" and len(_DERIVED.findall(answer)) != len(_DERIVED.findall(gold)):
        return False
    if _DIGITS_APART.search(repaired(given.value)) and not _DIGITS_APART.search(expected.value):
        raise Unreadable
    a, b = parsed(given.value), parsed(expected.value)
    if a is None or b is None or too_large(a, b):
        raise Unreadable
    verdict = _same_value(a, b, _places(given.value, expected.value))
    if verdict is not None:
        return verdict
    if isinstance(a, sympy.Eq) != isinstance(b, sympy.Eq):  # math-verify would take the right side of an equation
        return False
    return bool(verify(b, a, timeout_seconds=None, allow_set_relation_comp=True)) and _not_tiny(a, b)


def _places(*texts: str) -> int | None:
    """The number of decimals of numbers that have six or more."""
    return min((len(digits) for text in texts for digits in re.findall(r"\.(\d{6,})", text)), default=None)


def _same_value(a, b, places: int | None = None) -> bool | None:
    """Whether two forms have the same value, at a few points if they have variables; None if undecided."""
    if isinstance(a, sympy.MatrixBase) and isinstance(b, sympy.MatrixBase):
        verdicts = [_same_value(x, y, places) for x, y in zip(a.flat(), b.flat())] if a.shape == b.shape else [False]
        return False if False in verdicts else None if None in verdicts else True
    if isinstance(a, sympy.Eq) and isinstance(b, sympy.Eq):
        return _same_equation(a, b)
    if not (_has_values(a) and _has_values(b)):
        return None
    constant = not (a.free_symbols or b.free_symbols)
    endless = a.has(sympy.Integral, sympy.oo) or b.has(sympy.Integral, sympy.oo)
    precision, agreeing = _NUMERIC if endless else _EXACT
    values = [(x, y) for x, y in _at_points(precision, a, b) if x is not None and y is not None]
    for x, y in values:
        if x.is_Rational and y.is_Rational:
            if x != y and not (places and constant and abs(x - y) * 10**places < 1):
                return False
            continue
        apart, scale = abs(x - y), max(abs(x), abs(y))
        if constant and places and apart * 10**places < 1 and scale * 10**places > 1000:
            return True
        if apart > scale * sympy.Float(10) ** -agreeing:
            if scale < 1e-20 or (endless and apart < scale * 1e-6):
                return None
            return False
    return True if len(values) > 2 or (values and constant) else None


def _has_values(form) -> TypeGuard[sympy.Expr]:
    if not isinstance(form, sympy.Expr) or isinstance(form, sympy.MatrixExpr):
        return False
    if form.has(sympy.Integral, sympy.Sum, sympy.Product) and form.free_symbols and form.has(sympy.oo, sympy.Integral):
        return False
    if form.has(sympy.oo) and not form.has(sympy.Integral, sympy.Sum):
        return False
    return not form.has(AppliedUndef, sympy.Limit, sympy.Derivative, sympy.zoo, sympy.nan)


def _at_points(precision: int, *forms) -> list[tuple]:
    """The values of expressions at four points (positive and negative), None where there is no finite one."""
    symbols = sorted(set().union(*(form.free_symbols for form in forms)), key=str)
    rows = []
    for k in range(4 if symbols else 1):
        point = {
            s: sympy.Rational((-1) ** (k + i) * (61 * i + 29 * k + 37), 71 + 10 * k) for i, s in enumerate(symbols)
        }
        rows.append(tuple(_value(form, point, precision) for form in forms))
    return rows


def _value(form, point: dict, precision: int):
    exact = {number: sympy.Rational(str(number)) for number in form.atoms(sympy.Float)}
    value = form.xreplace(exact | point)
    if not value.has(sympy.Integral, sympy.oo):
        value = value.doit()
    if not value.is_Rational:
        value = value.evalf(precision)
    unsettled = value.has(sympy.Integral, sympy.Sum, sympy.Product)
    return value if value.is_number and value.is_finite and not unsettled else None


def _same_equation(a: sympy.Eq, b: sympy.Eq) -> bool | None:
    """True if one equation is a multiple of the other, False if they have other variables; None if undecided."""
    if a.free_symbols != b.free_symbols:
        return False
    sides = [side for side in (a.lhs, a.rhs, b.lhs, b.rhs) if _has_values(side)]
    if len(sides) < 4:
        return None
    apart = sides[0] - sides[1], sides[2] - sides[3]
    values = [(x, y) for x, y in _at_points(30, *apart) if x is not None and y is not None]
    if len(values) < 3 or any(abs(value) < 1e-18 for pair in values for value in pair):
        return None
    first = values[0][0] / values[0][1]
    if all(abs(x / y - first) <= abs(first) * 1e-18 for x, y in values):
        return True
    # math-verify compares the solutions, and considers two equations without any equal.
    return None if len(a.free_symbols) > 1 or sympy.solve(b, *b.free_symbols) else False


def _not_tiny(a, b) -> bool:
    """False if two constants were considered equal only because both (or their difference) are close to zero."""
    if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr)):
        return True
    if a.free_symbols or b.free_symbols or a.has(AppliedUndef) or b.has(AppliedUndef):
        return True
    x, y = a.evalf(20), b.evalf(20)
    if not (x.is_number and y.is_number and x.is_finite and y.is_finite):
        return True
    scale = max(abs(x), abs(y))
    return bool(scale > 1e-5 or scale == 0 or abs(x - y) <= scale * 1e-9)


def same_region(answer: str, gold: str) -> bool:
    r"""Whether inequalities and sets of numbers, in any mixture, describe the same numbers.

    Raises:
        Unreadable: The answer cannot be parsed.

    >>> same_region(r"x<-1 \text{ or } x>2", r"(-\infty,-1) \cup (2,\infty)"), same_region(r"x \le 2", "x < 2")
    (True, False)
    """
    a, b = region(answer), region(gold)
    if a and b:
        return not (a[1] and b[1] and a[1] != b[1]) and bool(verify(b[0], a[0], timeout_seconds=None))
    given, expected = parsed(answer), parsed(gold)
    if given is None or expected is None or too_large(given, expected):
        raise Unreadable
    return bool(verify(expected, given, timeout_seconds=None, allow_set_relation_comp=True))


_SET_BUILDER = re.compile(r"\\?\{\s*\(?(\w)\)?\s*(?:\\in\s*\\mathbb\s*\{\s*R\s*\}\s*)?(?::|\||\\mid)(.*?)\\?\}")


def region(text: str) -> tuple[sympy.Set, frozenset] | None:
    """The real numbers that inequalities, "or", "and" and intervals describe, and the variable in them."""
    if built := _SET_BUILDER.fullmatch(text):
        text = built[2]
    sets, names = [], frozenset()
    for part in structure.alternatives(text):
        met = []
        for condition in structure.conditions(part):
            sides = structure.sides(condition)
            if len(sides) == 2 and structure.is_name(sides[0]):
                names |= {structure.label(sides[0])}
                condition = sides[1]
            form = parsed(condition)
            if form is None or too_large(form):
                return None
            if not isinstance(form, sympy.Set):
                if not isinstance(form, sympy.Basic) or len(form.free_symbols) != 1 or isinstance(form, sympy.Expr):
                    return None
                names |= {str(symbol) for symbol in form.free_symbols}
                form = _solutions(form)
                if form is None:
                    return None
            met.append(form)
        sets.append(sympy.Intersection(*met))
    return (sympy.Union(*sets), names) if len(names) < 2 else None


_ENDS = {
    sympy.StrictLessThan: lambda end: sympy.Interval.open(-sympy.oo, end),
    sympy.LessThan: lambda end: sympy.Interval(-sympy.oo, end),
    sympy.StrictGreaterThan: lambda end: sympy.Interval.open(end, sympy.oo),
    sympy.GreaterThan: lambda end: sympy.Interval(end, sympy.oo),
}


def _solutions(form) -> sympy.Set | None:
    """The set that a relation, or a chain of them, in one variable describes; None if SymPy finds none."""
    if isinstance(form, And):
        parts = form._unsorted_args  # pyright: ignore[reportAttributeAccessIssue]  # what latex2sympy adds to SymPy's
        sets = [_solutions(part) for part in parts]
        return None if None in sets else sympy.Intersection(*sets)
    if type(form) in _ENDS:  # directly, because `as_set` takes half a second
        for relation in (form, form.reversed):
            if isinstance(relation.lhs, (sympy.Symbol, AppliedUndef)) and not relation.rhs.free_symbols:
                return _ENDS[type(relation)](relation.rhs)
    try:
        return form.as_set()
    except (NotImplementedError, TypeError, ValueError, AttributeError):  # what SymPy cannot solve
        return None
