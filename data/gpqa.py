"""GPQA: questions of biology, physics and chemistry that are hard to search for, with four options each."""

import csv
import random
import string
from pathlib import Path
from typing import Literal

from r1lab.data.evaluation import evaluation_only
from r1lab.data.rows import convert_all, converted, draw, first_of, is_local
from r1lab.errors import UserError
from r1lab.text import did_you_mean_path

HUB = "Idavidrein/gpqa"
_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def gpqa(
    *,
    path: str = HUB,
    split: Literal["test"] = "test",
    size: int | None = None,
    seed: int = 0,
    subset: Literal["diamond", "main", "extended"] = "diamond",
) -> list[dict]:
    """Graduate-level multiple choice (GPQA, arXiv:2311.12022), for evaluation only.

    The set is gated: its authors ask not to publish the questions. None of them is in this repository.

    Args:
        path: The dataset on the Hub, or a local `.csv`, `.jsonl` or `.parquet` file with its columns.
        split: `"test"`: the set has no training split.
        size: Maximum number of rows, sampled by `seed`. Default: all.
        seed: Also determines the order of a question's options.
        subset: Which of the Hub's sets: 198, 448 or 546 questions. A local file is used as a whole.

    Returns:
        Rows with `prompt` (the question and its options A to D), `answer` (the letter), `task` (`gpqa/diamond`; `gpqa`
            for a file), `choices` (the options' texts, A first) and `subject`. For the reward `choice`.

    >>> import json, tempfile
    >>> row = {"Question": "2+2?", "Correct Answer": "4"} | {f"Incorrect Answer {n}": str(n) for n in (1, 2, 3)}
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write(json.dumps(row))
    ...     file.flush()
    ...     row = gpqa(path=file.name)[0]
    >>> row["choices"]["ABCD".index(row["answer"])]
    '4'
    """
    evaluation_only("gpqa", split, instead="other questions")
    task = "gpqa" if is_local(path) else f"gpqa/{subset}"

    def convert(row: dict) -> dict:
        question, right = first_of(row, "Question").strip(), first_of(row, _OPTIONS[0])
        choices = [str(first_of(row, option)).strip() for option in _OPTIONS]
        random.Random(f"gpqa/{seed}/{question}").shuffle(choices)
        return {
            "prompt": lettered(question, choices),
            "answer": "ABCD"[choices.index(str(right).strip())],
            "task": task,
            "choices": choices,
            "subject": row.get("High-level domain"),
        }

    if Path(path).suffix == ".csv":
        return draw(convert_all(_csv(path), convert), size, seed)
    try:
        found = converted(path, "train", convert, config=f"gpqa_{subset}")
    except UserError as error:
        if "gated" not in str(error) and "authenticated" not in str(error):
            raise
        where = f"https://huggingface.co/datasets/{path}"
        raise UserError(f"{path}: this set is gated: accept its terms at {where}, then type: hf auth login") from error
    return draw(found, size, seed)


def lettered(question: str, choices: list[str]) -> str:
    """The prompt of a multiple-choice question: its text, the options with letters, and the required answer."""
    listed = "\n".join(f"{letter}) {text}" for letter, text in zip(string.ascii_uppercase, choices))
    return f"{question.strip()}\n\n{listed}\n\nAnswer with the letter of the right option."


def _csv(path: str) -> list[tuple[str, dict]]:
    place = Path(path).expanduser()
    if not place.is_file():
        hint = did_you_mean_path(path, lambda file: file.suffix == ".csv")
        raise UserError(f"{path}: no such file or folder{hint}")
    with place.open(encoding="utf-8-sig", newline="") as file:
        return [(f"{path}:{number}", row) for number, row in enumerate(csv.DictReader(file), 1)]
