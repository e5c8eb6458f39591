"""The constraints on an answer that a rule can check: the kinds that `instruction_reward` knows.

They are the instructions of IFEval (arXiv:2311.07911, table 1), made exact and harder to satisfy by accident;
`r1lab.rewards.ifeval_checks` has IFEval's own checks. All except `json_only` read texts as `plain` returns them;
`r1lab.rewards.prose` defines words, sentences and paragraphs. A kind that counts takes one or more of the bounds
`at_least`, `at_most` and `exactly`; its other parameters are those of its function.
"""

import inspect
import json
import operator
import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from r1lab.grading.scripts import SCRIPTS
from r1lab.rewards.prose import RUN, WORD, paragraphs, plain, sentences, words
from r1lab.text import did_you_mean

BOUNDS = {"at_least": ">=", "at_most": "<=", "exactly": "=="}

_EMPHASIS = re.compile(r"[*`]+|(?<![^\W_])_+|_+(?![^\W_])")
_STRAIGHT = str.maketrans("‘’“”", "''\"\"")
_AROUND = " \"'“”‘’«»"
_BULLET = re.compile(r"\s*[-*+•]\s+(\S.*)")
_PLACEHOLDER = re.compile(r"\[([^\[\]\n]+)\](?!\()")  # not a Markdown link
_HIGHLIGHT = re.compile(r"\*{1,2}([^\s*][^*\n]*)\*{1,2}")
_TITLE = re.compile(r"<<([^<>\n]+)>>")
_COMMAS = re.compile("[,،、﹑]")
_SEPARATOR = "******"
_IN_SCRIPT = {name: re.compile(f"[{letters}]") for name, letters in SCRIPTS.items() if name not in ("han", "kana")}
_IN_SCRIPT["chinese"] = re.compile(f"[{SCRIPTS['han']}]")
_IN_SCRIPT["japanese"] = re.compile(f"[{SCRIPTS['han']}{SCRIPTS['kana']}]")


def unmet(text: str, constraint: dict, functions: dict[str, Callable] | None = None) -> str | None:
    """The reason why a text does not meet a constraint, or None if it does.

    A parameter that is None counts as not given, because a dataset's columns fill missing parameters with None.

    Args:
        text: The answer.
        constraint: Its `kind` and the parameters of that kind.
        functions: Other functions for some kinds, with the same parameters as those here.

    Raises:
        ValueError: The kind is unknown, or a parameter is unknown, missing or of the wrong type.

    >>> unmet("Two words.", {"kind": "num_words", "at_least": 100})
    'num_words (2, not >= 100)'
    >>> unmet("Two words.", {"kind": "starts_with", "prefix": "two"})
    """
    given = {name: value for name, value in constraint.items() if value is not None}
    kind = given.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        hint = did_you_mean(kind or "", KINDS, otherwise=_among(KINDS))
        raise ValueError(f"constraints: {kind}: unknown kind{hint}")
    parameters = _parameters(kind)
    for name, value in given.items():
        if name not in parameters:
            hint = did_you_mean(name, parameters, otherwise=_among(parameters))
            raise ValueError(f"constraints: {kind}: {name}: unknown parameter{hint}")
        try:
            parameters[name][0].validate_python(value, strict=True)
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise ValueError(f"constraints: {kind}: {name}: {value!r}: {message}") from error
    for name, (_, needed) in parameters.items():
        if needed and name not in given:
            raise ValueError(f"constraints: {kind}: needs the parameter {name}")
    function = (functions or {}).get(kind, KINDS[kind])
    if kind in CHECKS:
        detail = function(text, **given)
        return None if detail is None else f"{kind} ({detail})"
    bounds = {name: given.pop(name) for name in BOUNDS if name in given}
    if not bounds:
        raise ValueError(f"constraints: {kind}: needs one of {', '.join(BOUNDS)}")
    count = function(text, **given)
    met = {"at_least": operator.ge, "at_most": operator.le, "exactly": operator.eq}
    for name, bound in bounds.items():
        counted = num_all_sentences(text) if name == "at_most" and function is num_sentences else count
        if not met[name](counted, bound):
            return f"{kind} ({counted}, not {BOUNDS[name]} {bound})"
    return None


def _among(names) -> str:
    return f"; there are: {', '.join(names)}"


@lru_cache(maxsize=64)
def _parameters(kind: str) -> dict[str, tuple[TypeAdapter, bool]]:
    """The parameters of a kind: the validator of each one, and whether it is required."""
    _, *own = inspect.signature(KINDS[kind]).parameters.values()
    parameters = {p.name: (TypeAdapter(p.annotation), p.default is p.empty) for p in own}
    return parameters | ({name: (TypeAdapter(int), False) for name in BOUNDS} if kind in COUNTS else {})


def _folded(text: str) -> str:
    """A text in lower case, with single spaces and straight quotation marks."""
    return " ".join(plain(text).translate(_STRAIGHT).casefold().split())


