"""Reasoning traces for SFT, in the formats of the open datasets."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from r1lab.data import shapes
from r1lab.data.rows import converted, draw, first_of
from r1lab.errors import UserError

_FORMS = (
    # DeepSeek-R1's own format; the opening tag may have been prefilled.
    re.compile(r"(?:<think>)?((?:(?!</?think>).)*)</think>((?:(?!</?think>).)*)", re.DOTALL),
    # Bespoke-Stratos and OpenThoughts, after Sky-T1.
    re.compile(
        r"<\|begin_of_thought\|>(.*?)<\|end_of_thought\|>\s*<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>)?",
        re.DOTALL,
    ),
    # Marco-o1; a few of its answers lack the closing tag.
    re.compile(r"<Thought>(.*?)</Thought>\s*<Output>(.*?)(?:</Output>)?", re.DOTALL),
)
_ANSWER = re.compile(r"<answer>(.*)</answer>", re.DOTALL)
_APART = (
    ("deepseek_thinking_trajectory", "deepseek_attempt"),
    ("thinking_trajectories", "attempt"),
    ("gemini_thinking_trajectory", "gemini_attempt"),
)
"""Columns of s1K and s1K-1.1 that have the thinking and the final text separately, the best teacher first."""

logger = logging.getLogger(__name__)


def traces(
    *,
    path: str,
    split: Literal["train", "test"] = "train",
    size: int | None = None,
    seed: int = 0,
    config: str | None = None,
    right_only: bool = True,
    answer_tags: bool = False,
    per_prompt: int | None = None,
    on_unknown: Literal["fail", "skip"] = "fail",
) -> list[dict]:
    """Prompts with a thinking and a final text, for cold-start SFT or distillation.

    The format is detected row by row, and a row in an unknown format is an error. Known columns:

    - `prompt` and `completion` (your own, or the samples of a sample stage),
    - `problem` and `generations`, several for each (OpenR1-Math-220k),
    - `messages` with `role` and `content` (Mixture-of-Thoughts), or `conversations` with `from` and `value`
      (Bespoke-Stratos-17k, OpenThoughts),
    - `question`, with separate columns for the thinking and the final text (s1K, s1K-1.1),
    - `instruction` and `response` (Marco-o1).

    Known markers of the thinking in the response: `<think>...</think>`, the first tag prefilled or not;
    `<|begin_of_thought|>...<|begin_of_solution|>`; `<Thought>...<Output>`. System prompts are left out, because they
    describe the dataset's own tags.

    Args:
        path: A dataset on the Hub, a folder or a file.
        size: Maximum number of rows, sampled by `seed`. Default: all.
        config: The configuration of a dataset on the Hub, such as `math` of Mixture-of-Thoughts.
        right_only: Leaves out rows that the dataset itself marks as wrong: `correctness_math_verify` (unless
            `correctness_llama` is true), and `right: false` from a sample stage. The log counts them.
        answer_tags: Puts the final text into `<answer>` tags, as R1-Zero's prompt requires.
        per_prompt: Maximum number of generations of a problem, from the first on. Default: all.
        on_unknown: How to handle rows of an unknown format: `"fail"` lists them, `"skip"` leaves them out and counts
            them in the log.

    Returns:
        Rows with `prompt` (messages if there are several turns), `completion` (`<think>\\n...\\n</think>\\n\\n...`),
            `answer` (None if the dataset has none) and `task` (`traces`). OpenR1 generations that are truncated in
            their thinking, or that close it twice, are left out and counted in the log.

    >>> import json, tempfile
    >>> row = {"instruction": "2+2?", "response": "<Thought>\\nTwo pairs.\\n</Thought>\\n<Output>\\n4\\n</Output>"}
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write(json.dumps(row))
    ...     file.flush()
    ...     traces(path=file.name, answer_tags=True)[0]["completion"]
    '<think>\\nTwo pairs.\\n</think>\\n\\n<answer>\\n4\\n</answer>'
    """
    if on_unknown not in ("fail", "skip"):
        raise UserError(f"traces: on_unknown: {on_unknown!r} is not fail or skip")
    counts = Counter()

    def convert(row: dict) -> list[dict]:
        try:
            return converted_row(row)
        except ValueError:
            if on_unknown == "fail":
                raise
            counts["of an unknown form"] += 1
            return []

    def converted_row(row: dict) -> list[dict]:
        prompt, found = _prompt_and_turns(row)
        made = []
        for turn, whole, right in found:
            if not whole:
                counts["truncated"] += 1
            elif right is False and right_only:
                counts["wrong"] += 1
            else:
                completion = _completion(turn, answer_tags)
                answer = row.get("answer")
                answer = None if answer is None else str(answer)
                made.append({"prompt": prompt, "completion": completion, "answer": answer, "task": "traces"})
        return made[:per_prompt]

    made = [row for of_one in converted(path, split, convert, config=config) for row in of_one]
    if counts:
        left_out = ", ".join(f"{count} {what}" for what, count in counts.items())
        logger.warning("%s: left out %s; %d traces are kept", path, left_out, len(made))
    return draw(made, size, seed)


def _prompt_and_turns(row: dict) -> tuple[str | list[dict], list[tuple[str, bool, bool | None]]]:
    """The prompt of a row, and its responses: text, whether it is complete, whether it is correct (None: unknown)."""
    if row.get("generations"):
        return first_of(row, "problem", "prompt"), list(_generations(row))
    right = row.get("right")
    for thinking, final in _APART:
        if row.get(thinking) and row.get(final):
            made = shapes.shaped(
                {"prompt": first_of(row, "question"), "thinking": row[thinking], "completion": row[final]}
            )
            return made["prompt"], [(made["completion"], True, right)]
    if row.get("completion"):
        made = shapes.shaped({key: row[key] for key in ("prompt", "thinking", "completion") if row.get(key)})
        return first_of(made, "prompt"), [(made["completion"], True, right)]
    if row.get("response"):
        return first_of(row, "instruction"), [(row["response"], True, right)]
    listed = first_of(row, "messages", "conversations", "completion")
    if not isinstance(listed, list) or not all(isinstance(message, dict) for message in listed):
        raise ValueError("messages: should be a list of objects with `role` and `content`")
    messages = shapes.messages(listed, "messages")
    messages = [message for message in messages if message["role"] != "system"]
    if [message["role"] for message in messages] != ["user", "assistant"] * (len(messages) // 2) or not messages:
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(f"messages: should alternate between user and assistant, not {roles or 'empty'}")
    *before, last = messages
    return before[0]["content"] if len(before) == 1 else before, [(shapes.answer(last), True, right)]


def _generations(row: dict) -> Iterator[tuple[str, bool, bool | None]]:
    n = len(row["generations"])
    whole = row.get("is_reasoning_complete") or [True] * n
    marks = [row[key] for key in ("correctness_math_verify", "correctness_llama") if row.get(key)]
    if any(len(given) != n for given in (whole, *marks)):
        raise ValueError(f"generations: {n} of them, but a different number of marks")
    for i, text in enumerate(row["generations"]):
        known = [mark[i] for mark in marks if mark[i] is not None]
        yield text, bool(whole[i]) and str(text).count("</think>") == 1, any(known) if known else None


def _completion(turn: str, answer_tags: bool) -> str:
    if not isinstance(turn, str):
        raise ValueError("the assistant's response is not text")
    found = next(filter(None, (form.fullmatch(turn.strip()) for form in _FORMS)), None)
    if not found or not found[1].strip() or not found[2].strip():
        raise ValueError(f"no thinking and final text in any of the known tags: {' '.join(turn.split())[:60]!r}")
    thinking, final = found[1].strip(), found[2].strip()
    if answer_tags:
        inside = _ANSWER.fullmatch(final)
        final = f"<answer>\n{inside[1].strip() if inside else final}\n</answer>"
    return f"<think>\n{thinking}\n</think>\n\n{final}"
