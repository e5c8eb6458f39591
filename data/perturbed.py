"""Perturbed twins of Knights-and-Knaves puzzles: a model that has learned to reason also solves the twins.

The kinds are those of Xie et al., On Memorization of LLMs in Logical Reasoning (arXiv:2410.23123, section 2.2).
"""

import ast
import json
import logging
import random
import re
from pathlib import Path
from typing import Literal, get_args

from r1lab.data.kk_solutions import claim
from r1lab.data.knights_knaves import (
    NAMES,
    OPENING,
    QUESTION,
    SAYINGS,
    answer_text,
    canonical,
    knights_knaves,
    solve,
    split_of,
)
from r1lab.data.logic_rl import logic_rl
from r1lab.data.rows import draw
from r1lab.errors import UserError
from r1lab.text import did_you_mean_path

logger = logging.getLogger(__name__)

Kind = Literal["statement", "leaf", "reorder_statement", "random_pair", "flip_role", "uncommon_name"]
TRIES = 1000  # random changes that are tried before a puzzle is considered to have no twin
UNCOMMON_NAMES = (
    "Aldous Anselm Araminta Barnaby Bathsheba Bertrand Calixta Casimir Clotilde Cressida Cuthbert Drusilla Eglantine "
    "Emeric Euphemia Faustina Galahad Ghislaine Godfrey Hesper Hildegard Horatio Isaura Jocasta Kasimira Lavinia "
    "Lucasta Maximilian Mordecai Narcissa Octavian Odalys Parthenope Philippa Quintus Rosamund Rowena Septimus "
    "Sidonie Tancred Thaddea Ursula Valentin Wilhelmina Wystan Xavia Yolanda Zebulon"
).split()
ROLES = (
    ("a pioneer", "a laggard"),
    ("a saint", "a sinner"),
    ("a hero", "a villain"),
    ("an angel", "a devil"),
    ("an altruist", "an egoist"),
    ("a sage", "a fool"),
)
_ROLE = re.compile(r"\b(?:(a) )?(knight|knave)", re.IGNORECASE)


def knights_knaves_perturbed(
    *,
    kind: Kind = "statement",
    split: Literal["train", "test"] = "train",
    size: int | None = None,
    seed: int = 0,
    people: int | list[int] | dict[int, int] | None = None,
    copies: int = 1,
    names: int = len(NAMES),
    sayings: int = len(SAYINGS),
    path: str | None = None,
    held_out: bool = True,
) -> list[dict]:
    """The twin of each puzzle from `knights_knaves` with the same parameters, or of each puzzle in files.

    The twins of the first two kinds have a different solution than the original, and only one. Unless `held_out` is
    false, their form is not in any training set: a test form of `knights_knaves`, or one that is not in the files.

    Args:
        kind: `"statement"`: one person's statement is replaced. `"leaf"`: one "X is a knight" in it is. The other
            kinds do not change the logic. `"reorder_statement"`: the people speak in another order. `"flip_role"`:
            knaves tell the truth, and knights lie. `"random_pair"`: other words for the two, such as saint and sinner,
            which `exact_match` can score and `knights_knaves` cannot. `"uncommon_name"`: rare names.
        split: `"train"` or `"test"`, for the originals.
        size: The number of originals.
        seed: For the originals and for their changes. A puzzle's twin does not depend on the other puzzles.
        people: The numbers of people of the originals. Default: as for `knights_knaves`, or those in the files.
        copies: As for `knights_knaves`, like `names` and `sayings`. Not for files.
        path: Use the originals in Logic-RL's folder (as `logic_rl` does), in a `.jsonl` file, or in the folder `data`
            of mem-kk-logic (its `{split}/clean/people*.jsonl`).
        held_out: False uses any twin, as published, even one that is in the training set.

    Returns:
        Rows as from `knights_knaves`, with the task `knights_knaves_{kind}/3ppl` and `original`: the prompt of the
            original. Puzzles of few people may have no such twin, especially a `leaf`: they are left out and counted
            in a warning.

    Raises:
        UserError: As for `knights_knaves` and `logic_rl`; or a file has other columns, or a puzzle other wording.

    >>> twin = knights_knaves_perturbed(kind="flip_role", people=2, size=1)[0]
    >>> twin["prompt"][:62], twin["task"]
    ('A very special island is inhabited only by knaves and knights.', 'knights_knaves_flip_role/2ppl')
    """
    if kind not in get_args(Kind):
        raise UserError(f"knights_knaves_perturbed: kind: {kind!r} is not one of {', '.join(get_args(Kind))}")
    place = None if path is None else Path(path).expanduser()
    if place is None:
        given = {"split": split, "size": size, "seed": seed, "people": (2, 3) if people is None else people}
        rows = knights_knaves(**given, copies=copies, names=names, sayings=sayings)
    else:
        rows = draw(_read(place, split, people), size, seed)
    seen = set()
    if place and held_out and kind in ("statement", "leaf"):
        known = _read(place, "train", people) + _read(place, "test", people)
        seen = {canonical(ast.literal_eval(row["statements"])) for row in known}

    def allowed(statements: tuple) -> bool:
        if not held_out:
            return True
        return canonical(statements) not in seen if place else split_of(statements) == "test"

    twins = [_twin(row, kind, random.Random(f"perturbed/{kind}/{seed}/{row['prompt']}"), allowed) for row in rows]
    found = [twin for twin in twins if twin]
    if len(found) < len(rows):
        logger.warning("%s: %d of %d puzzles have no such twin", kind, len(rows) - len(found), len(rows))
    return found


