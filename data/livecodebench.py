"""LiveCodeBench: problems from programming contests, with their dates."""

import base64
import binascii
import json
import pickletools
import zlib
from datetime import date
from typing import Literal

from r1lab.data.evaluation import evaluation_only
from r1lab.data.rows import convert_all, converted, draw, first_of
from r1lab.errors import UserError

HUB = "lighteval/code_generation_lite"
_FUNCTION = (
    "Complete the code below. Answer with the whole program, with the imports that it needs, in one code block "
    "marked as Python.\n\n```python\n{}\n```"
)
_PROGRAM = (
    "Write a Python program that reads the input from standard input and prints the answer to standard output. Answer "
    "with the whole program in one code block marked as Python."
)
# The contents of a pickle of one text.
_TEXT = {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_AROUND_TEXT = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}


def livecodebench(
    *,
    path: str = HUB,
    split: Literal["test"] = "test",
    size: int | None = None,
    seed: int = 0,
    subset: str = "v6",
    since: str | None = None,
    before: str | None = None,
    difficulties: list[str] | None = None,
) -> list[dict]:
    """Problems from LeetCode, AtCoder and Codeforces with hidden tests (LiveCodeBench, arXiv:2403.07974).

    For evaluation only. Contests are dated: set `since` to evaluate a model on problems newer than its training data.
    The hidden tests are unpacked only for the sampled rows, because all of them are gigabytes.

    Args:
        path: A dataset on the Hub with the columns of `livecodebench/code_generation_lite` and a configuration for
            each subset (the set itself has a loading script, which `datasets` no longer runs), or a file: one of the
            set's own `test.jsonl` to `test6.jsonl`.
        split: `"test"`: the set has no training split.
        size: Maximum number of rows, sampled by `seed`. Default: all.
        subset: For the Hub: the problems that a version added (`v1` to `v6`), or all up to it (`release_v1` to
            `release_v6`).
        since: Only contests on or after this day, such as `2024-08-01`.
        before: Only contests before this day.
        difficulties: Only these, of easy, medium, hard.

    Returns:
        Rows with `prompt`, `answer` (None: the set has no programs), `task` (`livecodebench/easy`), `tests` (JSON, the
        public and the hidden ones, for the reward `code` with `mode: all`), `date` and `id`.

    >>> import tempfile
    >>> row = {"question_title": "Sum", "question_content": "Add two numbers.", "contest_date": "2025-01-04T00:00:00"}
    >>> row |= {"difficulty": "easy", "public_test_cases": '[{"input": "1 2", "output": "3", "testtype": "stdin"}]'}
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write(json.dumps(row))
    ...     file.flush()
    ...     row = livecodebench(path=file.name, since="2025-01-01")[0]
    >>> row["task"], row["tests"]
    ('livecodebench/easy', '[{"input": "1 2", "output": "3"}]')
    """
    evaluation_only("livecodebench", split, instead="other problems")
    first, end = _day("since", since), _day("before", before)
    unknown = set(difficulties or []) - {"easy", "medium", "hard"}
    if unknown:
        raise UserError(f"livecodebench: difficulties: {sorted(unknown)[0]!r}: there are easy, medium, hard")

    def wanted(row: dict) -> tuple[str, dict] | None:
        day = str(first_of(row, "contest_date"))[:10]  # a day, a time, or either as a datetime of a parquet file
        inside = (not first or day >= first) and (not end or day < end)
        if not inside or (difficulties and row.get("difficulty") not in difficulties):
            return None
        return f"{path}: {row.get('question_id') or row.get('question_title')}", row

    found = [row for row in converted(path, "test", wanted, config=subset) if row]
    return convert_all(draw(found, size, seed), _row)


def _day(name: str, text: str | None) -> str | None:
    try:
        return None if text is None else date.fromisoformat(str(text)).isoformat()
    except ValueError as error:
        raise UserError(f"livecodebench: {name}: {text!r} is not a day such as 2024-08-01") from error


def _row(row: dict) -> dict:
    function = json.loads(row.get("metadata") or "{}").get("func_name")
    cases = json.loads(first_of(row, "public_test_cases")) + _hidden(row.get("private_test_cases"))
    starter = (row.get("starter_code") or "").strip("\n")
    question, difficulty = first_of(row, "question_content").strip(), row.get("difficulty")
    return {
        "prompt": f"{question}\n\n{_FUNCTION.format(starter) if starter else _PROGRAM}",
        "answer": None,
        "task": f"livecodebench/{difficulty}" if difficulty else "livecodebench",
        "tests": json.dumps([_test(case, function) for case in cases]),
        "date": str(row["contest_date"])[:10],
        "id": row.get("question_id"),
    }


def _test(case: dict, function: str | None) -> dict:
    if case.get("testtype") != "functional":
        return {"input": case["input"], "output": case["output"]}
    if not function:
        raise ValueError("metadata: no func_name for a test that calls a function")
    args = [json.loads(line) for line in case["input"].split("\n") if line.strip()]
    return {"function": function, "args": args, "output": json.loads(case["output"])}


def _hidden(packed: str | None) -> list[dict]:
    """The hidden tests: plain JSON, or base64 of zlib of a pickle of its text.

    Raises:
        ValueError: It is neither of these, or the pickle has something other than one text.
    """
    if not packed:
        return []
    if packed.lstrip().startswith("["):
        return json.loads(packed)
    try:
        pickled = zlib.decompress(base64.b64decode(packed))
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"private_test_cases: cannot be unpacked: {error}") from error
    # A pickle is a program, and this one comes from the Hub. It is parsed, not run.
    steps = [(step.name, value) for step, value, _ in pickletools.genops(pickled)]
    refused = [name for name, _ in steps if name not in _TEXT | _AROUND_TEXT]
    texts = [value for name, value in steps if name in _TEXT and isinstance(value, str)]
    if refused or len(texts) != 1:
        raise ValueError(f"private_test_cases: a pickle of something other than text ({', '.join(refused[:3])})")
    return json.loads(texts[0])
