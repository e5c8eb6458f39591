"""Operations on rows before training: filter, clean, reorder."""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Literal

from r1lab.errors import UserError

_SPACED = re.compile(r"\s*([^\w\s])\s*")
_STOPS = re.compile(r"(?<!\w)[\"“]+|[.,;:?\"“”]+(?![\w.])")  # not the point of 3.5, nor the marks of 5! and f'
_ROUNDING = 1e-9


def deduplicate(rows: list[dict], *, near: float | None = None) -> list[dict]:
    """Keeps the first of rows with the same prompt and completion.

    Texts are the same if they differ only in case, space and the punctuation of sentences; math symbols count.

    Args:
        near: Also removes rows whose sets of word 5-grams overlap by at least this Jaccard index (intersection over
            union), above 0 and at most 1. Texts of fewer than five words are compared as a whole. The comparison is
            exact, by an index of the rarest 5-grams (prefix filtering: Chaudhuri et al., ICDE 2006).

    >>> rows = [{"prompt": "What is 2 + 2?"}, {"prompt": "what is 2+2"}, {"prompt": "What is 2 + 3?"}]
    >>> [row["prompt"] for row in deduplicate(rows)]
    ['What is 2 + 2?', 'What is 2 + 3?']
    """
    if near is not None and not 0 < near <= 1:
        raise UserError(f"data: deduplicate: near: {near} is not a number from above 0 to 1")
    texts = [_normal(f"{prompt_text(row)} {_said(row.get('completion'))}") for row in rows]
    first = dict(zip(reversed(texts), reversed(range(len(texts)))))
    kept = sorted(first.values())
    if near is not None:
        grams = [set(_ngrams(texts[i].split(), 5)) or {texts[i]} for i in kept]
        kept = [i for i, alone in zip(kept, _unlike(grams, near)) if alone]
    return [rows[i] for i in kept]


def decontaminate(
    rows: list[dict], against: list[dict], *, n: int = 8, common: float = 0.05
) -> tuple[list[dict], list[dict]]:
    """Leaves out rows whose prompts share `n` consecutive words with an evaluation prompt.

    This is Open-R1's rule, lower case and words between white space, with two additions. Prompts of fewer than `n`
    words are searched for as a whole, theirs in ours and ours in theirs. Boilerplate does not count: n-grams in more
    than a share `common` of the different prompts of `against`, and in more than one, are boilerplate, and only
    n-grams that share no word with them are compared. So the opening that all puzzles of a family share is not a
    match, even with a first name after it. Equal prompts always match.

    Puzzles composed of few words, such as Knights and Knaves, share 8 words by chance: set `n` to 30 for these, or
    rely on the split of the builder, which is exact.

    Args:
        against: The rows of the evaluation.
        n: The number of consecutive words.
        common: The share of prompts above which an n-gram is boilerplate.

    Returns:
        The rows kept, and for each row left out its `prompt`, the prompt `matched`, and the `ngram`.

    >>> test = [{"prompt": "How many legs do 3 cats and 2 birds have?"}]
    >>> train = [{"prompt": "So how many legs do 3 cats and 2 birds have?"}, {"prompt": "How many legs has it?"}]
    >>> kept, report = decontaminate(train, test)
    >>> [row["prompt"] for row in kept], report[0]["ngram"]
    (['How many legs has it?'], 'how many legs do 3 cats and 2')
    """
    if n < 1 or not 0 <= common <= 1:
        raise UserError(f"data: decontaminate: n: {n}, common: {common}: should be at least 1, and from 0 to 1")
    whole = {" ".join(prompt_text(row).lower().split()): row["prompt"] for row in against}
    theirs = {text: text.split() for text in whole}
    counts = Counter(gram for words in theirs.values() for gram in set(_ngrams(words, n)))
    phrases = {gram for gram, count in counts.items() if count > max(1, common * len(theirs))}
    grams = {gram: text for text, words in theirs.items() for gram in _ngrams_without(phrases, words, n)}
    short_lengths = sorted({len(words) for words in theirs.values() if 0 < len(words) < n})
    within: dict[int, dict[str, str]] = {}  # for each length below n, all of their n-grams of that length

    def match(words: list[str]) -> tuple[str, str] | None:
        """The n-gram that a prompt shares with an evaluation prompt, and that prompt."""
        text, length = " ".join(words), len(words)
        if text in whole:
            return text, text
        if 0 < length < n:
            if length not in within:
                within[length] = {gram: other for other, w in theirs.items() for gram in _ngrams(w, length)}
            if text in within[length]:
                return text, within[length][text]
        for gram in _ngrams_without(phrases, words, n):
            if gram in grams:
                return gram, grams[gram]
        return next(((gram, gram) for k in short_lengths for gram in _ngrams(words, k) if gram in whole), None)

    kept, report = [], []
    for row in rows:
        found = match(prompt_text(row).lower().split())
        if found is None:
            kept.append(row)
        else:
            gram, text = found
            report.append({"prompt": row["prompt"], "matched": whole[text], "ngram": gram})
    return kept, report


