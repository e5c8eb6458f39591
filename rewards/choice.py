"""Multiple choice: whether a completion commits to the correct letter, and to no other."""

import re
import unicodedata

from r1lab.errors import UserError
from r1lab.grading.markup import plain
from r1lab.rewards.facts import reward
from r1lab.rewards.score import Score

_TEXT = re.compile(r"\\(?:text|math)(?:bf|it|rm|tt|sf|normal)?\s*\{([^{}]*)\}")
# A letter alone, or as the label of what follows it: (B), [B], <B>, B), B. B: B - and B, before a word, B option.
_LABEL = re.compile(
    r"(?:(?:option|choice|letter|answer|选项|選項|вариант)\s?[:#]?\s?)?"
    r"(?:[(\[<{【]\s*([a-z])\s*[)\]>}】][.:、]?|([\"'“‘`])([a-z])[\"'”’`][.:]?"
    r"|([a-z])(?:\s*[).:、=]|\s+[-–—(→]|,(?=\s+\w\w)|\s+(?:option|choice)\b|\s*选?[项項]|\s*(?:正确|正確|对|對)|\s*[。;；!]|\s*$))",
    re.IGNORECASE,
)
# What may precede the letter: "I think it is C", "definitely C". Nothing that negates it or names several.
_PREFACE = re.compile(
    r"(?:(?:I(?:'d| would| will|'ll)?|we) (?:think|believe|say|guess|choose|chose|pick|select|go with|would say)"
    r"|(?:it|that|this|which)(?:'s| is| must be| should be| has to be| seems to be)"
    r"|probably|most likely|likely|definitely|certainly|clearly|obviously|only|simply|that|the|is|correct|right|best"
    r"|answer|one|not (?:option )?[(\[]?[a-z][)\]]?,? but(?: rather)?)(?:[\s:,]+|(?=[(\[]))",
    re.IGNORECASE,
)
# Phrases that commit to a letter, in addition to those of `r1lab.grading.phrases`.
_CHOSEN = re.compile(
    r"\b(?:(?:I|we|[Ll]et us|[Ll]et['’]s)(?: would| will|['’]d|['’]ll)?"
    r" (?:choose|pick|select|go with|go for|opt for|take)"
    r"|(?:it|this|that) (?:must|has to|should) be"
    r"|(?:which|that|this) leaves(?: us with| only)?|leaving(?: us with| only)?"
    r"|(?:corresponds to|matches|leads to|points to|that is|i\.e\.,?))\s+(?:answer |option |choice )?"
    r"[*_]{0,2}([(\[]?[A-Z][)\]]?)"
    r"(?![\w'’]|\s(?!because\b|since\b|as\b)[a-z]|\s?[,/&]\s?(?:and |or )?[(\[]?[A-Z]\b)",
)
# Letters in a row: A or B; (A), (B); A B C.
_LIST = re.compile(
    r"[(\[]?[A-Z][)\].:]?(?:[\s,;/&|+(\[-]|and\b|or\b)+[A-Z]\b(?=\s*[)\].:,;/&]|\W*(?:$|and\b|or\b|[A-Z]\b))"
)
# An option with its text, on a line of its own.
_OPTION = re.compile(r"[\s*_>-]*(?:option )?[(\[]?([A-Z])[)\].:]+[*_]*\s+\S", re.IGNORECASE)
# The label of another option after the text of the first one.
_ANOTHER = re.compile(
    r"[(\[]\s*([A-Z])\s*[)\]]|(?:^|\b(?:or|and)\b|[,;/\n])\s*(?:option |choice )?([A-Z])\s*[).:](?=\s|$)"
)


