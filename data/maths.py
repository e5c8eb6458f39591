"""GSM8K, SVAMP, MATH, AIME and AMC: mathematics problems with answers that a rule can check."""

import logging
import re
from pathlib import Path
from typing import Literal

from r1lab.data.evaluation import evaluation_only, without_none
from r1lab.data.rows import converted, draw, first_of, is_local
from r1lab.errors import UserError
from r1lab.grading.boxes import last_boxed
from r1lab.text import did_you_mean

MATH, MATH_500 = "DigitalLearningGmbH/MATH-lighteval", "HuggingFaceH4/MATH-500"
SUBJECTS = (
    "Algebra", "Counting & Probability", "Geometry", "Intermediate Algebra", "Number Theory", "Prealgebra",
    "Precalculus",
)  # fmt: skip
AIME = {
    2022: "AI-MO/aimo-validation-aime",
    2023: "AI-MO/aimo-validation-aime",
    2024: "HuggingFaceH4/aime_2024",
    2025: "math-ai/aime25",
}
AMC = "math-ai/amc23"
SVAMP = "ChilleD/SVAMP"
_TRAIN_ONLY = {"HuggingFaceH4/aime_2024", "AI-MO/aimo-validation-aime", "AI-MO/aimo-validation-amc"}
"""Evaluation sets whose split on the Hub is called train."""

_CALCULATED = re.compile(r"<<[^<>]*>>")
_YEAR = re.compile(r"\b((?:19|20)\d\d)\b|\b((?:19|20)\d\d)_(?:AIME|AMC)", re.ASCII)
_NAMED_YEAR = re.compile(r"(?:aime|amc)[_-]?(?:20)?(\d\d)", re.IGNORECASE)

logger = logging.getLogger(__name__)


def gsm8k(
    *, path: str = "openai/gsm8k", split: Literal["train", "test"] = "train", size: int | None = None, seed: int = 0
) -> list[dict]:
    """Grade-school word problems with whole-number answers (GSM8K, arXiv:2110.14168).

    Args:
        path: A dataset on the Hub, a folder with `train.jsonl` and `test.jsonl`, or a file.
        split: `"train"` (7,473 problems) or `"test"` (1,319).
        size: Maximum number of rows, sampled by `seed`. Default: all.

    Returns:
        Rows with `prompt`, `answer` (the number after `####`, without thousands separators), `task` (`gsm8k`) and
        `solution` (the worked solution, without the calculator's `<<...>>`).

    >>> import json, tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write(json.dumps({"question": "1k twice?", "answer": "1 + 1 = <<1+1=2>>2k\\n#### 2,000"}))
    ...     file.flush()
    ...     gsm8k(path=file.name)
    [{'prompt': '1k twice?', 'answer': '2000', 'task': 'gsm8k', 'solution': '1 + 1 = 2k'}]
    """

    def convert(row: dict) -> dict:
        solution, hashes, answer = first_of(row, "answer").rpartition("####")
        if not hashes:
            raise ValueError("answer: no #### before the number")
        return {
            "prompt": first_of(row, "question").strip(),
            "answer": answer.strip().replace(",", ""),
            "task": "gsm8k",
            "solution": _CALCULATED.sub("", solution).strip(),
        }

    return draw(converted(path, split, convert, config="main"), size, seed)


def svamp(*, path: str = SVAMP, split: Literal["test"] = "test", size: int | None = None, seed: int = 0) -> list[dict]:
    """Grade-school word problems reworded so that a shallow reading fails (SVAMP, arXiv:2103.07191), for evaluation.

    Args:
        path: The dataset on the Hub, or a file with its columns (`Body`, `Question`, `Answer`).
        split: `"test"`: the set has no training split.
        size: Maximum number of rows, sampled by `seed`. Default: all.

    Returns:
        Rows with `prompt`, `answer` (`145.0` in the files is `145`) and `task` (`svamp`).

    >>> import json, tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write(json.dumps({"Body": "Ed has 9 pens and loses 2", "Question": "How many?", "Answer": 7.0}))
    ...     file.flush()
    ...     svamp(path=file.name)
    [{'prompt': 'Ed has 9 pens and loses 2. How many?', 'answer': '7', 'task': 'svamp'}]
    """
    evaluation_only("svamp", split, instead="gsm8k")

    def convert(row: dict) -> dict:
        body, question = first_of(row, "Body").strip(), first_of(row, "Question").strip()
        answer = str(first_of(row, "Answer"))
        stop = "" if body.endswith((".", "!", "?", ",", ";", ":")) else "."
        return {"prompt": f"{body}{stop} {question}", "answer": _whole(answer) or answer, "task": "svamp"}

    return draw(converted(path, "test", convert), size, seed)