def by_length(rows: list[dict], count: Callable[[dict], int], *, max_tokens: int) -> tuple[list[dict], int]:
    """The rows of at most `max_tokens` by `count`, and how many were left out.

    Args:
        count: The tokens of a row, such as those of its prompt in its template and of its completion.

    >>> by_length([{"prompt": "a b"}, {"prompt": "a b c"}], lambda row: len(row["prompt"].split()), max_tokens=2)
    ([{'prompt': 'a b'}], 1)
    """
    kept = [row for row in rows if count(row) <= max_tokens]
    return kept, len(rows) - len(kept)


def by_pass_rate(
    rows: list[dict], samples: list[dict], *, lowest: float = 0.0, highest: float = 1.0
) -> tuple[list[dict], int]:
    """The rows whose share of correct samples is from `lowest` to `highest`, and how many have no samples.

    Args:
        samples: The samples of a sample stage that keeps all, each with `prompt` and `right`.

    Returns:
        The rows kept, each with its `pass_rate`, and the number of rows left out because they have no samples.

    Raises:
        UserError: The bounds are invalid, or samples were not graded.

    >>> samples = [{"prompt": "a", "right": True}, {"prompt": "a", "right": False}, {"prompt": "b", "right": False}]
    >>> by_pass_rate([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}], samples, lowest=0.1)
    ([{'prompt': 'a', 'pass_rate': 0.5}], 1)
    """
    if not 0 <= lowest <= highest <= 1:
        raise UserError(f"data: pass_rate: {lowest} to {highest}: should be from 0 to 1, the lowest first")
    graded = defaultdict(list)
    for sample in samples:
        if sample.get("right") is None:
            raise UserError("data: pass_rate: samples without `right`: give the sample stage rewards")
        graded[_key(sample)].append(bool(sample["right"]))
    rates = [sum(found) / len(found) if (found := graded.get(_key(row))) else None for row in rows]
    kept = [
        {**row, "pass_rate": rate} for row, rate in zip(rows, rates) if rate is not None and lowest <= rate <= highest
    ]
    return kept, rates.count(None)


def ordered(rows: list[dict], *, by: Literal["people", "level", "pass_rate", "length"]) -> list[dict]:
    """The rows with the easy ones first; rows of equal difficulty stay in their order.

    Args:
        by: `"people"` and `"level"`: the number in the task (`knights_knaves/3ppl`, `math/level3`). `"pass_rate"`:
            the column, the highest first. `"length"`: the characters of the prompt.

    Raises:
        UserError: A row lacks the value to sort by.

    >>> rows = [{"prompt": "?", "task": f"math/level{n}"} for n in (3, 1, 2)]
    >>> [row["task"] for row in ordered(rows, by="level")]
    ['math/level1', 'math/level2', 'math/level3']
    """
    keys = {"people": _number("people", r"(\d+)ppl"), "level": _number("level", r"[a-z_]*(\d+)\w*")}
    keys |= {"pass_rate": _easiness, "length": lambda row: len(prompt_text(row))}
    if by not in keys:
        raise UserError(f"data: order: {by!r} is not {', '.join(keys)}")
    return sorted(rows, key=keys[by])


SENTENCES = {"exact": "Think for {budget} tokens.", "at_most": "Think for maximum {budget} tokens."}
"""L1's sentences (arXiv:2503.04697)."""