def _unmarked(text: str) -> str:
    """A text in lower case, without emphasis, and without quotation marks around it."""
    return _folded(_EMPHASIS.sub("", plain(text))).strip(_AROUND)


def num_words(text: str) -> int:
    """The number of words."""
    return len(words(text))


def num_sentences(text: str) -> int:
    """The number of sentences of two words or more; a single word (`Yes.`) counts only against `at_most`."""
    return sum(len(words(sentence)) >= 2 for sentence in sentences(text))


def num_all_sentences(text: str) -> int:
    """The number of sentences, including those of one word; `Well...` begins a sentence and is not one.

    >>> num_sentences("Yes. No. Tea is warm."), num_all_sentences("Yes. No. Tea is warm.")
    (1, 3)
    """
    return sum(
        len(words(sentence)) >= 2 or not sentence.rstrip(" \"'”’)").endswith("..") for sentence in sentences(text)
    )


def num_paragraphs(text: str, divider: Literal["***", "blank"] | None = None) -> int:
    """The number of paragraphs: by the divider, else by lines of `***` if there are any, else by blank lines."""
    return len(paragraphs(text, divider))


def num_bullets(text: str) -> int:
    """The number of lines that start with `-`, `*`, `+` or `•` and white space, followed by a word."""
    found = (_BULLET.match(line) for line in plain(text).splitlines())
    return sum(1 for bullet in found if bullet and WORD.search(bullet[1]))


def num_placeholders(text: str) -> int:
    """The number of different placeholders such as `[address]`, each with a word in it; links do not count."""
    return len({_folded(inner) for inner in _PLACEHOLDER.findall(plain(text)) if WORD.search(inner)})


def num_highlights(text: str) -> int:
    """The number of different parts of a line in `*stars*` or `**two stars**`, each with a word in it."""
    return len({_folded(inner) for inner in _HIGHLIGHT.findall(plain(text)) if WORD.search(inner)})


def num_sections(text: str, name: str = "Section") -> int:
    """The number of sections: lines that start with the name and the next number, each followed by new text.

    >>> num_sections("Section 1\\nOnce.\\nSection 2\\nTwice.\\nSection 3")
    2
    """
    name, count, heading = _folded(name), 0, False
    for line in plain(text).casefold().splitlines():
        bare = " ".join(line.strip("#*_[]>+•- \t").split())
        opened = f"{name} {count + 1}"
        if bare.startswith(opened) and not bare[len(opened) : len(opened) + 1].isalnum():
            heading, bare = True, bare[len(opened) :]
        if heading and WORD.search(bare):
            count, heading = count + 1, False
    return count


def num_capital_words(text: str) -> int:
    """The number of words of two letters or more without a lower-case letter."""
    return sum(len(word) > 1 and word.isupper() for word in words(text))


def keyword_count(text: str, keyword: str) -> int:
    """How often a word or phrase occurs in a text as whole words, ignoring case.

    >>> keyword_count("Cat, cats, CAT. A cat's life", "cat")
    3
    """
    text, keyword = _folded(text), _folded(keyword)
    if not keyword:
        raise ValueError("constraints: a keyword is empty")
    count, place = 0, text.find(keyword)
    while place >= 0:
        end = place + len(keyword)
        if not (_joined(text[place - 1 : place], keyword[0]) or _joined(keyword[-1], text[end : end + 1])):
            count += 1
        place = text.find(keyword, end)
    return count


def _joined(left: str, right: str) -> bool:
    """Whether two characters belong to one word. Chinese and Japanese characters never do."""
    return bool(RUN.match(left) and RUN.match(right))


def letter_count(text: str, letter: str) -> int:
    """How often a letter occurs in a text, ignoring case."""
    if len(letter) != 1:
        raise ValueError(f"constraints: letter_count: letter: {letter!r} is not one character")
    return plain(text).casefold().count(letter.casefold())


def keywords(text: str, words: list[str]) -> str | None:
    """Each of these words or phrases occurs."""
    missing = [word for word in words if not keyword_count(text, word)]
    return f"without {', '.join(missing)}" if missing else None


def forbidden_words(text: str, words: list[str]) -> str | None:
    """None of these words or phrases occurs."""
    present = [word for word in words if keyword_count(text, word)]
    return f"with {', '.join(present)}" if present else None


def lower_case(text: str) -> str | None:
    """No capital letter."""
    return None if plain(text).islower() else "not all lower case"


def upper_case(text: str) -> str | None:
    """No lower-case letter."""
    return None if plain(text).isupper() else "not all upper case"


def title(text: str) -> str | None:
    """A title in double angular brackets, `<<Title>>`."""
    return None if any(WORD.search(inner) for inner in _TITLE.findall(plain(text))) else "no <<title>>"


