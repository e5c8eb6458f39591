"""Logic-RL's own Knights-and-Knaves files."""

from pathlib import Path
from typing import Literal

from r1lab.data.rows import draw, parquet
from r1lab.errors import UserError
from r1lab.text import did_you_mean_path

_COLUMNS = ["quiz", "solution_text_format", "names", "statements"]


def logic_rl(
    *,
    path: str,
    split: Literal["train", "test"] = "train",
    people: int | list[int] | tuple[int, ...] = (3, 4, 5, 6, 7),
    size: int | None = None,
    seed: int = 0,
) -> list[dict]:
    """The puzzles on which Logic-RL (arXiv:2502.14768) trains and tests, from its parquet files.

    Args:
        path: The folder with `3ppl/train.parquet`, `3ppl/test.parquet`, ...: `data/kk/instruct` of Logic-RL.
        split: `"train"` (900 puzzles for each number of people) or `"test"` (100).
        people: The numbers of people to include.
        size: Maximum number of rows, sampled by `seed`. Default: all, fewest people first.

    Returns:
        Rows with `prompt` (the puzzle), `answer` (`(1) Zoey is a knight\\n...`), `task` (`knights_knaves/3ppl`),
            `names`, `statements` (as text). The chat prompt of the files with its template is left out: `prompt:
            {template: logic-rl}` adds it again.

    Raises:
        UserError: A file is missing or is not one of Logic-RL's.

    >>> logic_rl(path="nowhere", people=3)
    Traceback (most recent call last):
    r1lab.errors.UserError: nowhere: no such folder; it should hold 3ppl/train.parquet
    """
    if split not in ("train", "test"):
        raise UserError(f"logic_rl: split: {split!r} is not train or test")
    folder = Path(path).expanduser()
    counts = [people] if isinstance(people, int) else list(people)
    files = {n: folder / f"{n}ppl" / f"{split}.parquet" for n in counts}
    missing = [n for n, file in files.items() if not file.is_file()]
    if missing:
        raise UserError(_missing(folder, split, missing))
    found = []
    for n, file in files.items():
        for row in parquet(file, _COLUMNS):
            found.append(
                {
                    "prompt": row["quiz"],
                    "answer": row["solution_text_format"],
                    "task": f"knights_knaves/{n}ppl",
                    "names": row["names"],
                    "statements": row["statements"],
                }
            )
    return draw(found, size, seed)


def _missing(folder: Path, split: str, missing: list[int]) -> str:
    if not folder.is_dir():
        hint = did_you_mean_path(folder)
        return f"{folder}: no such folder{hint}; it should hold {missing[0]}ppl/{split}.parquet"
    if (folder / "instruct").is_dir():
        return f"{folder}: no {missing[0]}ppl/{split}.parquet in it; did you mean {folder / 'instruct'}?"
    have = sorted(file.parent.name.removesuffix("ppl") for file in folder.glob(f"*ppl/{split}.parquet"))
    there = f"there are files for {', '.join(have)} people" if have else "it has no such files"
    return f"{folder}: no {', '.join(f'{n}ppl/{split}.parquet' for n in missing)} in it; {there}"
