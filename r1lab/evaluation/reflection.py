"""Reflection words: how often a model says that it checks its work, and the lengths of correct and wrong answers."""

import re
import statistics
from collections.abc import Iterable
from pathlib import Path

from r1lab.errors import UserError
from r1lab.rundir import directory, storage

R1_WORDS = ("wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check")
"""DeepSeek-R1 (arXiv:2501.12948v2, appendix C.2)."""

LOGIC_RL_WORDS = ("verify", "re-evaluate", "wait", "yet", "recheck", "let's")
"""Logic-RL (arXiv:2502.14768): the words whose frequency it compares with the reward."""

WORDS = tuple(dict.fromkeys(R1_WORDS + LOGIC_RL_WORDS))


def _pattern(word: str) -> re.Pattern:
    """Matches a whole word, but not the end of another one of `WORDS`: "re-evaluate" is not "evaluate".

    The pattern starts with the word itself, which `re` finds three times as fast as a word boundary.
    """
    ends = [rf"\b{re.escape(other)}" for other in WORDS if other != word and other.endswith(word)]
    unlike = "".join(f"(?<!{end})" for end in [rf"\w{re.escape(word)}", *ends])
    return re.compile(rf"{re.escape(word)}\b{unlike}")


_PATTERNS = {word: _pattern(word) for word in WORDS}


def counts(text: str) -> dict[str, int]:
    """How often each of `WORDS` is in a text, as a whole word in upper or lower case.

    >>> found = counts("Wait, let's re-evaluate. Waiting; but WAIT!")
    >>> {word: count for word, count in found.items() if count}
    {'wait': 2, 'but': 1, 're-evaluate': 1, "let's": 1}
    """
    text = text.lower().replace("’", "'")
    return {word: len(pattern.findall(text)) for word, pattern in _PATTERNS.items()}


def per_completion(texts: Iterable[str]) -> dict[str, float]:
    """How often each of `WORDS` is in a completion, on average.

    Raises:
        ValueError: There are no completions.
    """
    each = [counts(text) for text in texts]
    if not each:
        raise ValueError("no completions")
    return {word: sum(found[word] for found in each) / len(each) for word in WORDS}


def words_by_step(run_dir: str | Path) -> list[dict]:
    """Reflection words and lengths at each step of a grpo run, from its `samples/`.

    Returns:
        For each step: `step`, `completions`, `words` (per completion), and `right` and `wrong`, each with its number
        of `completions` and their mean length in `characters`, in `words`, and in `tokens` if the samples have them;
        None if there are no such completions.

    Raises:
        UserError: The folder has no `samples/step_*.jsonl`.
    """
    steps = directory.samples_by_step(run_dir)
    if not steps:
        raise UserError(f"{run_dir}: no samples/step_*.jsonl in it: name the folder of a grpo stage")
    found = []
    for step, paths in steps.items():
        records = [record for path in paths for record in storage.read_jsonl(path)]
        if records:
            words = per_completion(record["completion"] for record in records)
            right, wrong = (_lengths([r for r in records if bool(r["right"]) is kind]) for kind in (True, False))
            row = {"step": step, "completions": len(records), "words": words, "right": right, "wrong": wrong}
            found.append(row)
    return found


def _lengths(records: list[dict]) -> dict | None:
    if not records:
        return None
    texts = [record["completion"] for record in records]
    lengths = {
        "completions": len(texts),
        "characters": statistics.fmean(map(len, texts)),
        "words": statistics.fmean(len(text.split()) for text in texts),
    }
    if all("tokens" in record for record in records):
        lengths["tokens"] = statistics.fmean(record["tokens"] for record in records)
    return lengths