def math(
    *,
    path: str = MATH,
    split: Literal["train", "test"] = "train",
    size: int | None = None,
    seed: int = 0,
    levels: list[int] | None = None,
    subjects: list[str] | None = None,
    without: str | None = None,
) -> list[dict]:
    """Competition problems in five levels (MATH, arXiv:2103.03874); the test split is MATH-500 (arXiv:2305.20050).

    Args:
        path: A dataset on the Hub, a file, or a folder with a file for each split. A file may have answers instead of
            solutions.
        split: `"train"`: MATH's training problems. `"test"`: MATH-500, for the default path.
        size: Maximum number of rows, sampled by `seed`. Default: all.
        levels: Only these levels, 1 (easy) to 5.
        subjects: Only these, of Algebra, Counting & Probability, Geometry, Intermediate Algebra, Number Theory,
            Prealgebra, Precalculus.
        without: A set whose problems are removed from train, compared by text. Default: MATH-500 on the Hub if `path`
            is on the Hub; none if it is a local file, so set it there.

    Returns:
        Rows with `prompt`, `answer` (LaTeX), `task` (`math/level3`; `math` if the level is unknown), `level`,
            `subject`, and `solution` (None if the file has none). The level is the file's `level`, or else its
            `difficulty` if that is a whole number from 1 to 5: in rllm's `train_math.json` it is MATH's level, judging
            by the counts of each level and the two problems that have none; rllm's other files use other scales.
            Problems without an answer are left out and counted in the log.

    >>> import json, tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     row = {"problem": "1/2+1/2?", "solution": "$\\\\boxed{1}$", "level": "Level 1", "type": "Prealgebra"}
    ...     _ = file.write(json.dumps(row))
    ...     file.flush()
    ...     row = math(path=file.name, levels=[1])[0]
    >>> row["answer"], row["task"], row["subject"]
    ('1', 'math/level1', 'Prealgebra')
    """
    for name in subjects or []:
        if name not in SUBJECTS:
            raise UserError(
                f"math: subjects: {name!r}{did_you_mean(name, SUBJECTS)}; there are: {', '.join(SUBJECTS)}"
            )
    if levels and set(levels) - {1, 2, 3, 4, 5}:
        raise UserError(f"math: levels: {levels}: should be a list of numbers from 1 to 5")
    if split == "test" and path == MATH:
        path = MATH_500
    found = converted(path, split, _math_row)
    answered = [row for row in found if row["answer"] is not None]
    if len(answered) < len(found):
        logger.warning(
            "%s: left out %d of %d problems, which have no answer", path, len(found) - len(answered), len(found)
        )
    if split == "train" and (without or not is_local(path)):
        held_out = {_text(row["prompt"]) for row in converted(without or MATH_500, "test", _math_row)}
        answered = [row for row in answered if _text(row["prompt"]) not in held_out]
    wanted = [
        row
        for row in answered
        if (not levels or row["level"] in levels) and (not subjects or row["subject"] in subjects)
    ]
    return draw(wanted, size, seed)


def aime(
    *,
    path: str = AIME[2024],
    split: Literal["test"] = "test",
    size: int | None = None,
    seed: int = 0,
    years: int | list[int] | None = None,
) -> list[dict]:
    """Problems of the American Invitational Mathematics Examination, for evaluation only.

    Args:
        path: A dataset on the Hub, a file, or a folder of files called `aime*.jsonl`.
        split: `"test"`: the set has no training split.
        size: Maximum number of rows, sampled by `seed`. Default: all.
        years: Only these years. With the default path, each year from 2022 to 2025 is downloaded from its own set, and
            the default is 2024; otherwise the default is all years in the file. The year is that of the column `year`,
            or else of the problem's link or id, or of a name such as `aime25`.

    Returns:
        Rows with `prompt`, `answer` (a whole number, without leading zeros), `task` (`aime/2024`; `aime` if the year
            is unknown) and `year`. A problem whose answer is not a single whole number is left out and counted in the
            log.

    >>> aime(split="train")
    Traceback (most recent call last):
    r1lab.errors.UserError: aime: split: 'train': this is an evaluation set, with test only; train on math or gsm8k
    """
    wanted = None if years is None else [years] if isinstance(years, int) else list(years)
    paths = [path]
    if wanted and path == AIME[2024]:
        if unknown := [year for year in wanted if year not in AIME]:
            have = ", ".join(map(str, AIME))
            raise UserError(f"aime: years: no set known for {unknown[0]}; there are {have}; name a file with path")
        paths = list(dict.fromkeys(AIME[year] for year in wanted))
    found = [row for path in paths for row in _contest("aime", path, split)]
    if wanted:
        if any(row["year"] is None for row in found):
            raise UserError(f"aime: years: {path} does not say the year of its problems: leave years out")
        found = [row for row in found if row["year"] in wanted]
    return draw(found, size, seed)


