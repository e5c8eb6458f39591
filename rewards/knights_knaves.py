"""Knights and Knaves: who is what, by rule. Logic-RL's own scores, or a rule without its loopholes."""

import re
import unicodedata
from functools import lru_cache
from typing import Literal

from r1lab.errors import UserError
from r1lab.grading.parts import answer_block
from r1lab.rewards.facts import reward
from r1lab.rewards.format import TAGS, blocks, substance
from r1lab.rewards.knights_knaves_claims import claims
from r1lab.rewards.score import Score

_GOLD = re.compile(r"\(\d+\)\s*(\S.*?)\s+is\s+a\s+(knight|knave)", re.IGNORECASE)
_LAST_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)

# Markup that does not change the meaning. Not `~`, which strikes out in Markdown and negates in logic.
_BOXED = re.compile(r"\\(?:text|math)(?:bf|it|rm|tt|sf)?\s*\{([^{}]*)\}")
_HTML = re.compile(r"</?(?:b|i|em|strong|code|p|li|ul|ol)>|<br\s*/?>")
_EMPHASIS = re.compile(r"[*_`$]+")
_LINE_START = re.compile(r"^[ \t]*(?:[-+•>]|#{1,6})[ \t]+", re.MULTILINE)
_JSON = str.maketrans("{}[]", "    ", '"“”')
_QUOTES = re.compile(r"(?<!\w)['‘’]|['’](?!\w)")
_ITEM = re.compile(r"^\(?\d+[.):]\s*")
_BETWEEN = " ,;.&"
_AND = re.compile(r"and\b")
_NUMBER = r"(?:[(\[]\s*#?(?:\d+|[a-z])\s*[)\]][\s:.]*|#?\d+\s*[).:\]-]\s*|[a-z]\s*\)\s*|#?\d+\s+)?"
_IS = r"(?:\s+is\s*:?\s*|\s*(?::|=>?|-{1,2}>?|[–—→⇒])\s*)"


@reward(
    looks_for="answer",
    in_tags=True,
    in_lines=True,
    lenient={"mode": "lenient"},
    as_published=("logic_rl",),
)
def knights_knaves_reward(
    completions, *, answer, mode: Literal["strict", "lenient", "logic_rl"] = "strict", **columns
) -> list[float | None]:
    """Whether a completion says correctly of each person whether they are a knight or a knave.

    Args:
        completions: Responses, with a prefilled `<think>` restored.
        answer: For each row the gold in Logic-RL's form, `(1) Zoey is a knight\\n(2) ...`; None if not applicable.
        mode: `"strict"`: 1 if correct, else 0. The response must be well-formed (as for `format_reward`, strict), with
            at least two words of its own as thinking; its answer must say one thing of each person and nothing else.
            Bold, italics, backticks, colons, numbering, order, case, punctuation and spaces do not matter.
            `"lenient"`: 1 if correct, else 0, in any form, including lists of the knights and tables: the last claim
            about each person counts, in the answer's tags or, without them, anywhere, except after an "if" or before
            an "or". Use it for evaluations: in training it would reward answers without thinking. `"logic_rl"`:
            exactly Logic-RL's scores (arXiv:2502.14768), loopholes included: 3 correct, -0.5 well-formed but wrong, -1
            well-formed but unreadable, -3 for anything else.

    Returns:
        `Score`s. Reasons in strict mode: correct, wrong, missing_person, extra_person, contradiction, repeated,
            unparsed, empty_answer, empty_thinking, no_format; in lenient mode: correct, wrong, missing_person; in
            Logic-RL's: correct, wrong, unparsed, empty_answer, no_format.

    Raises:
        ValueError: A gold answer does not have that form.

    >>> gold = "(1) Zoey is a knight\\n(2) Luke is a knave"
    >>> turn = "<think> Luke lies. </think> <answer> **Zoey**: knight, Luke: knave </answer>"
    >>> knights_knaves_reward([turn], answer=[gold])
    [1.0]
    >>> knights_knaves_reward([turn], answer=[gold], mode="logic_rl")
    [-1.0]
    """
    if mode not in _MODES:
        raise UserError(f"rewards: knights_knaves: mode: {mode!r} is not {', '.join(_MODES)}")
    score = _MODES[mode]
    return [
        None if gold is None else score(text, gold_of(gold)) for text, gold in zip(completions, answer, strict=True)
    ]


def gold_of(answer: str) -> dict[str, str]:
    """Name to knight or knave, from Logic-RL's gold text.

    >>> gold_of("(1) Zoey is a knight\\n(2) Luke is a knave")
    {'Zoey': 'knight', 'Luke': 'knave'}
    """
    lines = [_GOLD.fullmatch(line.strip()) for line in answer.splitlines() if line.strip()]
    gold = {line[1]: line[2].lower() for line in lines if line}
    if not gold or len(gold) != len(lines):
        raise ValueError(f"not a gold answer of lines '(1) Zoey is a knight': {answer!r}")
    return gold