def with_budgets(
    rows: list[dict],
    *,
    lowest: int,
    highest: int | None = None,
    mode: str = "exact",
    text: str | None = None,
    seed: int,
) -> list[dict]:
    """The rows with a number of tokens from `lowest` to `highest` in the column `budget` and at the end of the prompt.

    The prompt without it is in the column `question`.

    Args:
        highest: Default: `lowest`.
        mode: A key of `SENTENCES`, if there is no text.
        text: What is appended to a question, or to the last chat message, with `{budget}` in the place of the number.
        seed: The number depends on it and on the prompt.

    >>> with_budgets([{"prompt": "2+2?"}], lowest=64, seed=0)
    [{'prompt': '2+2? Think for 64 tokens.', 'budget': 64, 'question': '2+2?'}]
    """
    most = lowest if highest is None else highest
    sentence = SENTENCES[mode] if text is None else text
    if most < lowest or "{budget}" not in sentence:
        what = f"highest: {most} is below lowest" if most < lowest else "text: has no {budget} in it"
        raise UserError(f"data: budget: {what}: set lowest: 100, highest: 4000, text: Think for {{budget}} tokens.")
    found = []
    for row in rows:
        prompt, budget = row["prompt"], random.Random(f"budget/{seed}/{row['prompt']}").randint(lowest, most)
        added = f" {sentence.replace('{budget}', str(budget))}"
        if isinstance(prompt, str):
            prompt += added
        else:
            prompt = [*prompt[:-1], prompt[-1] | {"content": prompt[-1]["content"] + added}]
        found.append(row | {"prompt": prompt, "budget": budget, "question": row["prompt"]})
    return found


def prompt_text(row: dict) -> str:
    """The text of a prompt: a string unchanged, or the user's part of chat messages.

    >>> prompt_text({"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]})
    '2+2?'
    """
    prompt = row["prompt"]
    return prompt if isinstance(prompt, str) else _said([m for m in prompt if m["role"] == "user"])


def _said(value: str | list[dict] | None) -> str:
    return "\n".join(m["content"] for m in value) if isinstance(value, list) else value or ""


def _normal(text: str) -> str:
    """A text without case, space and the punctuation of sentences; math symbols stay, for 2 + 2 is not 2 * 2.

    >>> _normal("What is 2 + 2.5?") == _normal("what is 2+2.5") != _normal("What is 2 * 2.5?")
    True
    """
    stopped = _STOPS.sub(" ", text.casefold())
    return " ".join(_SPACED.sub(r"\1", stopped).split())


def _key(row: dict) -> str:
    return repr(row["prompt"])


def _ngrams(words: list[str], n: int) -> Iterator[str]:
    return (" ".join(words[i : i + n]) for i in range(len(words) - n + 1))


def _ngrams_without(phrases: set[str], words: list[str], n: int) -> Iterator[str]:
    """The n-grams of words none of which is in one of the phrases, which also have `n` words."""
    grams = list(_ngrams(words, n))
    free = [True] * len(words)
    for i, gram in enumerate(grams):
        if gram in phrases:
            free[i : i + n] = [False] * n
    return (gram for i, gram in enumerate(grams) if all(free[i : i + n]))


def _unlike(sets: list[set[str]], near: float) -> list[bool]:
    """For each set, whether no earlier set that was kept overlaps it by `near` or more.

    Two sets of an overlap J >= near share one of the first |A| - ceil(near |A|) + 1 grams of each, in any one order of
    all grams; with the rarest first, few sets share them.
    """
    counts = Counter(gram for grams in sets for gram in grams)
    by_gram: dict[str, list[int]] = defaultdict(list)
    alone = []
    for i, grams in enumerate(sets):
        rarest = sorted(grams, key=lambda gram: (counts[gram], gram))
        prefix = rarest[: len(grams) - math.ceil(near * len(grams) - _ROUNDING) + 1]
        candidates = {j for gram in prefix for j in by_gram[gram]}
        unlike = all(len(grams & sets[j]) < near * len(grams | sets[j]) - _ROUNDING for j in candidates)
        alone.append(unlike)
        if unlike:
            for gram in prefix:
                by_gram[gram].append(i)
    return alone


def _number(by: str, pattern: str) -> Callable[[dict], int]:
    def number(row: dict) -> int:
        found = re.fullmatch(pattern, str(row.get("task")).partition("/")[2])
        if not found:
            raise UserError(f"data: order: {by}: a row of task {row.get('task')} does not have it")
        return int(found[1])

    return number


def _easiness(row: dict) -> float:
    if row.get("pass_rate") is None:
        raise UserError("data: order: pass_rate: a row has no pass rate: filter rows by their pass rate first")
    return -row["pass_rate"]
