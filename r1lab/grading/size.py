"""The size of the numbers in an expression: an expression that would not fit in memory is not evaluated."""

import math

import sympy

MOST_DIGITS = 200_000  # of a number that is computed


def too_large(*expressions) -> bool:
    """Whether evaluating one of the expressions makes a number of more than `MOST_DIGITS` digits.

    >>> from sympy import Integer, Pow
    >>> too_large(Pow(Integer(9), Pow(Integer(9), Integer(9), evaluate=False), evaluate=False)), too_large(Integer(7))
    (True, False)
    """
    return any(digits(expression) > MOST_DIGITS for expression in expressions)


def digits(expression, values: dict | None = None) -> float:
    """An upper bound on the decimal digits of the largest number in the evaluation of an expression.

    Nothing is evaluated to find it. Unknown functions count as their arguments.

    >>> from sympy import Integer, Pow
    >>> tower = Pow(Integer(9), Pow(Integer(9), Integer(9), evaluate=False), evaluate=False)
    >>> digits(tower) > 10**6
    True
    """
    values = values or {}
    if isinstance(expression, (sympy.MatrixBase, list, tuple)):
        return max((digits(item, values) for item in expression), default=0.0)
    if isinstance(expression, sympy.Rational):
        return max(expression.p.bit_length(), expression.q.bit_length()) * math.log10(2)
    if isinstance(expression, sympy.Float):
        return abs(float(expression._mpf_[2] + expression._mpf_[3])) * math.log10(2) if expression else 0.0
    if isinstance(expression, sympy.Symbol):
        return values.get(expression, 0.0)
    if not isinstance(expression, sympy.Basic):
        return 0.0
    if isinstance(expression, (sympy.Sum, sympy.Product)):
        return _terms(expression, values)
    parts = [digits(part, values) for part in expression.args]
    if isinstance(expression, sympy.Pow):
        base, exponent = parts
        return max(base, 0.3, exponent) * max(_size(_magnitude(expression.exp, values)), 1.0)
    if isinstance(expression, (sympy.exp, sympy.cosh, sympy.sinh)):
        return max(parts[0], _size(parts[0]))
    if isinstance(expression, (sympy.factorial, sympy.factorial2, sympy.gamma, sympy.subfactorial, sympy.binomial)):
        return max(parts[0], 1.0) * _size(parts[0])
    if isinstance(expression, sympy.Mul):
        return sum(parts)
    return max(parts, default=0.0) + (math.log10(len(parts)) if parts else 0.0)


def _terms(expression, values: dict) -> float:
    """The bound for a sum or product: the number of terms by its limits, each as large as with the last index."""
    values, count = dict(values), 0.0
    for symbol, *limits in expression.limits:
        values[symbol] = max((digits(limit, values) for limit in limits), default=0.0)
        count += values[symbol] if not any(limit.is_infinite for limit in limits) else 0.0
    each = max(digits(expression.function, values), 1.0)
    if count > 4:  # ten thousand terms are added one by one
        return math.inf
    return each * (_size(count) if isinstance(expression, sympy.Product) else 1.0) + count


def _size(digits_: float) -> float:
    """The value of a number with this many digits."""
    return 10.0 ** min(digits_, 300.0)


def _magnitude(expression, values: dict) -> float:
    """An upper bound on the decimal logarithm of an expression's absolute value."""
    if isinstance(expression, sympy.Rational):
        return (abs(expression.p).bit_length() - expression.q.bit_length() + 1) * math.log10(2)
    if isinstance(expression, sympy.Mul):
        return sum(_magnitude(part, values) for part in expression.args)
    if isinstance(expression, sympy.Add):
        return max(_magnitude(part, values) for part in expression.args) + math.log10(len(expression.args))
    if isinstance(expression, sympy.Pow) and isinstance(expression.exp, sympy.Rational):
        power = float(expression.exp)
        base = _magnitude(expression.base, values) if power > 0 else digits(expression.base, values)
        return max(base, 0.0) * abs(power)
    return digits(expression, values)
