"""IFEval: prompts with instructions that a program can check."""

from collections import Counter
from typing import Literal

from r1lab.data.evaluation import evaluation_only, without_none
from r1lab.data.rows import converted, draw, first_of

HUB = "google/IFEval"
# Instructions without arguments.
_PLAIN = {
    "detectable_format:json_format": "json_only",
    "detectable_format:title": "title",
    "combination:two_responses": "two_responses",
    "change_case:english_capital": "upper_case",
    "change_case:english_lowercase": "lower_case",
    "punctuation:no_comma": "no_commas",
    "startend:quotation": "quoted",
}
# Languages whose script hardly any other uses. The Arabic, Cyrillic and Devanagari scripts would confuse languages.
_SCRIPTS = {"zh": "chinese", "el": "greek", "he": "hebrew", "ja": "japanese", "ko": "hangul", "th": "thai"}


def ifeval(*, path: str = HUB, split: Literal["test"] = "test", size: int | None = None, seed: int = 0) -> list[dict]:
    """Requests with one to three verifiable instructions (IFEval, arXiv:2311.07911), for evaluation only.

    The instructions become constraints of the reward `instruction`, which has its own definitions
    (`r1lab.rewards.constraints`: keywords are whole words, counted items must differ), so a score with `mode: all` is
    close to IFEval's strict prompt-level accuracy, but not identical. With `mode: official` the verdicts are those of
    IFEval's own checks. Of `language:response_language` only Chinese, Greek, Hebrew, Japanese, Korean and Thai have a
    counterpart, because their script identifies them.

    Args:
        path: The dataset on the Hub, or a file with its columns.
        split: `"test"`: the set has no training split (the Hub calls this set `train`).
        size: Maximum number of rows, sampled by `seed`. Default: all.

    Returns:
        Rows with `prompt`, `answer` (None), `task` (`ifeval`), `constraints` and `id`. A row with an instruction
            without a counterpart is left out; the log counts these rows and names the instructions.

    >>> import json, tempfile
    >>> row = {"key": 1, "prompt": "Say a lot.", "instruction_id_list": ["length_constraints:number_words"]}
    >>> row["kwargs"] = [{"relation": "at least", "num_words": 300}]
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write(json.dumps(row))
    ...     file.flush()
    ...     ifeval(path=file.name)[0]["constraints"]
    [{'kind': 'num_words', 'at_least': 300}]
    """
    evaluation_only("ifeval", split, instead="instructions")
    unknown = Counter()

    def convert(row: dict) -> dict | None:
        names, given = first_of(row, "instruction_id_list"), first_of(row, "kwargs")
        if len(names) != len(given):
            raise ValueError(f"kwargs: {len(given)} for {len(names)} instructions")
        translated = [_constraints(name, kwargs or {}) for name, kwargs in zip(names, given)]
        unknown.update({name for name, found in zip(names, translated) if not found})
        if not all(translated):
            return None
        constraints = [constraint for found in translated for constraint in found]
        prompt, key = first_of(row, "prompt"), row.get("key")
        return {"prompt": prompt, "answer": None, "task": "ifeval", "constraints": constraints, "id": key}

    found = converted(path, "train" if path == HUB else "test", convert)
    counts = ", ".join(f"{name} {count}" for name, count in unknown.most_common())
    found = without_none(found, path, f"have an instruction without a counterpart ({counts})")
    return draw(found, size, seed)


def _constraints(name: str, kwargs: dict) -> list[dict]:
    """The constraints of the reward for an instruction of IFEval; empty if it has no counterpart.

    >>> _constraints("keywords:frequency", {"keyword": "sea", "frequency": 3, "relation": "less than"})
    [{'kind': 'keyword_count', 'keyword': 'sea', 'at_most': 2}]
    """

    def bound(count: str, relation: str) -> dict:
        return {"at_most": number(count) - 1} if need(relation) == "less than" else {"at_least": number(count)}

    def number(key: str) -> int:
        return int(need(key))

    def need(key: str):
        return first_of(kwargs, key)

    match name:
        case "keywords:existence":
            return [{"kind": "keywords", "words": list(need("keywords"))}]
        case "keywords:forbidden_words":
            return [{"kind": "forbidden_words", "words": list(need("forbidden_words"))}]
        case "keywords:frequency":
            return [{"kind": "keyword_count", "keyword": need("keyword"), **bound("frequency", "relation")}]
        case "keywords:letter_frequency":
            return [{"kind": "letter_count", "letter": need("letter"), **bound("let_frequency", "let_relation")}]
        case "language:response_language":
            script = _SCRIPTS.get(need("language"))
            return [{"kind": "script", "name": script}] if script else []
        case "length_constraints:number_words":
            return [{"kind": "num_words", **bound("num_words", "relation")}]
        case "length_constraints:number_sentences":
            return [{"kind": "num_sentences", **bound("num_sentences", "relation")}]
        case "length_constraints:number_paragraphs":
            return [{"kind": "num_paragraphs", "exactly": number("num_paragraphs"), "divider": "***"}]
        case "length_constraints:nth_paragraph_first_word":
            blocks = {"kind": "num_paragraphs", "exactly": number("num_paragraphs"), "divider": "blank"}
            first = {"kind": "paragraph_starts", "number": number("nth_paragraph"), "word": need("first_word")}
            return [blocks, first]
        case "detectable_content:number_placeholders":
            return [{"kind": "num_placeholders", "at_least": number("num_placeholders")}]
        case "detectable_content:postscript":
            return [{"kind": "postscript", "marker": need("postscript_marker")}]
        case "detectable_format:number_bullet_lists":
            return [{"kind": "num_bullets", "exactly": number("num_bullets")}]
        case "detectable_format:number_highlighted_sections":
            return [{"kind": "num_highlights", "at_least": number("num_highlights")}]
        case "detectable_format:multiple_sections":
            named = need("section_spliter")  # the set's spelling
            return [{"kind": "num_sections", "name": named, "at_least": number("num_sections")}]
        case "detectable_format:constrained_response":
            return [{"kind": "one_of", "options": [f"My answer is {word}." for word in ("yes", "no", "maybe")]}]
        case "combination:repeat_prompt":
            return [{"kind": "repeat_prompt", "prompt": need("prompt_to_repeat")}]
        case "startend:end_checker":
            return [{"kind": "ends_with", "suffix": need("end_phrase")}]
        case "change_case:capital_word_frequency":
            return [{"kind": "num_capital_words", **bound("capital_frequency", "capital_relation")}]
    return [{"kind": _PLAIN[name]}] if name in _PLAIN else []
