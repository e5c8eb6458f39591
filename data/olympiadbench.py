"""OlympiadBench: problems of mathematical olympiads whose final answer a rule can check."""

from typing import Literal

from r1lab.data.evaluation import evaluation_only, without_none
from r1lab.data.rows import converted, draw, first_of

HUB, _CONFIG = "Hothan/OlympiadBench", "OE_TO_maths_en_COMP"


def olympiadbench(
    *, path: str = HUB, split: Literal["test"] = "test", size: int | None = None, seed: int = 0
) -> list[dict]:
    """Olympiad problems in English text with final answers (OlympiadBench, arXiv:2402.14008), for evaluation only.

    This is the part that evaluations of reasoning models use: open-ended, text only, mathematics, English,
    competitions.

    Args:
        path: The dataset on the Hub, or a file with its columns.
        split: `"test"`: the set has no training split (the Hub calls this set `train`).
        size: Maximum number of rows, sampled by `seed`. Default: all.

    Returns:
        Rows with `prompt`, `answer` (LaTeX; several answers are separated by commas and count in any order), `task`
            (`olympiadbench/algebra`), `subject` (Algebra, Combinatorics, Geometry, Number Theory) and `solution`. A
            problem whose answer is correct within a tolerance of its own (the column `error`) is left out and counted
            in the log, because the reward `accuracy` compares exactly.

    >>> import json, tempfile
    >>> row = {"question": "x^2 = 1?", "final_answer": ["$1$,$-1$"], "subfield": "Algebra", "unit": None}
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
    ...     _ = file.write(json.dumps(row))
    ...     file.flush()
    ...     row = olympiadbench(path=file.name)[0]
    >>> row["answer"], row["task"]
    ('$1$,$-1$', 'olympiadbench/algebra')
    """
    evaluation_only("olympiadbench", split, instead="math")
    found = converted(path, "train" if path == HUB else "test", _row, config=_CONFIG)
    found = without_none(found, path, "are correct within a tolerance, which the reward accuracy does not support")
    return draw(found, size, seed)


def _row(row: dict) -> dict | None:
    answers, subject, solutions = first_of(row, "final_answer"), row.get("subfield"), row.get("solution")
    if row.get("error"):
        return None
    return {
        "prompt": "\n\n".join(text.strip() for text in (row.get("context"), first_of(row, "question")) if text),
        "answer": answers if isinstance(answers, str) else ", ".join(answers),
        "task": f"olympiadbench/{subject.lower().replace(' ', '_')}" if subject else "olympiadbench",
        "subject": subject,
        "solution": "\n\n".join(solutions) if isinstance(solutions, list) else solutions,
    }