def json_only(text: str) -> str | None:
    """The whole answer, apart from a code fence, is a non-empty JSON object or array without repeated keys."""
    text = text.strip()
    fence = len(text) - len(text.lstrip(text[:1]))
    if fence >= 3 and text[0] in "`~" and len(text) >= 2 * fence and text.endswith(text[:fence]):
        text = text[fence:-fence].strip()
        text = text[4:] if text[:4].lower() == "json" else text
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return "not JSON"
    return None if isinstance(value, dict | list) and value else "not an object or array with content"


def _without_repeats(pairs: list[tuple]) -> dict:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _no_constant(name: str):
    raise ValueError(f"{name} is not JSON")


def starts_with(text: str, prefix: str) -> str | None:
    """The answer starts with these words, ignoring case and emphasis."""
    return None if _unmarked(text).startswith(_unmarked(prefix)) else "another start"


def ends_with(text: str, suffix: str) -> str | None:
    """The answer ends with these words, ignoring case and emphasis; only quotation marks may follow."""
    return None if _unmarked(text).endswith(_unmarked(suffix)) else "another end"


def quoted(text: str) -> str | None:
    """The whole answer is in double quotation marks."""
    text = plain(text)
    wrapped = text[:1] in tuple('"“„') and text[-1:] in tuple('"”“') and WORD.search(text[1:-1])
    return None if wrapped else "not in quotation marks"


def no_commas(text: str) -> str | None:
    """The answer has no comma, including full-width, ideographic and Arabic ones."""
    count = len(_COMMAS.findall(plain(text)))
    return f"{count} commas" if count else None


def script(text: str, name: str, share: float = 0.9) -> str | None:
    """At least this share of the letters, and at least one, is of one script."""
    if name not in _IN_SCRIPT:
        hint = did_you_mean(name, _IN_SCRIPT, otherwise=_among(_IN_SCRIPT))
        raise ValueError(f"constraints: script: {name}: unknown{hint}")
    letters = Counter(c for c in plain(text) if c.isalpha())
    of_script = sum(count for letter, count in letters.items() if _IN_SCRIPT[name].match(letter))
    found = of_script / max(1, letters.total())
    return None if letters and found >= share else f"{found:.0%} {name}"


def two_responses(text: str) -> str | None:
    """Two different responses separated by a line of six asterisks; such lines may also surround them."""
    lines = ("\0" if line.strip() == _SEPARATOR else line for line in plain(text).casefold().splitlines())
    parts = [WORD.findall(part) for part in "\n".join(lines).split("\0")]  # plain text has no null character
    if len(parts) > 2 and not parts[0]:
        del parts[0]
    if len(parts) > 2 and not parts[-1]:
        del parts[-1]
    return None if len(parts) == 2 and all(parts) and parts[0] != parts[1] else f"{len(parts)} parts"


def postscript(text: str, marker: str = "P.S.") -> str | None:
    """A line of the last paragraph starts with the marker and has text; a P.P.S. may follow a P.S."""
    start, last = _packed(marker), ""
    for last in reversed(paragraphs(text, "blank")):
        if start.startswith("p.p.") or not _packed(last).startswith("p.p."):
            break
    packed = [_packed(line.lstrip("#> ")) for line in last.splitlines()]
    return (
        None if any(line.startswith(start) and WORD.search(line[len(start) :]) for line in packed) else f"no {marker}"
    )


def _packed(text: str) -> str:
    return "".join(_unmarked(text).split())


def repeat_prompt(text: str, prompt: str) -> str | None:
    """The request is repeated word for word, and then something else follows."""
    text, prompt = _unmarked(text), _unmarked(prompt)
    return None if text.startswith(prompt) and WORD.search(text[len(prompt) :]) else "not repeated and answered"


def paragraph_starts(text: str, number: int, word: str) -> str | None:
    """Paragraph `number`, counted from 1, starts with this word."""
    if number < 1:
        raise ValueError(f"constraints: paragraph_starts: number: {number} is below 1")
    found = paragraphs(text)
    if number > len(found):
        return "no such paragraph"
    first = WORD.search(found[number - 1])
    return None if first and first[0].casefold() == _folded(word) else "another word"


def one_of(text: str, options: list[str]) -> str | None:
    """The whole answer is one of these, ignoring case, emphasis and quotation marks; it may end with `!`."""

    def bare(option: str) -> str:
        return _unmarked(option).rstrip(".!" + _AROUND)

    return None if bare(text) in map(bare, options) else "none of the options alone"


COUNTS = {
    function.__name__: function
    for function in (
        num_words, num_sentences, num_paragraphs, num_bullets, num_placeholders, num_highlights, num_sections,
        num_capital_words, keyword_count, letter_count,
    )
}  # fmt: skip
CHECKS = {
    function.__name__: function
    for function in (
        keywords, forbidden_words, lower_case, upper_case, title, json_only, starts_with, ends_with, quoted, no_commas,
        script, two_responses, postscript, repeat_prompt, paragraph_starts, one_of,
    )
}  # fmt: skip
KINDS = COUNTS | CHECKS