def _strict(text: str, gold: dict[str, str]) -> Score:
    claimed = claimed_in(text, tuple(gold))
    if isinstance(claimed, str):
        return Score(0.0, claimed)
    return Score(1.0, "correct") if claimed == gold else Score(0.0, "wrong")


def claimed_in(text: str, names: tuple[str, ...] | None = None) -> dict[str, str] | str:
    """Name to knight or knave from a well-formed response with some thinking, or why not. See `read_answer`."""
    found = blocks(text)
    if isinstance(found, str):
        return found
    thinking, answer = found
    if len([word for word in substance(thinking) if len(word) > 1 and word.isalpha()]) < 2:
        return "empty_thinking"
    return read_answer(answer, names)


def read_answer(answer: str, names: tuple[str, ...] | None) -> dict[str, str] | str:
    """Name to knight or knave from an answer with exactly one claim per person and nothing else, or why not.

    Args:
        names: All people; None if they are not known, so that any names of one word are read, in lower case.

    >>> read_answer("(1) **Zoey** is a knight , and Luke: Knave.", ("Zoey", "Luke"))
    {'Zoey': 'knight', 'Luke': 'knave'}
    >>> read_answer("Zoey is a knight or a knave", ("Zoey",))
    'unparsed'
    >>> read_answer("Luke is a knave, Zoey is a knight", None)
    {'luke': 'knave', 'zoey': 'knight'}
    """
    text, (claim, called) = _plain(answer), _claim(names or ())
    claims = []
    text = text.strip(_BETWEEN)
    while text:
        found = claim.match(text)
        if not found:
            return "unparsed"
        claims.append((found[1] if names is None else called.get(found[1]), found[2]))
        text = text[found.end() :].lstrip(_BETWEEN)
        if joined := _AND.match(text):
            text = text[joined.end() :].lstrip(_BETWEEN)
            if not text:
                return "unparsed"
    claimed = dict(claims)
    if None in claimed:
        return "extra_person"
    if len(set(claims)) != len(claimed):
        return "contradiction"
    if len(claims) != len(claimed):
        return "repeated"
    return claimed if claimed and (names is None or claimed.keys() == set(names)) else "missing_person"


def _plain(text: str) -> str:
    """A text in lower case on one line, without the markup that does not change the meaning."""
    text = unicodedata.normalize("NFKC", text).lower().replace("\u200b", "")
    text = _LINE_START.sub("", _HTML.sub(" ", _BOXED.sub(r"\1", text)))
    return " ".join(_EMPHASIS.sub("", text).split())


@lru_cache(maxsize=4096)
def _claim(names: tuple[str, ...]) -> tuple[re.Pattern, dict[str, str]]:
    """A pattern for one claim about any of these people, and their names by the plain form."""
    called = {_plain(name): name for name in names}
    known = "|".join(re.escape(name) for name in sorted(called, key=len, reverse=True)) or "(?!)"
    return re.compile(rf"{_NUMBER}({known}|[^\W\d_][\w'’]*){_IS}(?:an?\s+)?(knight|knave)\b"), called


def _lenient(text: str, gold: dict[str, str]) -> Score:
    block = answer_block(text)
    called = {_plain(name): name for name in gold}
    lines = (_QUOTES.sub("", _plain(line).translate(_JSON)) for line in (text if block is None else block).split("\n"))
    lines = (_ITEM.sub("", line.strip(), count=1) for line in lines)
    found = claims("\n".join(line for line in lines if line), tuple(called))
    claimed = {called[name]: kind for name, kind in found.items()}
    if claimed.keys() != gold.keys():
        return Score(0.0, "missing_person")
    return Score(1.0, "correct") if claimed == gold else Score(0.0, "wrong")


def _logic_rl(text: str, gold: dict[str, str]) -> Score:
    places = [text.find(tag) for tag in TAGS]
    if any(text.count(tag) != 1 for tag in TAGS) or places != sorted(places):
        return Score(-3.0, "no_format")
    answer = _LAST_ANSWER.findall(text)[-1].strip()
    if not answer:
        return Score(-1.0, "empty_answer")
    lowered = answer.lower()
    if lowered.count("knight") + lowered.count("knave") != len(gold):
        return Score(-1.0, "unparsed")
    claimed = {}
    for name in gold:
        claim = re.search(rf"\b{re.escape(name)}\b\s+is\s+a\s+\b(knight|knave)\b", answer, re.IGNORECASE)
        if not claim:
            return Score(-1.0, "unparsed")
        claimed[name] = claim[1].lower()
    return Score(3.0, "correct") if claimed == gold else Score(-0.5, "wrong")


_MODES = {"strict": _strict, "lenient": _lenient, "logic_rl": _logic_rl}
