r"""Exact numbers with their context (currency, unit, percent sign), times of day, and number bases."""

import re
from fractions import Fraction
from typing import NamedTuple

from r1lab.grading.units import agree, measured


class Quantity(NamedTuple):
    """An exact number: its value, its unit (None for none, or for a noun), and whether it is a percentage."""

    value: Fraction
    unit: str | None = None
    percent: bool = False


_NUMBER = re.compile(
    r"""(?P<sign>[-+]?)\s*(?:(?:US|A|C|HK)?\\?(?P<currency>[$€£¥₹₩])\s*|(?:USD|EUR|Rs\.?)\s+)?(?P<sign2>[-+]?)\s*(?:
    (?P<whole>\d{1,3}(?:(?:,|\{,\}|\ )\d{3})+(?!\d)|\d+)?(?P<decimals>\.\d+|(?<=\d)\.(?!\d)|\{,\}(?!\d{3}(?!\d))\d+)?
    (?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?:\{\s*(?P<power>[-+]?\d{1,3})\s*\}|\(\s*(?P<power2>[-+]?\d{1,3})\s*\)|(?P<power3>[-+]?\d{1,3})))?
    (?P<exponent>[eE][-+]?\d{1,3})?
    (?:(?P<slash>\s*/\s*)(?P<under>\d+))?
    (?:\s*(?:\\text\s*\{\s*and\s*\})?\s*\\[dt]?frac\s*(?:(?:\{\s*(?P<n1>\d+)\s*\}|(?P<n2>\d))\s*(?:\{\s*(?P<d1>\d+)\s*\}|(?P<d2>\d))))?
    |(?P<mixed>\d+)(?:[ ]|[ ]and[ ])(?P<mn>\d+)/(?P<md>\d+)
    |(?P<over>\d{1,3}(?:,\d{3})+|\d+)\s*/\s*(?P<below>\d{1,3}(?:,\d{3})+|\d+))""",
    re.VERBOSE,
)
_REPEATING = re.compile(
    r"(?<![\d.])(\d*)\.(\d*)(?:\\(?:overline|bar|overbar)\s*\{\s*(\d+)\s*\}|\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?|\((\d+)\)"
    r"|(?<=\d)(?:\.\.\.|\\ldots))(?![\d.])"
)
_PERIOD = re.compile(r"(\d)\1\1$|(\d{2,6}?)\2$")


def without_repeats(text: str) -> str:
    r"""Repeating decimals as fractions.

    >>> without_repeats(r"0.1\overline{6}"), without_repeats("2 + 0.666..."), without_repeats("3.1415...")
    ('\\frac{15}{90}', '2 + \\frac{6}{9}', '3.1415')
    """
    return _REPEATING.sub(_fraction, text) if "." in text else text


def _fraction(found: re.Match) -> str:
    whole, before, line, dot, middle, last_dot, brackets = found.groups()
    period = line or brackets or (dot and dot + (middle or "") + (last_dot or ""))
    if not period:
        seen = _PERIOD.search(before)
        if not seen:
            return f"{whole}.{before}"
        period = seen[1] or seen[2]
        while before.endswith(period):
            before = before[: -len(period)]
    over = int(whole + before + period) - int(whole + before or "0")
    return rf"\frac{{{over}}}{{{'9' * len(period)}{'0' * len(before)}}}"


def number(text: str) -> Fraction | None:
    r"""The exact value of a plain number with thousands separators or a currency sign, or None.

    >>> number("$1,234.50"), number(r"3\frac{1}{2}"), number(r"1.5 \times 10^{-3}"), number("1/2006!")
    (Fraction(2469, 2), Fraction(7, 2), Fraction(3, 2000), None)
    """
    if len(text) > 300:
        return Fraction(int(text)) if re.fullmatch(r"-?\d{1,4000}", text) else None
    found = _NUMBER.fullmatch(text)
    if not found:
        return None
    sign = -1 if (found["sign"] == "-") != (found["sign2"] == "-") else 1
    if found["over"]:
        over, below = (int(part.replace(",", "")) for part in (found["over"], found["below"]))
        return sign * Fraction(over, below) if below else None
    if found["mixed"]:
        value, over, under = Fraction(found["mixed"]), found["mn"], found["md"]
    else:
        over, under = found["n1"] or found["n2"], found["d1"] or found["d2"]
        power = found["power"] or found["power2"] or found["power3"]
        if not found["whole"] and not found["decimals"]:
            if over is None:
                return None
        elif over is not None and (found["decimals"] or found["slash"] or power):
            return None
        decimals = (found["decimals"] or "").replace("{,}", ".").rstrip(".")
        value = Fraction(re.sub(r"[,{} ]", "", found["whole"] or "0") + decimals + (found["exponent"] or ""))
        value *= Fraction(10) ** int(power or 0)
        if found["slash"]:
            return sign * value / int(found["under"]) if int(found["under"]) else None
    return sign * (value + Fraction(int(over or 0), int(under or 1))) if int(under or 1) else None


def quantity(text: str, *, letters: bool = False) -> Quantity | None:
    r"""A number with its unit, or None if the text is anything else.

    Args:
        letters: Whether a single letter after a space is a unit (`5 m`) rather than a variable.

    >>> quantity(r"60 \text{ km/h}"), quantity("64.00€").value, quantity("3 million dollars").value
    (Quantity(value=Fraction(60, 1), unit='kph', percent=False), Fraction(64, 1), Fraction(3000000, 1))
    >>> quantity("12%"), quantity("6cd"), quantity("12 pi"), quantity(r"7 \text{ or 8}")
    (Quantity(value=Fraction(12, 1), unit=None, percent=True), None, None, None)
    """
    value = number(text)
    if value is not None:
        return Quantity(value, _currency(text))
    apart = measured(text, letters=letters)
    value = number(apart.value) if apart.value != text else None
    return (
        None if value is None else Quantity(value * apart.factor, apart.unit or _currency(apart.value), apart.percent)
    )


