"""Logic-RL's own Knights-and-Knaves files."""

import random
from pathlib import Path

from r1lab.errors import UserError


def logic_rl(
    *,
    path: str,
    split: str = "train",
    people: int | list[int] = (3, 4, 5, 6, 7),
    size: int | None = None,
    seed: int = 0,
) -> list[dict]:
    """The puzzles that Logic-RL (arXiv:2502.14768) trains and tests on, from its parquet files.

    Args:
        path: The folder that holds `3ppl/train.parquet`, `3ppl/test.parquet`, ...
        people: Which numbers of people.
        size: Take so many, drawn at random by `seed`; all by default.

    Returns:
        Rows with `prompt` (the puzzle), `answer` (`(1) Zoey is a knight\\n...`), `task`, `names`, `statements`. The
        chat prompt in the files, template and all, is left out: `prompt: {template: logic-rl}` writes it anew.

    >>> logic_rl(path="nowhere", people=3)
    Traceback (most recent call last):
    r1lab.errors.UserError: nowhere/3ppl/train.parquet: no such file
    """
    import pyarrow.parquet

    found = []
    for n in [people] if isinstance(people, int) else people:
        file = Path(path) / f"{n}ppl" / f"{split}.parquet"
        if not file.is_file():
            raise UserError(f"{file}: no such file")
        columns = ["quiz", "solution_text_format", "names", "statements"]
        for row in pyarrow.parquet.read_table(file, columns=columns).to_pylist():
            found.append(
                {
                    "prompt": row["quiz"],
                    "answer": row["solution_text_format"],
                    "task": f"knights_knaves/{n}ppl",
                    "names": row["names"],
                    "statements": row["statements"],
                }
            )
    if size is not None:
        if size > len(found):
            raise UserError(f"logic_rl: size: {size} rows asked for, {len(found)} are there")
        found = random.Random(seed).sample(found, size)
    return found
