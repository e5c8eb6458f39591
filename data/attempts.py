"""Pretraining data of the embedded base models: correct, sloppy and lazy attempts at puzzles."""

import random

from r1lab.data.kk_solutions import attempt
from r1lab.data.knights_knaves import NAMES, SAYINGS, _counts, _rng, answer_text, complete, draw_names, generate, quiz


def knights_knaves_attempts(
    *,
    split: str = "train",
    size: int | None = None,
    seed: int = 0,
    people: int | list[int] | tuple[int, ...] | dict[int, int] = (2, 3),
    copies: int = 1,
    names: int = len(NAMES),
    sayings: int = len(SAYINGS),
    guess: float = 0.6,
    sloppy: float = 0.5,
    mistake: float = 0.15,
    untidy: float = 0.1,
) -> list[dict]:
    """Attempts at Knights-and-Knaves puzzles, many of them wrong: pretraining data for a base model.

    A base model that has seen only correct solutions leaves RL little to select; real pretraining text has all kinds.

    Args:
        people, size, seed, split, copies, names, sayings: As for `knights_knaves`.
        guess: The share of attempts that think in one line and answer with a random assignment.
        sloppy: Of the attempts that go through the assignments, the share with mistakes.
        mistake: The probability of an error at each value that a sloppy attempt works out.
        untidy: The share of attempts that miss a tag or lack the numbered answer.

    Returns:
        Rows as from `knights_knaves`, each with a `completion`.

    >>> row = knights_knaves_attempts(people=2, size=1, guess=0.0, sloppy=0.0, untidy=0.0)[0]
    >>> row["completion"].endswith(row["answer"] + " </answer>")
    True
    """
    rows = []
    for n, count in _counts(people, size).items():
        rng = _rng(seed, f"attempts/{split}", n)
        for statements, solution in generate(n, count, split=split, rng=rng, copies=copies):
            called = draw_names(rng, n, names)
            if rng.random() < guess:
                world = tuple(rng.random() < 0.5 for _ in range(n))
                liars = [name for name, knight in zip(called, world) if not knight]
                thinking = f"I guess that {rng.choice(liars)} is lying." if liars else "I guess that nobody is lying."
            else:
                thinking, world = attempt(
                    statements, called, mistake=mistake if rng.random() < sloppy else 0.0, rng=rng
                )
            completion = complete(thinking, answer_text(world, called))
            if rng.random() < untidy:
                completion = _untidy(completion, rng)
            rows.append(
                {
                    "prompt": quiz(statements, called, rng, sayings),
                    "completion": completion,
                    "answer": answer_text(solution, called),
                    "task": f"knights_knaves/{n}ppl",
                }
            )
    random.Random(f"{seed}/{split}/order").shuffle(rows)
    return rows


def _untidy(completion: str, rng: random.Random) -> str:
    """Adds one formatting error: a missing tag, or an answer without its numbers."""
    slip = rng.choice(["<think> ", " </think>", "<answer> ", " </answer>", "numbers"])
    if slip != "numbers":
        return completion.replace(slip, "")
    return completion.replace("(1) ", "").replace("(2) ", "").replace("(3) ", "")
