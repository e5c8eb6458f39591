"""MMLU: multiple-choice questions on 57 subjects from school, university and professions."""

from typing import Literal

from r1lab.data.evaluation import evaluation_only
from r1lab.data.gpqa import lettered
from r1lab.data.rows import converted, draw, first_of
from r1lab.errors import UserError
from r1lab.text import did_you_mean

HUB = "cais/mmlu"


def mmlu(
    *,
    path: str = HUB,
    split: Literal["test"] = "test",
    size: int | None = None,
    seed: int = 0,
    subjects: list[str] | None = None,
) -> list[dict]:
    """Questions with four options each (MMLU, arXiv:2009.03300), for evaluation only.

    Args:
        path: The dataset on the Hub, or a file with its columns.
        split: `"test"`: the set has no training split.
        size: Maximum number of rows, sampled by `seed`. Default: all.
        subjects: Only these, in the file's spelling: `high_school_physics`.

    Returns:
        Rows with `prompt` (the question and its options A to D), `answer` (the letter), `task`
        (`mmlu/high_school_physics`), `choices` (the options' texts, A first) and `subject`. For the reward `choice`.

    >>> import json, tempfile
    >>> row = {"question": "2+2?", "subject": "elementary_mathematics", "choices": ["3", "4", "5", "6"], "answer": 1}
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write(json.dumps(row))
    ...     file.flush()
    ...     row = mmlu(path=file.name)[0]
    >>> row["answer"], row["task"], row["prompt"].splitlines()[2:4]
    ('B', 'mmlu/elementary_mathematics', ['A) 3', 'B) 4'])
    """
    evaluation_only("mmlu", split, instead="other questions")
    found = converted(path, "test", _row, config="all")
    if subjects:
        have = sorted({row["subject"] for row in found if row["subject"]})
        for name in subjects:
            if name not in have:
                hint = did_you_mean(name, have, otherwise=f"; there are: {', '.join(have)}")
                raise UserError(f"mmlu: subjects: {name!r}{hint}")
        found = [row for row in found if row["subject"] in subjects]
    return draw(found, size, seed)


def _row(row: dict) -> dict:
    choices = [str(text).strip() for text in first_of(row, "choices")]
    right, subject = first_of(row, "answer"), row.get("subject")
    if right not in range(len(choices)):
        raise ValueError(f"answer: {right!r} is not the number of an option, counted from 0")
    return {
        "prompt": lettered(first_of(row, "question"), choices),
        "answer": chr(ord("A") + right),
        "task": f"mmlu/{subject}" if subject else "mmlu",
        "choices": choices,
        "subject": subject,
    }
