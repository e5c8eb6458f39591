r"""Whether an answer to a maths problem is right: what a worker of the pool does for `accuracy_reward`.

An answer and a gold are compared by structure (lists, tuples, equations) down to their parts. Of those, plain numbers
are compared exactly, words as words, and all else by math-verify's parser and comparison, which get a text that
`r1lab.grading.latex` has repaired. What would not fit in memory is refused before it is worked out. May hang or crash
all the same: to be called through `r1lab.grading.pool`.
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
    in_base,
    names_base,
    number,
    quantity,
    same_time,
    time_of_day,
    without_repeats,
)
from r1lab.grading.units import agree, measured, unit

_SIGNS = ("-", "−", "+", "¬", "~")  # before words, of which they say something else
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
# A segment or a polygon by its corners: `\overline{AB}`, `\text{segment } AB`. Products of letters look alike.
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
    """1 or 0 for the last answer that an assistant turn commits to, None where the gold cannot be read; the reason.

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
        return None, "gold_unparsed"
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
    try:
        return bool(gold) and len(gold) <= LONGEST and _readable(gold)
    except SENSELESS:
        return False


def same(answer: str, gold: str) -> str:
    """`correct`, `wrong` or `unparsed` for an answer beside a gold, both as `normal` gives them."""
    if len(answer) > LONGEST and not answer.lstrip("-").isdigit():
        return "unparsed"
    if (letter := _LETTER.fullmatch(gold)) and (len(answer) > 1 or gold != letter[1]):
        said = re.match(r"\(?([A-Za-z])\)?(?:[.:)\s]|$)", answer)
        said = _OPTION.match(answer) or said
        right = (
            said
            and letter[1] in [(part or "").upper() for part in said.groups()]
            and not _ANOTHER.search(answer, said.end())
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
        return _close(Fraction(answer), answer, Fraction(gold), gold)
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
    wanted = quantity(gold)
    said = quantity(answer, letters=wanted is not None)
    if said and said.unit and not wanted:  # `9.8 m/s^2` is a product of letters, but not beside a unit
        wanted = quantity(gold, letters=True)
    if said and wanted:
        return _same_quantity(said, answer, wanted, gold)
    if wanted and re.fullmatch(r"-?\d+,\d+", answer) and wanted.value.denominator > 1:  # a decimal comma
        if (value := number(answer.replace(",", "."))) is not None:
            return _same_quantity(Quantity(value), answer, wanted, gold)
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
    """Of lists, sets and tuples; None where neither is one."""
    if _REGION.search(answer) or _REGION.search(gold):
        return None
    said, wanted = structure.elements(answer), structure.elements(gold)
    if len(said) != len(wanted):
        said, wanted = structure.elements(answer, thousands=False), structure.elements(gold, thousands=False)
    if len(said) == 1 < len(wanted):  # (x, y) = (1, 2) beside x = 1, y = 2
        said = structure.assigned(answer) or said
    elif len(wanted) == 1 < len(said):
        wanted = structure.assigned(gold) or wanted
    if len(said) == len(wanted) > 1:
        return _same_elements(said, wanted)
    one, other = (
        structure.bracketed(text) if len(found) == 1 else None for text, found in ((answer, said), (gold, wanted))
    )
    if bool(one) != bool(other):  # a point or a vector beside a matrix of one row or one column
        one, other = one or structure.vector(answer), other or structure.vector(gold)
    if one and other:
        return one[0] == other[0] and len(one[1]) == len(other[1]) and all(map(_equal, one[1], other[1]))
    if one and len(wanted) > 1 and one[0] in ("()", "[]"):
        return len(one[1]) == len(wanted) and all(map(_equal, one[1], wanted))
    if other and len(said) > 1 and other[0] == "()":
        return len(said) == len(other[1]) and all(map(_equal, _in_order(said), other[1]))
    if len(said) > 1 or len(wanted) > 1:
        return False
    if said != [answer] or wanted != [gold]:
        return _equal(said[0], wanted[0])
    return None


def _same_elements(said: list[str], wanted: list[str]) -> bool:
    """In any order, each once."""
    if all(len(structure.sides(text)) > 1 for text in wanted) != all(len(structure.sides(text)) > 1 for text in said):
        said, wanted = _values(said), _values(wanted)
    left = list(wanted)
    for one in said:
        match = next((i for i, other in enumerate(left) if one == other), None)
        if match is None:
            match = next((i for i, other in enumerate(left) if _equal(one, other)), None)
        if match is None:
            return False
        del left[match]
    return not left


def _values(texts: list[str]) -> list[str]:
    """Elements without their names: `x=1` beside `1`."""
    found = [structure.sides(text) for text in texts]
    return [
        parts[-1] if len(parts) == 2 and structure.is_name(parts[0]) else text for parts, text in zip(found, texts)
    ]


def _in_order(texts: list[str]) -> list[str]:
    """The values of `y=2, x=1` in the order of their names, as a point gives them."""
    found = [structure.sides(text) for text in texts]
    if all(len(parts) == 2 and re.fullmatch("[a-z]", parts[0]) for parts in found):
        found = sorted(found)
    return _values([" = ".join(parts) for parts in found])


def _committed_side(sides: list[str], gold: str) -> str:
    """Of a value and its approximation the exact one; of a decimal gold, the side with as many decimals."""
    if structure.is_name(sides[0]):
        sides = sides[1:]
    places = re.fullmatch(r"-?\d*\.(\d+)", gold)
    if places:
        for side in sides:
            if re.search(rf"(?<![\d.])\d*\.\d{{{len(places[1])}}}$", side):
                return side
    return sides[0]


def _equation(answer: str, gold: str) -> bool | None:
    """Where one of the two is an equation; None where neither is."""
    said, wanted = structure.sides(answer), structure.sides(gold)
    if len(said) == len(wanted) == 1:
        return None
    name, values = _named(said)
    gold_name, gold_values = _named(wanted)
    if len(wanted) == 1:
        if name and len(values) > 1:  # x = formula = 5 + 6 = 11: what has letters is no value
            values = [v for v in values[:-1] if not _has_letters(v)] + values[-1:]
        return all(_equal(value, gold) for value in reversed(values))
    if len(said) == 1:
        if not gold_name and any(map(_has_letters, wanted)):
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
    """The name that an equation gives a value to, and the values; no name where it is an equation to be solved."""
    if structure.is_name(parts[0]):
        return parts[0], parts[1:]
    if len(parts) > 1 and structure.is_name(parts[-1]) and not any(map(_has_letters, parts[:-1])):
        return parts[-1], parts[:-1]
    return None, parts


def _has_letters(text: str) -> bool:
    text = re.sub(r"\\(?:pi|infty|text\s*\{[^{}]*\})", "", text)
    return bool(re.search(r"(?<![a-zA-Z\\])(?![ei](?![a-zA-Z]))[a-zA-Z]", text))


def _same_quantity(said: Quantity, answer: str, wanted: Quantity, gold: str) -> bool:
    if not agree(said.unit, wanted.unit):
        return False
    a, b = said.value, wanted.value
    if said.percent == wanted.percent:
        return _close(a, answer, b, gold)
    percent, bare = (a, b) if said.percent else (b, a)
    return percent == 100 * bare or (percent == bare and abs(bare) >= 1)


def _close(a: Fraction, a_text: str, b: Fraction, b_text: str) -> bool:
    """Equal, or one is the other rounded or cut to six decimals or more, of which four digits say something.

    What a program prints of a float is right to its fifteen digits, while the last one may be off.
    """
    if a == b:
        return True
    for rounded, text, exact in ((a, a_text, b), (b, b_text, a)):
        decimals = re.search(r"\.(\d{6,})", text)
        figures = len(text.replace(".", "").lstrip("-+0"))
        if decimals and figures >= 15 and abs(exact - rounded) <= abs(exact) * Fraction(1, 10**15):
            return True
        if decimals and figures >= 4:
            off = (exact - rounded) * 10 ** len(decimals[1])
            if abs(off) <= Fraction(1, 2) or (abs(off) < 1 and (off > 0) == (exact > 0)):
                return True
    return False


def _congruent(answer: str, gold: str) -> bool | None:
    if "mod" not in answer and "mod" not in gold:
        return None
    said, wanted = _CONGRUENT.fullmatch(answer), _CONGRUENT.fullmatch(gold)
    if said and wanted:
        by = int(wanted["by"])
        return by == int(said["by"]) != 0 and (int(said["rest"]) - int(wanted["rest"])) % by == 0
    if one := said or wanted:
        rest, by = int(one["rest"]), int(one["by"])
        return by != 0 and _equal(str(rest % by) if said else answer, str(rest % by) if wanted else gold)
    return None


def _timed(answer: str, gold: str) -> bool | None:
    said, wanted = time_of_day(answer), time_of_day(gold)
    if said and wanted:
        return same_time(said, wanted)
    answer, gold = map(_without_subjects, (answer, gold))
    ratios = [
        re.sub(r"\s*\\?:\s*|\s+(?:\\text\s*\{\s*)?to(?:\s*\})?\s+", ":", text).split(":") for text in (answer, gold)
    ]
    if len(ratios[0]) == len(ratios[1]) > 1 and not any("=" in text for text in (answer, gold)):
        a, b = ([value for part in ratio if (value := number(part.strip(" {}")))] for ratio in ratios)
        if len(a) == len(b) == len(ratios[0]):  # else a part is none, or zero
            return all(x * b[0] == y * a[0] for x, y in zip(a, b))
    return None


def _without_subjects(text: str) -> str:
    r"""A ratio without what it is the ratio of: `3:2 \text{ (boys to girls)}`."""
    named = _RATIO_OF.fullmatch(text) if ":" in text else None
    return named[1] if named and unit(re.sub(r"\b(?:to|ratio)\b", " ", named[2])) == "" else text


def _symbolic(answer: str, gold: str) -> bool | None:
    """Where one of the two is the empty set or a segment; None where neither is."""
    if _NOTHING.fullmatch(answer) and _NOTHING.fullmatch(gold):
        return True if _SYMBOL.fullmatch(answer) or _SYMBOL.fullmatch(gold) else None
    said, wanted = _FIGURE.fullmatch(answer), _FIGURE.fullmatch(gold)
    if said and wanted and not (said[0] == said["bare"] and wanted[0] == wanted["bare"]):
        return (said["line"] or said["bare"]) == (wanted["line"] or wanted["bare"])
    return None


def _based(answer: str, gold: str) -> bool | None:
    said, wanted = in_base(answer), in_base(gold)
    if said and wanted:
        return said == wanted
    if one := said or wanted:
        digits = one[0]
        other = gold if said else answer
        if re.fullmatch(r"[0-9A-Fa-f.]+", other):
            return other.upper() == digits
        if names_base(other):  # one that its digits cannot have
            return False
    return None


def _is_words(text: str) -> bool:
    r"""Whether a gold is a word or words, which math-verify would take for a product of letters."""
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
