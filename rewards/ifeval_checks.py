"""The kinds of constraints as IFEval's own checks define them, including everything that those let pass.

They are written from the definitions in IFEval's published code (google-research, instruction_following_eval) and give
the same verdicts in linear time. Two parts are missing: IFEval's checks of lower and upper case also require that a
language detector finds English, and its detector judges an answer in a given language; here `script` is unchanged.
"""

import json
import re
from importlib import import_module

from r1lab.errors import UserError
from r1lab.rewards import constraints


def unmet(text: str, constraint: dict) -> str | None:
    """The reason why a text fails a constraint by IFEval's check, or None; an invalid constraint raises as elsewhere.

    >>> unmet("Tea is art, startling.", {"kind": "keyword_count", "keyword": "art", "at_least": 2})
    >>> unmet("Tea is art.", {"kind": "num_words", "at_least": 4})
    'num_words (3, not >= 4)'
    """
    try:
        return constraints.unmet(text, constraint, functions=OFFICIAL)
    except re.error as error:
        raise ValueError(
            f"constraints: {constraint['kind']}: IFEval reads it as a regular expression: {error}"
        ) from error


def num_words(text: str) -> int:
    return len(re.findall(r"\w+", text))


def num_sentences(text: str) -> int:
    return len(_nltk("sent_tokenize", text))


def num_capital_words(text: str) -> int:
    return sum(word.isupper() for word in _nltk("word_tokenize", text))


def _nltk(function: str, text: str) -> list[str]:
    try:
        return getattr(import_module("nltk.tokenize"), function)(text)
    except (ImportError, LookupError) as error:
        raise UserError(
            "rewards: instruction: mode: official: counts sentences and capital words with nltk and its data; type "
            "`pip install nltk`, then `python -m nltk.downloader punkt punkt_tab`"
        ) from error


def num_paragraphs(text: str, divider: str | None = None) -> float:
    """The number of parts between `***`, anywhere; if one in the middle is empty, NaN, which meets no bound."""
    if divider == "blank":
        return sum(bool(part.strip()) for part in text.split("\n\n"))
    parts = re.split(r"\s?\*\*\*\s?", text)
    return len(_inner(parts)) if all(part.strip() for part in parts[1:-1]) else float("nan")


def _inner(parts: list[str]) -> list[str]:
    """The parts without an empty first and an empty last one."""
    return [part for i, part in enumerate(parts) if part.strip() or 0 < i < len(parts) - 1]


def num_bullets(text: str) -> int:
    lines, count, place = text.split("\n"), 0, 0
    while place < len(lines):
        bare = lines[place].lstrip()
        if bare == "*" and place + 1 < len(lines):  # the line break counts as what follows the star
            count, place = count + 1, place + 1
        elif bare.startswith("-") or (bare.startswith("*") and bare[1:2] not in ("", "*")):
            count += 1
        place += 1
    return count


def num_placeholders(text: str) -> int:
    count = 0
    for line in text.split("\n"):
        place = line.find("[")
        while place >= 0 and (end := line.find("]", place)) >= 0:
            count, place = count + 1, line.find("[", end)
    return count


def num_highlights(text: str) -> int:
    single = re.findall(r"\*[^\n*]*\*", text)
    double = re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(found.strip("*").strip()) for found in single) + sum(bool(f[2:-2].strip()) for f in double)


def num_sections(text: str, name: str = "Section") -> int:
    return len(re.findall(rf"{name}\s?\d+", text))


def keyword_count(text: str, keyword: str) -> int:
    return len(re.findall(keyword, text, re.IGNORECASE))


def letter_count(text: str, letter: str) -> int:
    return text.lower().count(letter.lower())


def keywords(text: str, words: list[str]) -> str | None:
    missing = [word for word in words if not re.search(word, text, re.IGNORECASE)]
    return f"without {', '.join(missing)}" if missing else None


def forbidden_words(text: str, words: list[str]) -> str | None:
    present = [word for word in words if re.search(rf"\b{word}\b", text, re.IGNORECASE)]
    return f"with {', '.join(present)}" if present else None


def lower_case(text: str) -> str | None:
    return None if text.islower() else "not all lower case"


def upper_case(text: str) -> str | None:
    return None if text.isupper() else "not all upper case"


def title(text: str) -> str | None:
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end - 2 and line[start:end].lstrip("<").rstrip(">").strip():
            return None
    return "no <<title>>"


def json_only(text: str) -> str | None:
    text = text.strip()
    for mark in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(mark)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return "not JSON"
    return None


def starts_with(text: str, prefix: str) -> str | None:
    return None if text.strip().lower().startswith(prefix.strip().lower()) else "another start"


def ends_with(text: str, suffix: str) -> str | None:
    return None if text.strip().strip('"').lower().endswith(suffix.strip().lower()) else "another end"


def quoted(text: str) -> str | None:
    text = text.strip()
    return None if len(text) > 1 and text[0] == text[-1] == '"' else "not in quotation marks"


def no_commas(text: str) -> str | None:
    return f"{text.count(',')} commas" if "," in text else None


def two_responses(text: str) -> str | None:
    parts = _inner(text.split("******"))
    different = len(parts) == 2 and all(part.strip() for part in parts) and parts[0].strip() != parts[1].strip()
    return None if different else f"{len(parts)} parts"


def postscript(text: str, marker: str = "P.S.") -> str | None:
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return None if re.search(known.get(marker, marker.lower()), text.lower()) else f"no {marker}"


def repeat_prompt(text: str, prompt: str) -> str | None:
    return None if text.strip().lower().startswith(prompt.strip().lower()) else "not repeated"


def paragraph_starts(text: str, number: int, word: str) -> str | None:
    parts = text.split("\n\n")
    there = number <= sum(bool(part.strip()) for part in parts) and parts[number - 1].split()
    if not there:
        return "no such paragraph"
    first = re.split(r"[.,?!'\"]", there[0].lstrip("'").lstrip('"'), maxsplit=1)[0].lower()
    return None if first == word.lower() else "another word"


def one_of(text: str, options: list[str]) -> str | None:
    return None if any(option in text for option in options) else "none of the options"


OFFICIAL = {
    function.__name__: function
    for function in (
        num_words, num_sentences, num_paragraphs, num_bullets, num_placeholders, num_highlights, num_sections,
        num_capital_words, keyword_count, letter_count, keywords, forbidden_words, lower_case, upper_case, title,
        json_only, starts_with, ends_with, quoted, no_commas, two_responses, postscript, repeat_prompt,
        paragraph_starts, one_of,
    )
}  # fmt: skip