def _twin(row: dict, kind: str, rng: random.Random, allowed) -> dict | None:
    statements = ast.literal_eval(row["statements"])
    names: list[str] = list(row["names"])
    n = len(names)
    sayings, order, roles = _sayings(row["prompt"], statements, names), list(range(n)), None
    if kind in ("statement", "leaf"):
        statements = changed(statements, kind, rng, allowed)
        if statements is None:
            return None
    elif kind == "reorder_statement":
        while order == sorted(order):
            rng.shuffle(order)
    elif kind == "uncommon_name":
        names = rng.sample(UNCOMMON_NAMES, n)
    else:
        roles = ("a knave", "a knight") if kind == "flip_role" else rng.choice(ROLES)
    listed = ", ".join(names[:-1]) + f", and {names[-1]}"
    said = " ".join(sayings[i].format(name=names[i], claim=claim(statements[i], names)) for i in order)
    prompt = f"{OPENING}You meet {n} inhabitants: {listed}. {said} {QUESTION}"
    answer = answer_text(solve(statements)[0], names)
    return {
        "prompt": _with_roles(prompt, roles),
        "answer": _with_roles(answer, roles),
        "task": f"knights_knaves_{kind}/{n}ppl",
        "names": names,
        "statements": repr(statements),
        "original": row["prompt"],
    }


def changed(statements: tuple, kind: str, rng: random.Random, allowed=lambda statements: True) -> tuple | None:
    """A puzzle that differs in one statement or one leaf and has one, different solution; None if none is found.

    Args:
        kind: `"statement"` or `"leaf"`.
        allowed: Whether new statements may be used.

    Raises:
        ValueError: The puzzle does not have exactly one solution.

    >>> changed((("not", ("telling-truth", 1)), ("<=>", ("telling-truth", 1), ("lying", 0))), "leaf", random.Random(0))
    (('not', ('telling-truth', 1)), ('<=>', ('telling-truth', 1), ('telling-truth', 0)))
    """
    n = len(statements)
    given = solve(statements)
    if len(given) != 1:
        raise ValueError(f"a puzzle should have one solution, not {len(given)}: {statements}")
    for _ in range(TRIES):
        person = rng.randrange(n)
        # Nobody says "I am a knave", which neither a knight nor a knave can say.
        leaves = [(k, i) for k in ("telling-truth", "lying") for i in range(n) if (k, i) != ("lying", person)]
        new = _statement(leaves, rng) if kind == "statement" else _other_leaf(statements[person], leaves, rng)
        other = (*statements[:person], new, *statements[person + 1 :])
        solutions = solve(other)
        if len(solutions) == 1 and solutions != given and allowed(other):
            return other
    return None


def _statement(leaves: list[tuple], rng: random.Random) -> tuple:
    """A statement by the grammar of `knights_knaves`, its six forms equally likely."""
    form = rng.choice(["", "not", "and", "or", "->", "<=>"])
    parts = rng.sample(leaves, 2)
    return parts[0] if not form else (form, *parts[: 1 if form == "not" else 2])


def _other_leaf(statement: tuple, leaves: list[tuple], rng: random.Random) -> tuple:
    if isinstance(statement[1], int):
        return rng.choice(leaves)
    place = rng.randrange(1, len(statement))
    return (*statement[:place], rng.choice(leaves), *statement[place + 1 :])


def _sayings(prompt: str, statements: tuple, names: list[str]) -> list[str]:
    """How each person's statement is introduced in a prompt, as one of `SAYINGS`."""
    found, text = [], prompt.partition(" inhabitants: ")[2].partition(". ")[2]
    for name, statement in zip(names, statements):
        words = claim(statement, names)
        fits = [saying for saying in SAYINGS if text.startswith(saying.format(name=name, claim=words) + " ")]
        if not fits:
            break
        found.append(fits[0])
        text = text[len(fits[0].format(name=name, claim=words)) + 1 :]
    if text != QUESTION:
        raise UserError(f"knights_knaves_perturbed: a puzzle is not worded as Logic-RL's are: {prompt[:120]}...")
    return found


def _with_roles(text: str, roles: tuple[str, str] | None) -> str:
    """A text with other words for a knight and a knave, with the same case and number."""
    if roles is None:
        return text

    def other(found: re.Match) -> str:
        article, word = roles[found[2].lower() == "knave"].split()
        word = word.capitalize() if found[2][0].isupper() else word
        return f"{article} {word}" if found[1] else word

    return _ROLE.sub(other, text)


def _read(place: Path, split: Literal["train", "test"], people: int | list[int] | dict[int, int] | None) -> list[dict]:
    counts = None if people is None else [people] if isinstance(people, int) else list(people)
    clean = place / split / "clean"
    if place.suffix != ".jsonl" and not clean.is_dir():
        path = str(place)
        return logic_rl(path=path, split=split) if counts is None else logic_rl(path=path, split=split, people=counts)
    files = [place] if place.suffix == ".jsonl" else sorted(clean.glob("people*.jsonl"))
    rows = [row for file in files for row in _mem_kk_logic(file)]
    rows = [row for row in rows if counts is None or len(row["names"]) in counts]
    if not rows:
        raise UserError(f"{place}: no puzzles of {people} people in it")
    return rows


def _mem_kk_logic(file: Path) -> list[dict]:
    """The puzzles of a file of mem-kk-logic, as rows."""
    if not file.is_file():
        hint = did_you_mean_path(file, lambda other: other.suffix == ".jsonl")
        raise UserError(f"{file}: no such file{hint}")
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            puzzle = json.loads(line)
            rows.append(
                {
                    "prompt": puzzle["quiz"],
                    "answer": puzzle["solution_text_format"],
                    "names": puzzle["names"],
                    "statements": puzzle["statements"],
                }
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(
                f"{file}:{number}: not a puzzle of mem-kk-logic: {type(error).__name__}: {error}"
            ) from error
    return rows
