r"""Whether an answer to a maths problem is right: what a worker of the pool does for `accuracy_reward`.

On top of math-verify's parser and comparison: numbers are compared exactly, words as words, what would not fit in
memory is refused before it is worked out, and two tiny numbers are not equal for being tiny (math-verify 0.9 takes
1/2006! for 1/2004!). May hang or crash all the same: to be called through `r1lab.verify.pool`.
"""

import logging
import math
import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

import sympy
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.function import AppliedUndef

from r1lab.rewards.answers import readings

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of timeouts that are off: the pool has its own

LONGEST = 2000  # characters of an answer; matrices need hundreds
MOST_DIGITS = 200_000  # of a number that is worked out

_UNICODE = {
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "°": r"^\circ ", "∪": r"\cup ", "∩": r"\cap ", "′": "'",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "²": "^{2}", "³": "^{3}",
}  # fmt: skip
_WRAPPED = re.compile(
    r"\s*(?:\$\$?(?P<a>[^$]*)\$\$?|\\\((?P<b>.*)\\\)|\\\[(?P<c>.*)\\\]|\*\*(?P<d>[^*]*)\*\*|"
    r"\\(?:boxed|fbox|text|textbf|mathrm|mathbf)\s*\{(?P<e>[^{}]*)\})\s*",
    re.DOTALL,
)
_SPACING = re.compile(r"\\[,;:]|\\(?:displaystyle|quad|qquad|left|right)(?![a-zA-Z])|~|\\ ")
_ABOUT = re.compile(r"(?:\\approx|about|approximately|roughly)(?![a-zA-Z])\s*", re.IGNORECASE)
_PLAIN_FUNCTIONS = re.compile(r"(?<![\\a-zA-Z])(sqrt|pi|sin|cos|tan|ln|log|infinity|inf)(?![a-zA-Z])")
_OR = re.compile(r"\s*(?:,\s*)?(?:\\text\s*\{\s*,?\s*(?:or|and)\s*\}|\b(?:or|and)\b)\s*")
_DIGITS_APART = re.compile(r"\d\s+\d")
_TEXT = re.compile(r"[^\W\d_][\w'.-]*(?:[ -][\w'.-]+)*")
_ANOTHER = re.compile(r"\b(?:or|and|not|[A-HJ-Z])\b", re.ASCII)
_LETTER = re.compile(r"\(?([A-Z])\)?[.:]?", re.ASCII)
_NUMBER = re.compile(
    r"""(?P<sign>[-+]?)\s*(?:\\?[$€£¥₹]\s*)?(?P<sign2>[-+]?)\s*(?:
    (?P<whole>\d{1,3}(?:(?:,|\{,\}|\ )\d{3})+|\d+)?(?P<decimals>\.\d+|(?<=\d)\.(?!\d))?
    (?P<exponent>[eE][-+]?\d{1,3})?
    (?:(?P<slash>\s*/\s*)(?P<under>\d+))?
    (?:\s*\\[dt]?frac\s*(?:\{\s*(?P<n1>\d+)\s*\}\s*\{\s*(?P<d1>\d+)\s*\}|(?P<n2>\d)\s*(?P<d2>\d)))?
    |(?P<mixed>\d+)[ ](?P<mn>\d+)/(?P<md>\d+))
    (?:\s*\\?(?P<percent>%))?
    (?:\s*(?:[a-zA-Z][a-zA-Z.]+|[mgshlLNJWVAKCF]|\\(?:text|mathrm|mbox)\s*\{[^{}]*\})(?:\s*\^\s*\{?[23]\}?)?)?""",
    re.VERBOSE,
)


def grade(turn: str, gold: str) -> tuple[float, str]:
    """1 or 0 for the last answer that an assistant turn commits to, and the reason.

    >>> grade(r"It is \\boxed{5}. Wait, that is wrong. It should be \\boxed{7}.", "7")
    (1.0, 'correct')
    >>> grade("<answer> 1/2006! </answer>", "1/2004!")
    (0.0, 'wrong: 1/2006!')
    """
    answers = [answer for answer in map(normal, readings(turn)) if answer]
    wanted = normal(gold)
    if wanted in answers:
        return 1.0, "correct"
    if not understood(gold):
        return 0.0, "gold_unparsed"
    if not answers:
        return 0.0, "no_answer"
    verdicts = [same(answer, wanted) for answer in answers]
    if "correct" in verdicts:
        return 1.0, "correct"
    shown = " ".join(answers[-1].split())[:60]
    return 0.0, f"{verdicts[-1]}: {shown}"