@reward(looks_for="answer")
def choice_reward(completions, *, answer, choices: list | None = None, **columns) -> list[float | None]:
    """1 if the last answer that a response commits to is the correct letter, else 0.

    The answer is searched for after the thinking: in `<answer>`, in a box, after a phrase such as "the answer is" or
    "I choose", in bold, or alone on the last line (`r1lab.grading.answers.committed`). A response that names several
    letters ("A or B") has no answer.

    Args:
        completions: Responses, with a prefilled `<think>` restored.
        answer: For each row the letter of the correct option; None if the reward does not apply.
        choices: A column of the data: for each row the list of the options' texts, A first. If it is given, the text
            of the correct option counts as its letter, and the letter with another option's text is a contradiction.

    Returns:
        `Score`s with the reason correct, wrong, hedged, contradiction, unparsed or no_answer.

    Raises:
        ValueError: A gold answer is not a letter.

    >>> turns = ["<think> A? No. </think> The answer is (B).", "<think> A? B? </think> The answer is A or B."]
    >>> choice_reward(turns, answer=["B", "B"])
    [1.0, 0.0]
    >>> choice_reward(["<answer> Paris </answer>"], answer=["B"], choices=[["London", "Paris"]])
    [1.0]
    """
    if choices is not None and any(isinstance(texts, str) for texts in choices):
        raise UserError("rewards: choice: choices: is a column of the data, a list of texts per row, not a setting")
    rows = zip(completions, answer, choices or [None] * len(completions), strict=True)
    return [None if gold is None else _score(turn, gold, texts or []) for turn, gold, texts in rows]


def _score(turn: str, gold: str, choices: list[str]) -> Score:
    right = str(gold).strip(" ().").upper()
    if not re.fullmatch("[A-Z]", right):
        raise ValueError(f"not the letter of an option: {gold!r}")
    named = chosen(turn, choices)
    if len(named) > 1:
        return Score(0.0, named)
    return Score(1.0, "correct") if named == right else Score(0.0, "wrong")


def chosen(turn: str, choices: list[str]) -> str:
    """The one letter that a response commits to, or why there is none: no_answer, or as in `read_choice`.

    >>> chosen("<think> A? </think> The answer is (B).", []), chosen("I do not know, A or B", [])
    ('B', 'no_answer')
    """
    from r1lab.grading.answers import committed  # its patterns take long to compile, and `r1lab show` needs none

    found = committed(turn, also=_CHOSEN)
    if not found:
        return "no_answer"
    named = read_choice(found[0], choices)
    return "hedged" if found[1] == "bare" and _lists_options(turn, named) else named


def read_choice(answer: str, choices: list[str]) -> str:
    r"""The one letter that an answer names, or the reason why there is none: hedged, contradiction or unparsed.

    >>> read_choice(r"\text{(B)} Paris", []), read_choice("paris", ["London", "Paris"]), read_choice("A, B", [])
    ('B', 'B', 'hedged')
    """
    answer = unicodedata.normalize("NFKC", plain(_TEXT.sub(r"\1", answer)))
    texts = [_folded(text) for text in choices]
    letters = {text: chr(ord("A") + i) for i, text in enumerate(texts) if texts.count(text) == 1}
    for _ in range(4):
        preface = _PREFACE.match(answer) if not _LABEL.match(answer) else None
        answer = answer[preface.end() :] if preface else answer
    label = _LABEL.match(answer)
    letter = (label[1] or label[3] or label[4]).upper() if label else ""
    text = _folded(answer[label.end() :]) if label else ""
    if label and not text:
        return letter
    if _folded(answer) in letters:
        return letters[_folded(answer)]
    if _LIST.match(answer):
        return "hedged"
    if not label:
        return "unparsed"
    if text in letters:
        return letter if letters[text] == letter else "contradiction"
    return "hedged" if _names_another(answer[label.end() :], letter) else letter


def _lists_options(turn: str, last: str) -> bool:
    """Whether the last two lines are options with their texts, so that the response ends in a list of the options."""
    lines = [line for line in turn.rstrip().splitlines() if line.strip()][-2:]
    options = [option[1].upper() for line in lines if (option := _OPTION.match(line))]
    return len(options) == 2 and options[1] == last != options[0]


def _names_another(text: str, letter: str) -> bool:
    return any((other[1] or other[2]) != letter for other in _ANOTHER.finditer(text))


def _folded(text: str) -> str:
    return " ".join(plain(unicodedata.normalize("NFKC", str(text))).casefold().split())
