"""Knights and Knaves: who is what, by the rule. Logic-RL's own scores, or a rule without its loopholes."""

import re

from r1lab.rewards.format import TAGS, blocks
from r1lab.rewards.score import Score

_GOLD = re.compile(r"\(\d+\)\s*(\S+) is a (knight|knave)", re.IGNORECASE)
_LAST_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_MARKUP = re.compile(r"[*_`~#>]+|\\text(?:bf|it)?|[{}$]|^\s*[-+•]\s", re.MULTILINE)
_NUMBER = re.compile(r"\(?\b\d+\s*[).:]\s*")
_SEPARATOR = re.compile(r"[,;.\n]|\band\b")
_CLAIM = re.compile(r"(\w+)\s*(?:\bis\b|[:=→]|-+>?|–|—)\s*(?:an?\s+)?(knight|knave)")


def knights_knaves_reward(completions, *, answer, mode: str = "strict", **columns) -> list[float | None]:
    """Whether a completion says of each person, rightly, whether they are a knight or a knave.

    Args:
        completions: Assistant turns.
        answer: For each row the gold as Logic-RL writes it, `(1) Zoey is a knight\\n(2) ...`; None: does not apply.
        mode: `"strict"`: 1 if right, else 0. The turn must be well-formed (`format_reward`, strict), and its answer
            must say one thing of each person and nothing else; bold, colons, numbering, case and punctuation do not
            matter. `"logic_rl"`: exactly Logic-RL's scores (arXiv:2502.14768), loopholes included: 3 right, -0.5
            well-formed but wrong, -1 well-formed but not to be read, -3 for anything else.

    >>> gold = "(1) Zoey is a knight\\n(2) Luke is a knave"
    >>> turn = "<think> Luke lies. </think> <answer> **Zoey**: knight, Luke: knave </answer>"
    >>> knights_knaves_reward([turn], answer=[gold])
    [1.0]
    >>> knights_knaves_reward([turn], answer=[gold], mode="logic_rl")
    [-1.0]
    """
    if mode not in ("strict", "logic_rl"):
        raise ValueError(f"knights_knaves_reward: mode: {mode!r} is not strict or logic_rl")
    score = _strict if mode == "strict" else _logic_rl
    return [None if gold is None else score(text, gold_of(gold)) for text, gold in zip(completions, answer)]


def gold_of(answer: str) -> dict[str, str]:
    """Name to kind, in lower case, from Logic-RL's gold text."""
    gold = {name.lower(): kind.lower() for name, kind in _GOLD.findall(answer)}
    if len(gold) != len(answer.strip().splitlines()):
        raise ValueError(f"not a gold answer of the form '(1) Zoey is a knight' a line: {answer!r}")
    return gold


def _strict(text: str, gold: dict[str, str]) -> Score:
    found = blocks(text)
    if isinstance(found, str):
        return Score(0.0, f"format: {found}")
    said = read_answer(found[1])
    if said is None:
        return Score(0.0, "unparsed")
    if said.keys() != gold.keys():
        return Score(0.0, "not the people of the puzzle")
    return Score(1.0, "correct") if said == gold else Score(0.0, "wrong")


def read_answer(answer: str) -> dict[str, str] | None:
    """Name to kind from an answer that says one thing of each person and nothing else; None if it does not.

    >>> read_answer("(1) **Zoey** is a knight , and Luke: Knave.")
    {'zoey': 'knight', 'luke': 'knave'}
    >>> read_answer("Zoey is a knight or a knave") is None
    True
    """
    text = _NUMBER.sub(" , ", _MARKUP.sub(" ", answer)).lower()
    said: dict[str, str] = {}
    for part in _SEPARATOR.split(text):
        if not part.strip():
            continue
        claim = _CLAIM.fullmatch(part.strip())
        if not claim or claim[1] in said:
            return None
        said[claim[1]] = claim[2]
    return said or None


def _logic_rl(text: str, gold: dict[str, str]) -> Score:
    places = [text.find(tag) for tag in TAGS]
    well_formed = all(text.count(tag) == 1 for tag in TAGS) and places == sorted(places)
    answers = _LAST_ANSWER.findall(text)
    answer = answers[-1].strip() if answers else ""
    if not well_formed:
        return Score(-3.0, "no_format")
    if not answer:
        return Score(-1.0, "no_answer")
    lowered = answer.lower()
    if lowered.count("knight") + lowered.count("knave") != len(gold):
        return Score(-1.0, "unparsed")
    said = {}
    for name in gold:
        claim = re.search(rf"\b{re.escape(name)}\b\s+is\s+a\s+\b(knight|knave)\b", answer, re.IGNORECASE)
        if not claim:
            return Score(-1.0, "unparsed")
        said[name] = claim[1].lower()
    return Score(3.0, "correct") if said == gold else Score(-0.5, "wrong")
