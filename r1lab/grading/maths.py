r"""Whether an answer to a math problem is correct: what a worker of the pool does for `accuracy_reward`.

An answer and a gold answer are compared by structure (lists, tuples, equations) down to their parts. Plain numbers are
compared exactly, words as words, and everything else by math-verify's parser and comparison, which get a text that
`r1lab.grading.latex` has repaired. Expressions that would not fit in memory are rejected before they are evaluated.
Grading may hang or crash all the same: call it through `r1lab.grading.pool`.
"""

import re
from fractions import Fraction
from functools import lru_cache

from r1lab.grading import expressions, structure
from r1lab.grading.answers import readings
from r1lab.grading.expressions import SENSELESS, Unreadable
from r1lab.grading.latex import LONGEST, PLAIN_FUNCTION, normal
from r1lab.grading.quantities import (
    Quantity,
    close,
    in_base,
    names_base,
    number,
    quantity,
    same_quantity,
    same_time,
    time_of_day,
    without_repeats,
)
from r1lab.grading.units import measured, unit

_SIGNS = ("-", "−", "+", "¬", "~")  # before words, whose meaning they change
_LETTER = re.compile(r"\(?([A-Z])\)?[.:]?", re.ASCII)
_OPTION = re.compile(r"(?:\\text\s*\{\s*\(([A-Z])\)[.:]?\s*\}|\(([A-Z])\)(?=\s))[.:]?\s*(?=[^\s=+*/^-])")
_ANOTHER = re.compile(r"\b(?:or|and|not|[A-HJ-Z])\b", re.ASCII)
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne)(?![a-zA-Z])")
_REGION = re.compile(r"[<>]|\\(?:le|ge|ne|cup|cap|setminus)(?![a-zA-Z])")
_TEXT = re.compile(r"[^\W_][\w'.]*(?:[ -]+[\w'.]+)*")
_SHORT_WORDS = frozenset("no on up in it is at by he we".split())
_CONGRUENT = re.compile(
    r"(?:(?P<name>[a-zA-Z](?:_\S+)?)\s*\\equiv\s*)?(?P<rest>-?\d{1,9})\s*(?:\(\s*)?(?:\\[pb]?mod|mod)\s*\{?\s*(?P<by>\d{1,9})\s*\}?\s*\)?"
)
# A segment or a polygon by its corners: `\overline{AB}`, `\text{segment } AB`. Products of letters look similar.
_FIGURE = re.compile(
    r"(?:\\text\s*\{\s*(?:line\s+)?(?:segment|side)\s*\}\s*|(?:line\s+)?(?:segment|side)\s+)?"
    r"(?:\\overline\s*\{\s*(?P<line>[A-Z]{2})\s*\}|(?P<bare>[A-Z]{2}))"
)
_NOTHING = re.compile(
    r"\\emptyset|\\?\{\s*\\?\}|(?:\\text\s*\{)?\s*(?:(?:there\s+(?:is|are)\s+)?no(?:\s+real)?\s+solutions?"
    r"(?:\s+exists?)?|(?:the\s+)?empty\s+set)\s*\}?",
    re.IGNORECASE,
)
_SYMBOL = re.compile(r"\\emptyset|\\?\{\s*\\?\}")
_RATIO_OF = re.compile(r"(.*\d)(\s*(?:\\text\s*\{|\().*)")
_SIMPLE = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?", re.ASCII)


def grade(turn: str, gold: str) -> tuple[float | None, str]:
    """1 or 0 for the last answer that a response commits to, None if the gold cannot be parsed; and the reason.

    >>> grade(r"It is \\boxed{5}. Wait, that is wrong. It should be \\boxed{7}.", "7")
    (1.0, 'correct')
    >>> grade("<answer> 1/2006! </answer>", "1/2004!")
    (0.0, 'wrong: 1/2006!')
    """
    answers = [answer for answer in map(normal, readings(turn)) if answer]
    expected = normal(gold)
    if expected in answers:
        return 1.0, "correct"
    if not understood(gold):
        return None, "gold_unparsed"
    if not answers:
        return 0.0, "no_answer"
    verdicts = [same(answer, expected) for answer in answers]
    if "correct" in verdicts:
        return 1.0, "correct"
    shown = " ".join(answers[-1].split())[:60]
    return 0.0, f"{verdicts[-1]}: {shown}"


