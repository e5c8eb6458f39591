"""Rows for the environment knights_knaves_ask: puzzles whose statements leave several worlds."""

import random

from r1lab.data.generate import choices, different
from r1lab.data.knights_knaves import NAMES, SAYINGS, canonical, draw_names, drawn, quiz, solve
from r1lab.environments.knights_knaves_ask import needed


def knights_knaves_ask(
    *,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    people: int | list[int] | tuple[int, ...] = 3,
    names: int = len(NAMES),
    sayings: int = len(SAYINGS),
) -> list[dict]:
    """Knights and Knaves puzzles with several solutions, for the environment `knights_knaves_ask`.

    Questions to the people can tell the solutions apart, and one of them is true in an episode. Train and test puzzles
    are disjoint up to renaming and reordering the people.

    Args:
        split: `"train"`, or `"test"`, one puzzle in five.
        size: The number of rows. Default: 1,000.
        seed: The same seed gives the same rows.
        people: The number of people of a puzzle, or a list of such numbers, used in turn. There are 26 puzzles with 2
            people in the training split.
        names: The number of first names to sample from.
        sayings: The number of ways to introduce a statement.

    Returns:
        Rows with `prompt`, `answer` (None: it depends on the episode), `task` (`knights_knaves_ask/2ppl`), `names`,
            `statements` (as text), `worlds` (the solutions, true for a knight), and `needed`, the number of questions
            that the best strategy needs at most.

    Raises:
        UserError: There are fewer puzzles than `size`.

    >>> row = knights_knaves_ask(people=2, size=1)[0]
    >>> len(row["worlds"]), row["needed"]
    (2, 1)
    """
    counts = choices(people, "knights_knaves_ask: people", at_least=2)
    rng = random.Random(f"knights_knaves_ask/{seed}/{split}")

    def draw(count: int) -> tuple[object, dict] | None:
        n = counts[count % len(counts)]
        statements, _ = drawn(n, rng.random)
        if len(statements) < n:
            return None
        worlds = solve(statements)
        questions = needed(worlds)
        if len(worlds) < 2 or questions is None:
            return None
        called = draw_names(rng, n, names)
        row = {
            "prompt": f"{quiz(statements, called, rng, sayings)} You may ask them before you answer.",
            "answer": None,
            "task": f"knights_knaves_ask/{n}ppl",
            "names": called,
            "statements": repr(statements),
            "worlds": [list(world) for world in worlds],
            "needed": questions,
        }
        return canonical(statements), row

    hint = "give more people, or lower size (eval.size in an evaluation)"
    return different(draw, name="knights_knaves_ask", split=split, size=size, hint=hint)