def _currency(text: str) -> str | None:
    sign = re.search(r"[$€£¥₹₩]", text[:6])
    return sign and sign[0]


def same_quantity(given: Quantity, answer: str, expected: Quantity, gold: str) -> bool:
    """Whether two quantities, written as `answer` and `gold`, are the same.

    A percentage equals its fraction, and from 1 on also its number without the sign.

    >>> [same_quantity(quantity("50%"), "50%", quantity(gold), gold) for gold in ("0.5", "50", "5")]
    [True, True, False]
    """
    if not agree(given.unit, expected.unit):
        return False
    a, b = given.value, expected.value
    if given.percent == expected.percent:
        return close(a, answer, b, gold)
    percent, bare = (a, b) if given.percent else (b, a)
    return percent == 100 * bare or (percent == bare and abs(bare) >= 1)


def close(a: Fraction, a_text: str, b: Fraction, b_text: str) -> bool:
    """Whether two numbers are equal, or one is the other rounded or truncated.

    A rounded number must have at least six decimals and four significant digits. A printed float is accurate to
    fifteen digits, but its last digit may be off.
    """
    if a == b:
        return True
    for rounded, text, exact in ((a, a_text, b), (b, b_text, a)):
        decimals = re.search(r"\.(\d{6,})", text)
        significant = len(text.replace(".", "").lstrip("-+0"))
        if decimals and significant >= 15 and abs(exact - rounded) <= abs(exact) * Fraction(1, 10**15):
            return True
        if decimals and significant >= 4:
            off = (exact - rounded) * 10 ** len(decimals[1])
            if abs(off) <= Fraction(1, 2) or (abs(off) < 1 and (off > 0) == (exact > 0)):
                return True
    return False


_TIME = re.compile(
    r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*(?:\\text\s*\{\s*)?(?:([ap])\.?\s*m\b\.?|(noon|midnight|o'clock))?(?:\s*\})?",
    re.IGNORECASE,
)
_HOUR = re.compile(r"(\d{1,2})\s*(?:\\text\s*\{\s*)?([ap])\.?\s*m\b\.?(?:\s*\})?", re.IGNORECASE)


def time_of_day(text: str) -> tuple[int, int, int, str | None] | None:
    r"""Hour, minute, second and `a`, `p` or None; None if the text is not a time.

    >>> time_of_day("3:30 PM"), time_of_day(r"15:30"), time_of_day("7 a.m."), time_of_day("3:4")
    ((3, 30, 0, 'p'), (15, 30, 0, None), (7, 0, 0, 'a'), None)
    """
    found = _TIME.fullmatch(text.strip())
    if found:
        hour, minute, second = int(found[1]), int(found[2]), int(found[3] or 0)
        half = found[4] and found[4].lower()
        return (hour, minute, second, half) if hour <= 24 and minute < 60 and second < 60 else None
    found = _HOUR.fullmatch(text.strip())
    return (int(found[1]), 0, 0, found[2].lower()) if found and int(found[1]) <= 12 else None


def same_time(a: tuple, b: tuple) -> bool:
    """Whether two times are the same: 15:30 is 3:30 p.m.; if only one has a half of the day, the clock decides."""
    if a[3] is None or b[3] is None:
        return a[1:3] == b[1:3] and (
            a[0] == b[0] or 12 < max(a[0], b[0]) == min(a[0], b[0]) + 12 and "p" in (a[3], b[3])
        )
    return a[0] % 12 == b[0] % 12 and a[1:] == b[1:]


_BASES = {name: i for i, name in enumerate(
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split(), 2
)}  # fmt: skip
_BASE = re.compile(
    r"\(?([0-9A-Za-z]+(?:\.[0-9A-Za-z]+)?)\)?\s*(?:_\s*\{?\s*(?:\\text\s*\{)?\s*\(?(\d{1,2}|[a-z]+)\)?\s*\}?\s*\}?"
    r"|(?:\\text\s*\{)?\s*\(?\s*(?:in\s+)?base[\s-]*(\d{1,2}|[a-z]+)\s*\)?\s*\}?\s*(\d{1,2})?)"
)


def names_base(text: str) -> bool:
    """Whether a number is written with a base, valid or not.

    >>> names_base("52_1"), names_base("52")
    (True, False)
    """
    found = _BASE.fullmatch(text)
    return bool(found) and any(c.isdigit() for c in found[1])


def in_base(text: str) -> tuple[str, int] | None:
    r"""The digits of a number and the base that it is written with, or None.

    >>> in_base("413_5"), in_base(r"413_{\text{five}}"), in_base("2a3_{16}"), in_base("a_1")
    (('413', 5), ('413', 5), ('2A3', 16), None)
    """
    found = _BASE.fullmatch(text)
    if not found or not any(c.isdigit() for c in found[1]):
        return None
    name = found[2] or found[3] or found[4]
    base = int(name) if name.isdigit() else _BASES.get(name)
    digits = found[1].upper()
    if not base or not 2 <= base <= 36 or any(int(c, 36) >= base for c in digits.replace(".", "")):
        return None
    return digits, base