def warm() -> None:
    """Grades one answer of each common form, so that first-use costs are not part of a worker's time."""
    for answer, gold in (
        (r"\frac{1}{2}", "0.5"), (r"\sqrt{8}", r"2\sqrt{2}"), ("(1, 2)", "(1,3)"), (r"\{1, 2\}", r"\{2,1\}"),
        ("x = 3", "3"), ("x^2 + 1", "1 + x^2"), (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", "7"), ("50\\%", "0.5"),
        ("[0, 1)", r"[0, \infty)"), (r"\frac{\pi}{2}", r"\pi/2"), (r"(-\infty, 2]", r"x \le 2"), ("1+2i", "1"),
        (r"\log_2 8", "4"), (r"60^\circ", "6"), (r"\sin x", r"\cos x"), (r"\text{7 cm}", "8"),
    ):  # fmt: skip
        grade(rf"\boxed{{{answer}}}", gold)


def understood(gold: str) -> bool:
    """Whether a gold answer can be compared in more ways than character by character."""
    gold = normal(gold)
    try:
        return bool(gold) and len(gold) <= LONGEST and _readable(gold)
    except SENSELESS:
        return False


def same(answer: str, gold: str) -> str:
    """`correct`, `wrong` or `unparsed` for an answer and a gold answer, both as returned by `normal`."""
    if len(answer) > LONGEST and not answer.lstrip("-").isdigit():
        return "unparsed"
    if (letter := _LETTER.fullmatch(gold)) and (len(answer) > 1 or gold != letter[1]):
        given = re.match(r"\(?([A-Za-z])\)?(?:[.:)\s]|$)", answer)
        given = _OPTION.match(answer) or given
        right = (
            given
            and letter[1] in [(part or "").upper() for part in given.groups()]
            and not _ANOTHER.search(answer, given.end())
        )
        if right or not re.search(r"[=^_\\]", answer):
            return "correct" if right else "wrong"
    if (option := _OPTION.match(answer)) and not _OPTION.match(gold):
        answer = normal(answer[option.end() :])
    try:
        return "correct" if _equal(without_repeats(answer), without_repeats(gold)) else "wrong"
    except (Unreadable, *SENSELESS):
        return "unparsed"


@lru_cache(maxsize=4096)
def _readable(gold: str) -> bool:
    gold = without_repeats(gold)
    if _is_words(gold) or _LETTER.fullmatch(gold) or quantity(gold) or time_of_day(gold) or in_base(gold):
        return True
    if _CONGRUENT.fullmatch(gold) or expressions.parsed(measured(gold).value) is not None:
        return True
    parts = structure.elements(gold)
    if len(parts) < 2:
        parts = structure.approximated(gold)
    if len(parts) < 2:
        parts = structure.sides(gold)
        parts = parts[1:] if len(parts) > 1 and structure.is_name(parts[0]) else parts
        if len(parts) < 2 and parts[0] == gold:
            parts = (structure.bracketed(gold) or ("", [gold]))[1]
    if parts == [gold]:
        return bool(_RELATION.search(gold)) and expressions.region(gold) is not None
    return all(part == r"\ldots" or _readable(part) for part in parts) and any(part != r"\ldots" for part in parts)


def _equal(answer: str, gold: str) -> bool:
    if answer == gold:
        return True
    if _SIMPLE.fullmatch(answer) and _SIMPLE.fullmatch(gold):  # nearly all answers
        return close(Fraction(answer), answer, Fraction(gold), gold)
    if (verdict := _symbolic(answer, gold)) is not None:
        return verdict
    if _is_words(gold) and (len(gold) != 3 or answer.isalpha()):  # "xyz" may be a product
        signs = [_flat(text).lstrip()[:1] in _SIGNS for text in (answer, gold)]
        if _words(answer) == _words(gold) and signs[0] == signs[1]:
            return True
        if len(structure.elements(gold)) < 2:
            return False
    special = _congruent(answer, gold), _timed(answer, gold), _based(answer, gold)
    if (verdict := next((v for v in special if v is not None), None)) is not None:
        return verdict
    expected = quantity(gold)
    given = quantity(answer, letters=expected is not None)
    if given and given.unit and not expected:  # `9.8 m/s^2` is a product of letters, except next to a unit
        expected = quantity(gold, letters=True)
    if given and expected:
        return same_quantity(given, answer, expected, gold)
    if expected and re.fullmatch(r"-?\d+,\d+", answer) and expected.value.denominator > 1:  # a decimal comma
        if (value := number(answer.replace(",", "."))) is not None:
            return same_quantity(Quantity(value), answer, expected, gold)
    if membership := re.match(r"[a-zA-Z]\w*\s*\\in\s*(?=\\\{|\{)", answer):
        answer = answer[membership.end() :]
    if (verdict := _listed(answer, gold)) is not None:
        return verdict
    sides = structure.approximated(gold)
    if len(sides) > 1:
        return any(_equal(answer, side) for side in sides if not structure.is_name(side))
    sides = structure.approximated(answer)
    if len(sides) > 1:
        return _equal(_committed_side(sides, gold), gold)
    if (verdict := _equation(answer, gold)) is not None:
        return verdict
    if _REGION.search(answer) or _REGION.search(gold):
        return expressions.same_region(answer, gold)
    return expressions.same_expression(answer, gold)


def _listed(answer: str, gold: str) -> bool | None:
    """The comparison of lists, sets and tuples; None if neither is one."""
    if _REGION.search(answer) or _REGION.search(gold):
        return None
    given, expected = structure.elements(answer), structure.elements(gold)
    if len(given) != len(expected):
        given, expected = structure.elements(answer, thousands=False), structure.elements(gold, thousands=False)
    if len(given) == 1 < len(expected):  # (x, y) = (1, 2) compared with x = 1, y = 2
        given = structure.assigned(answer) or given
    elif len(expected) == 1 < len(given):
        expected = structure.assigned(gold) or expected
    if len(given) == len(expected) > 1:
        return _same_elements(given, expected)
    one, other = (
        structure.bracketed(text) if len(found) == 1 else None for text, found in ((answer, given), (gold, expected))
    )
    if bool(one) != bool(other):  # a point or a vector compared with a matrix of one row or one column
        one, other = one or structure.vector(answer), other or structure.vector(gold)
    if one and other:
        return one[0] == other[0] and len(one[1]) == len(other[1]) and all(map(_equal, one[1], other[1]))
    if one and len(expected) > 1 and one[0] in ("()", "[]"):
        return len(one[1]) == len(expected) and all(map(_equal, one[1], expected))
    if other and len(given) > 1 and other[0] == "()":
        return len(given) == len(other[1]) and all(map(_equal, _in_order(given), other[1]))
    if len(given) > 1 or len(expected) > 1:
        return False
    if given != [answer] or expected != [gold]:
        return _equal(given[0], expected[0])
    return None


def _same_elements(given: list[str], expected: list[str]) -> bool:
    """Whether two lists have the same elements, in any order, each once."""
    if all(len(structure.sides(text)) > 1 for text in expected) != all(
        len(structure.sides(text)) > 1 for text in given
    ):
        given, expected = _values(given), _values(expected)
    left = list(expected)
    for one in given:
        match = next((i for i, other in enumerate(left) if one == other), None)
        if match is None:
            match = next((i for i, other in enumerate(left) if _equal(one, other)), None)
        if match is None:
            return False
        del left[match]
    return not left


def _values(texts: list[str]) -> list[str]:
    """Elements without their names, so that `x=1` equals `1`."""
    found = [structure.sides(text) for text in texts]
    return [
        parts[-1] if len(parts) == 2 and structure.is_name(parts[0]) else text for parts, text in zip(found, texts)
    ]


def _in_order(texts: list[str]) -> list[str]:
    """The values of `y=2, x=1` in the order of their names, as in a point."""
    found = [structure.sides(text) for text in texts]
    if all(len(parts) == 2 and re.fullmatch("[a-z]", parts[0]) for parts in found):
        found = sorted(found)
    return _values([" = ".join(parts) for parts in found])


def _committed_side(sides: list[str], gold: str) -> str:
    """The exact one of a value and its approximation; for a decimal gold, the side with as many decimals."""
    if structure.is_name(sides[0]):
        sides = sides[1:]
    places = re.fullmatch(r"-?\d*\.(\d+)", gold)
    if places:
        for side in sides:
            if re.search(rf"(?<![\d.])\d*\.\d{{{len(places[1])}}}$", side):
                return side
    return sides[0]


def _equation(answer: str, gold: str) -> bool | None:
    """The comparison if one of the two is an equation; None if neither is."""
    given, expected = structure.sides(answer), structure.sides(gold)
    if len(given) == len(expected) == 1:
        return None
    name, values = _named(given)
    gold_name, gold_values = _named(expected)
    if len(expected) == 1:
        if name and len(values) > 1:  # x = formula = 5 + 6 = 11: a side with letters is not a value
            values = [v for v in values[:-1] if not _has_letters(v)] + values[-1:]
        return all(_equal(value, gold) for value in reversed(values))
    if len(given) == 1:
        if not gold_name and any(map(_has_letters, expected)):
            return False
        return _equal(answer, gold_values[-1])
    if name and gold_name:
        if (
            structure.label(name) == structure.label(gold_name)
            or structure.in_words(name)
            or structure.in_words(gold_name)
        ):
            return _equal(" = ".join(values), gold_values[-1])
    if _RELATION.search(answer + gold):
        return expressions.same_region(answer, gold)
    return expressions.same_expression(answer, gold)


def _named(parts: list[str]) -> tuple[str | None, list[str]]:
    """The name to which an equation assigns a value, and the values; no name if it is an equation to solve."""
    if structure.is_name(parts[0]):
        return parts[0], parts[1:]
    if len(parts) > 1 and structure.is_name(parts[-1]) and not any(map(_has_letters, parts[:-1])):
        return parts[-1], parts[:-1]
    return None, parts


def _has_letters(text: str) -> bool:
    text = re.sub(r"\\(?:pi|infty|text\s*\{[^{}]*\})", "", text)
    return bool(re.search(r"(?<![a-zA-Z\\])(?![ei](?![a-zA-Z]))[a-zA-Z]", text))


def _congruent(answer: str, gold: str) -> bool | None:
    if "mod" not in answer and "mod" not in gold:
        return None
    given, expected = _CONGRUENT.fullmatch(answer), _CONGRUENT.fullmatch(gold)
    if given and expected:
        by = int(expected["by"])
        return by == int(given["by"]) != 0 and (int(given["rest"]) - int(expected["rest"])) % by == 0
    if one := given or expected:
        rest, by = int(one["rest"]), int(one["by"])
        return by != 0 and _equal(str(rest % by) if given else answer, str(rest % by) if expected else gold)
    return None


def _timed(answer: str, gold: str) -> bool | None:
    given, expected = time_of_day(answer), time_of_day(gold)
    if given and expected:
        return same_time(given, expected)
    answer, gold = map(_without_subjects, (answer, gold))
    ratios = [
        re.sub(r"\s*\\?:\s*|\s+(?:\\text\s*\{\s*)?to(?:\s*\})?\s+", ":", text).split(":") for text in (answer, gold)
    ]
    if len(ratios[0]) == len(ratios[1]) > 1 and not any("=" in text for text in (answer, gold)):
        a, b = ([value for part in ratio if (value := number(part.strip(" {}")))] for ratio in ratios)
        if len(a) == len(b) == len(ratios[0]):  # else a part is not a number, or zero
            return all(x * b[0] == y * a[0] for x, y in zip(a, b))
    return None


def _without_subjects(text: str) -> str:
    r"""A ratio without the things in it: `3:2 \text{ (boys to girls)}`."""
    named = _RATIO_OF.fullmatch(text) if ":" in text else None
    return named[1] if named and unit(re.sub(r"\b(?:to|ratio)\b", " ", named[2])) == "" else text


def _symbolic(answer: str, gold: str) -> bool | None:
    """The comparison if one of the two is the empty set or a segment; None if neither is."""
    if _NOTHING.fullmatch(answer) and _NOTHING.fullmatch(gold):
        return True if _SYMBOL.fullmatch(answer) or _SYMBOL.fullmatch(gold) else None
    given, expected = _FIGURE.fullmatch(answer), _FIGURE.fullmatch(gold)
    if given and expected and not (given[0] == given["bare"] and expected[0] == expected["bare"]):
        return (given["line"] or given["bare"]) == (expected["line"] or expected["bare"])
    return None


def _based(answer: str, gold: str) -> bool | None:
    given, expected = in_base(answer), in_base(gold)
    if given and expected:
        return given == expected
    if one := given or expected:
        digits = one[0]
        other = gold if given else answer
        if re.fullmatch(r"[0-9A-Fa-f.]+", other):
            return other.upper() == digits
        if names_base(other):  # a base in which its digits are invalid
            return False
    return None


def _is_words(text: str) -> bool:
    r"""Whether a gold answer is a word or words, which math-verify would take for a product of letters."""
    plain = _flat(text)
    if not _TEXT.fullmatch(plain) or quantity(text) or PLAIN_FUNCTION.search(plain):
        return False
    letters = re.findall(r"[^\W\d_]+", plain)
    return any(len(word) > 2 for word in letters) or (len(letters) == 1 and plain.lower() in _SHORT_WORDS)


def _flat(text: str) -> str:
    return " ".join(re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text).split()).strip(" .")


def _words(text: str) -> list[str]:
    words = re.findall(r"[\w']+", _flat(text).casefold())
    return [re.sub(r"^(\d+)(?:st|nd|rd|th)$", r"\1", word) for word in words if word not in ("a", "an", "the")]
