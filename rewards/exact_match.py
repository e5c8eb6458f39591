"""Whether the answer equals the gold answer, character by character."""

import re
import unicodedata

from r1lab.errors import UserError
from r1lab.grading.boxes import boxes, last_answer
from r1lab.grading.markup import plain
from r1lab.grading.parts import answer_block, final_text
from r1lab.rewards.facts import reward
from r1lab.rewards.score import Score

# Invisible characters: joiners, directions, soft hyphens.
_UNSEEN = dict.fromkeys([0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2065), 0xFEFF])
# NFKC would turn 5² into 52.
_SUPERSCRIPT = re.compile("[⁰¹²³⁴-⁹⁺⁻]+")
# Characters after which an exclamation mark is a factorial, as in 5! and n!.
_WORD_END = re.compile(r"[^\W\d_]{2}[\"'”’»]?$")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“"}


@reward(looks_for="answer")
def exact_match_reward(
    completions, *, answer, ignore_case: bool = True, ignore_punctuation: bool = True, **columns
) -> list[float | None]:
    """1 if the answer of a response equals the gold answer, or one of several, else 0.

    The answer is the content of the last `<answer>` block, or of the last box, or else all text after the thinking.
    White space, Unicode's compatibility forms (NFKC), and bold, dollars or `\\text{}` around it make no difference.

    Args:
        completions: Responses, with a prefilled `<think>` restored.
        answer: For each row the gold answer or a list of accepted ones; None if the reward does not apply.
        ignore_case: Whether to ignore case.
        ignore_punctuation: Whether to ignore punctuation at the end, and quotation marks around the answer.

    Returns:
        `Score`s with the reason correct, wrong or no_answer.

    >>> turns = ["<think> ... </think> <answer> paris. </answer>", "It is Paris."]
    >>> exact_match_reward(turns, answer=["Paris", ["Paris", "City of Paris"]])
    [1.0, 0.0]
    """
    settings = {"ignore_case": ignore_case, "ignore_punctuation": ignore_punctuation}
    for name, setting in settings.items():
        if not isinstance(setting, bool):
            raise UserError(f"rewards: exact_match: {name}: {setting!r} is not true or false")
    return [
        None if gold is None else _score(turn, gold if isinstance(gold, list | tuple) else [gold], settings)
        for turn, gold in zip(completions, answer, strict=True)
    ]


def _score(turn: str, accepted: list | tuple, settings: dict[str, bool]) -> Score:
    given = _normal(given_answer(turn), **settings)
    if not given:
        return Score(0.0, "no_answer")
    right = any(given == _normal(str(gold), **settings) for gold in accepted)
    return Score(1.0, "correct") if right else Score(0.0, "wrong")


def given_answer(turn: str) -> str:
    """The content of the last `<answer>` block, or of the last box, or all text after the thinking, as written."""
    text = final_text(turn) or ""
    block = answer_block(text)
    text = text if block is None else block
    box = last_answer(text, boxes(text)[0])
    return box.content if box else text


def _normal(text: str, *, ignore_case: bool, ignore_punctuation: bool) -> str:
    text = _SUPERSCRIPT.sub(r"^\g<0>", text.translate(_UNSEEN))
    text = " ".join(plain(unicodedata.normalize("NFKC", text)).split())
    if ignore_punctuation:
        for _ in range(2):  # a period may be inside the quotation marks
            bare = text.rstrip(".,;:?!…。，、 ")
            if "!" not in text[len(bare) :] or _WORD_END.search(bare[-3:]):
                text = bare
            if len(text) > 2 and _QUOTES.get(text[0]) == text[-1]:
                text = text[1:-1].strip()
    return text.casefold() if ignore_case else text