def warm() -> None:
    """Grades one answer of each usual form, so that what the first of them costs is not a worker's time."""
    for answer, gold in (
        (r"\frac{1}{2}", "0.5"), (r"\sqrt{8}", r"2\sqrt{2}"), ("(1, 2)", "(1,3)"), (r"\{1, 2\}", r"\{2,1\}"),
        ("x = 3", "3"), ("x^2 + 1", "1 + x^2"), (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", "7"), ("50\\%", "0.5"),
        ("[0, 1)", r"[0, \infty)"), (r"\frac{\pi}{2}", r"\pi/2"), (r"(-\infty, 2]", r"x \le 2"), ("1+2i", "1"),
        (r"\log_2 8", "4"), (r"60^\circ", "6"), (r"\sin x", r"\cos x"), (r"\text{7 cm}", "8"),
    ):  # fmt: skip
        grade(rf"\boxed{{{answer}}}", gold)


def understood(gold: str) -> bool:
    """Whether a gold answer can be compared in more ways than letter by letter."""
    gold = normal(gold)
    return bool(gold) and (
        _is_words(gold) or _LETTER.fullmatch(gold) or number(gold) is not None or bool(_parse(gold))
    )


def same(answer: str, gold: str) -> str:
    """`correct`, `wrong` or `unparsed` for an answer beside a gold, both as `normal` gives them."""
    if letter := _LETTER.fullmatch(gold):
        said = re.match(r"\(?([A-Za-z])\)?(?:[.:)\s]|$)", answer)
        if said and said[1].upper() == letter[1] and not _ANOTHER.search(answer, said.end()):
            return "correct"
        if len(answer) > 1 or gold != letter[1]:
            return "wrong"
    if _is_words(gold):
        return "correct" if _words(answer) == _words(gold) else "wrong"
    a, b = number(answer), number(gold)
    if a is not None and b is not None:
        return "correct" if _close(a, answer, b, gold) else "wrong"
    if len(answer) > LONGEST or (b is None and _DIGITS_APART.search(answer) and not _DIGITS_APART.search(gold)):
        return "unparsed"
    parsed = _parse(answer)
    if not parsed:
        return "unparsed"
    wanted = _parse(gold)
    if any(digits(x) > MOST_DIGITS for x in (*parsed, *wanted)):
        return "unparsed"
    if "=" not in gold:  # of an equation math-verify takes the right side, whatever the left one says
        parsed = tuple(
            form for form in parsed if not (isinstance(form, sympy.Eq) and form.lhs.free_symbols and form.lhs.is_Add)
        )
    return (
        "correct"
        if verify(list(wanted), list(parsed), timeout_seconds=None) and _not_tiny(parsed, wanted)
        else "wrong"
    )


def normal(text: str) -> str:
    r"""An answer without what surrounds it: mathematics signs, bold, spacing, full stop, invisible characters.

    >>> normal("**$ 3{,}5 $**.")
    '3{,}5'
    """
    text = "".join(
        _UNICODE.get(c, c) for c in text[: 2 * LONGEST] if unicodedata.category(c) not in ("Cf", "Cc") or c in "\n\t"
    )
    text = _SPACING.sub(" ", unicodedata.normalize("NFKC", text).replace("\\!", "")).strip()
    while True:
        text = _ABOUT.sub("", text.rstrip(" .;,\n\t"))
        whole = _WRAPPED.fullmatch(text)
        if not whole:
            return " ".join(text.split())
        text = next(group for group in whole.groups() if group is not None).strip()


def number(text: str) -> Fraction | None:
    r"""The exact value of a plain number, with its currency, thousands separators, percent sign and unit, or None.

    A percentage is not one: 50% may stand for 50 or for 0.5, which math-verify knows.

    >>> number("$1,234.50"), number(r"3\frac{1}{2}"), number("72 clips"), number("1/2006!")
    (Fraction(2469, 2), Fraction(7, 2), Fraction(72, 1), None)
    """
    found = _NUMBER.fullmatch(text) if len(text) < 300 else None
    if not found or found["percent"]:
        return None
    sign = -1 if (found["sign"] == "-") != (found["sign2"] == "-") else 1
    if found["mixed"]:
        parts = int(found["mixed"]), found["mn"], found["md"]
    else:
        over, under = found["n1"] or found["n2"], found["d1"] or found["d2"]
        if not found["whole"] and not found["decimals"]:
            if over is None:
                return None
        elif over is not None and (found["decimals"] or found["slash"]):
            return None
        digits_ = (
            re.sub(r"[,{} ]", "", found["whole"] or "0")
            + (found["decimals"] or "").rstrip(".")
            + (found["exponent"] or "")
        )
        value = Fraction(digits_)
        if found["slash"]:
            return sign * value / int(found["under"]) if int(found["under"]) else None
        parts = value, over or 0, under or 1
    return sign * (parts[0] + Fraction(int(parts[1]), int(parts[2]))) if int(parts[2]) else None


def _close(a: Fraction, a_text: str, b: Fraction, b_text: str) -> bool:
    """Equal, or one is the other rounded or cut to six decimals or more, of which four digits say something."""
    if a == b:
        return True
    for rounded, text, exact in ((a, a_text, b), (b, b_text, a)):
        decimals = re.search(r"\.(\d{6,})", text)
        if decimals and len(text.replace(".", "").lstrip("-+0")) >= 4:
            places = len(decimals[1])
            if abs(rounded - exact) * 10**places <= 1:
                return True
    return False


def _is_words(text: str) -> bool:
    r"""Whether a gold is a word or words, which math-verify would take for a product of letters."""
    letters = [word for word in re.findall(r"[^\W\d_]+", text) if len(word) > 2]
    return bool(letters) and bool(_TEXT.fullmatch(text)) and not _PLAIN_FUNCTIONS.search(text)


def _words(text: str) -> list[str]:
    text = re.sub(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}", r"\1", text)
    return re.findall(r"[\w']+", text.casefold())


@lru_cache(maxsize=4096)
def _parse(text: str) -> tuple:
    """The SymPy forms that math-verify finds in an answer; none where it cannot read all of it."""
    text = _OR.sub(", ", text) if _OR.search(text) else text
    text = _PLAIN_FUNCTIONS.sub(lambda m: "\\" + {"inf": "infty", "infinity": "infty"}.get(m[1], m[1]), text)
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    found = parse(rf"\boxed{{{text}}}", [LatexExtractionConfig(boxed_match_priority=0)], parsing_timeout=None)
    return tuple(form for form in found if not isinstance(form, str))


def digits(expression, values: dict | None = None) -> float:
    """An upper bound on the decimal digits of the largest number that working an expression out makes.

    Nothing is worked out to find it. Functions that it does not know count as their arguments.

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
        return max(base, 0.3, exponent) * _size(exponent)
    if isinstance(expression, (sympy.exp, sympy.cosh, sympy.sinh)):
        return max(parts[0], _size(parts[0]))
    if isinstance(expression, (sympy.factorial, sympy.factorial2, sympy.gamma, sympy.subfactorial, sympy.binomial)):
        return max(parts[0], 1.0) * _size(parts[0])
    if isinstance(expression, sympy.Mul):
        return sum(parts)
    return max(parts, default=0.0) + (math.log10(len(parts)) if parts else 0.0)


def _terms(expression, values: dict) -> float:
    """Of a sum or product: as many terms as its limits say, each as large as with the last index."""
    values, count = dict(values), 0.0
    for symbol, *limits in expression.limits:
        values[symbol] = max((digits(limit, values) for limit in limits), default=0.0)
        count += values[symbol] if not any(limit.is_infinite for limit in limits) else 0.0
    each = max(digits(expression.function, values), 1.0)
    if count > 4:  # ten thousand terms are added one by one
        return math.inf
    return each * (_size(count) if isinstance(expression, sympy.Product) else 1.0) + count


def _size(digits_: float) -> float:
    """The value of a number of so many digits."""
    return 10.0 ** min(digits_, 300.0)


def _not_tiny(parsed: tuple, wanted: tuple) -> bool:
    """False where two constants were taken for equal because both are next to nothing (or their difference is)."""
    for a in parsed:
        for b in wanted:
            if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr)):
                return True
            if a.free_symbols or b.free_symbols or a.has(AppliedUndef) or b.has(AppliedUndef):
                return True
            x, y = a.evalf(20), b.evalf(20)
            if not (x.is_number and y.is_number and x.is_finite and y.is_finite):
                return True
            scale = max(abs(x), abs(y))
            if scale > 1e-5 or scale == 0 or abs(x - y) <= scale * 1e-9:
                return True
    return False