def amc(*, path: str = AMC, split: Literal["test"] = "test", size: int | None = None, seed: int = 0) -> list[dict]:
    """Problems of the American Mathematics Competitions without their options, for evaluation only.

    Args:
        path: A dataset on the Hub, a file, or a folder of files called `amc*.jsonl`.
        split: `"test"`: the set has no training split.
        size: Maximum number of rows, sampled by `seed`. Default: all.

    Returns:
        Rows with `prompt`, `answer` (a whole number: `27.0` in the files is `27`), `task` (`amc/2023`; `amc` if the
            year is unknown) and `year`.

    >>> import json, tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write(json.dumps({"problem": "13 + 14?", "answer": 27.0, "url": "x/2023_AMC_12A_Problems/1"}))
    ...     file.flush()
    ...     amc(path=file.name)
    [{'prompt': '13 + 14?', 'answer': '27', 'task': 'amc/2023', 'year': 2023}]
    """
    return draw(_contest("amc", path, split), size, seed)


def _math_row(row: dict) -> dict:
    answer = row.get("answer")
    if answer in (None, "") and row.get("solution"):
        answer = last_boxed(row["solution"])
    level = _level(row["level"] if row.get("level") is not None else row.get("difficulty"))
    return {
        "prompt": first_of(row, "problem").strip(),
        "answer": None if answer in (None, "") else str(answer),
        "task": f"math/level{level}" if level else "math",
        "level": level,
        "subject": row.get("subject") or row.get("type"),
        "solution": row.get("solution"),
    }


def _level(value: object) -> int | None:
    """`3` for 3, 3.0 and "Level 3"; None for anything else, such as "Level ?"."""
    found = re.fullmatch(r"(?:Level )?([1-5])(?:\.0)?", str(value))
    return int(found[1]) if found else None


def _text(prompt: str) -> str:
    return " ".join(prompt.split())


def _contest(name: str, path: str, split: str) -> list[dict]:
    evaluation_only(name, split, instead="math or gsm8k")
    place = Path(path).expanduser()
    files = sorted(map(str, place.glob(f"{name}*.jsonl"))) if place.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: no {name}*.jsonl in this folder: name a file")
    found = []
    for file in files:
        named = _NAMED_YEAR.fullmatch(Path(file).stem)

        def convert(row: dict, year=named and 2000 + int(named[1])) -> dict | None:
            answer = _whole(row.get("answer") or last_boxed(str(row.get("solution"))) or first_of(row, "answer"))
            prompt, year = first_of(row, "problem", "question").strip(), _year(row) or year
            task = f"{name}/{year}" if year else name
            return {"prompt": prompt, "answer": answer, "task": task, "year": year} if answer else None

        found += converted(file, "train" if file in _TRAIN_ONLY else "test", convert)
    return without_none(found, path, "do not have a single whole number as the answer")


def _whole(answer: object) -> str | None:
    """A whole number without decimal point, degrees and leading zeros; None for anything else.

    >>> _whole("025"), _whole(27.0), _whole(r"336^\\circ"), _whole("080 or 081")
    ('25', '27', '336', None)
    """
    found = re.fullmatch(r"(-?\d+)(?:\.0+)?", str(answer).replace(r"^\circ", "").strip("$ "))
    return str(int(found[1])) if found else None


def _year(row: dict) -> int | None:
    """The year in a row, or in its link or id."""
    for value in (row.get("year"), row.get("url"), row.get("id")):
        if found := _YEAR.search(str(value)):
            return int(found[1] or found[2])
    return None
