"""Verdicts per second: `python -m benchmarks.rewards [--completions 10000]`. Prints JSON.

Measures each reward on ordinary completions, in this process, as a run calls it. Compares the pool with plain
math-verify on one core, on the same answers, in turn.
"""

import argparse
import itertools
import json
import time

from r1lab.data import knights_knaves
from r1lab.grading import grader, pool


def rows_and_turns(n: int) -> tuple[list[dict], list[str]]:
    """Puzzle and math rows with the columns that the rewards need, and a response to each, every second one wrong."""
    rows, turns = [], []
    puzzles = itertools.cycle(knights_knaves(people=3, size=200, solution="evaluation"))
    for i, puzzle in zip(range(n), puzzles):
        a, b = i % 97 + 1, i % 89 + 2
        answer = [rf"\frac{{{a}}}{{{b}}}", f"{a}x + {b}", str(a * b), f"({a}, {b})"][i % 4]
        said = answer if i % 2 else answer.replace(str(a), str(a + 1))
        thinking = f"First, we take {a} and {b}.\n\nThen we look at what they give together, step by step. " * 4
        rows.append(
            {
                "prompt": f"Question {i // 8}?",
                "answer": answer,
                "gold_puzzle": puzzle["answer"],
                "puzzle": puzzle["completion"],
                "numbers": [a, b, 3],
                "target": a + b,
                "language": "en",
                "constraints": [{"kind": "num_words", "at_least": 3}, {"kind": "no_commas"}],
                "tests": [{"input": "1 2", "output": "3"}],
            }
        )
        turns.append(f"<think> {thinking} </think> <answer> {said} </answer>")
    return rows, turns


REWARDS = [
    "accuracy", "choice", "cosine_length", "countdown", "exact_match", "format", "instruction", "knights_knaves",
    "language_consistency", "length", "reasoning_steps", "repetition", "soft_overlong", "tag_count",
]  # fmt: skip
SETTINGS = {"cosine_length": {"max_len": 512}, "soft_overlong": {"max_completion_length": 512, "cache": 64}}


def rate(name: str, rows: list[dict], turns: list[str]) -> float:
    """Verdicts per second of one reward."""
    spec = {"name": name, **SETTINGS.get(name, {})}
    if name == "knights_knaves":
        turns, rows = [row["puzzle"] for row in rows], [row | {"answer": row["gold_puzzle"]} for row in rows]
    if name == "choice":
        rows = [row | {"answer": "B"} for row in rows]
    if name == "countdown":
        turns = [f"<answer> {row['numbers'][0]} + {row['numbers'][1]} </answer>" for row in rows]
    if name == "code":
        turns = ["```python\nprint(sum(map(int, input().split())))\n```"] * len(rows)
    specs = [{"name": "format"}, spec] if name in ("length", "cosine_length") else [spec]
    built = grader.build(specs)
    ids = [list(range(100 + i % 50)) for i in range(len(turns))]
    built.grade(turns[:64], rows[:64], ids[:64])  # imports, and starts the pool
    started = time.perf_counter()
    graded = built.grade(turns, rows, ids)
    assert graded.fatal is None, graded.reasons
    return len(turns) / (time.perf_counter() - started)


def plain_math_verify(answers: list[str], golds: list[str]) -> float:
    """Verdicts per second of math-verify called directly, in this process."""
    from math_verify import parse, verify

    verify(parse("$1$"), parse("$1$"))
    started = time.perf_counter()
    for answer, gold in zip(answers, golds):
        verify(parse(rf"\boxed{{{gold}}}"), parse(rf"\boxed{{{answer}}}"))
    return len(answers) / (time.perf_counter() - started)


def direct(answer: str, gold: str) -> bool:
    """The work of the pool's workers here: math-verify alone, without its timeouts, which the pool replaces."""
    import logging

    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its timeouts are off
    gold, answer = (parse(rf"\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer))
    return verify(gold, answer, timeout_seconds=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--completions", type=int, default=10_000)
    n = parser.parse_args().completions
    rows, turns = rows_and_turns(n)
    golds = [row["answer"] for row in rows]
    answers = [turn.rpartition("<answer>")[2].removesuffix("</answer>").strip() for turn in turns]
    some = min(n, 2000)
    workers = pool.Pool("benchmarks.rewards:direct")
    workers.map(list(zip(answers[:64], golds[:64])))
    rounds = []
    for _ in range(3):  # in turn, so that other work on the machine affects both
        plain = plain_math_verify(answers[:some], golds[:some])
        started = time.perf_counter()
        workers.map(list(zip(answers[:some], golds[:some])))
        rounds.append((some / (time.perf_counter() - started), plain))
    pooled, plain = (sorted(column)[1] for column in zip(*rounds))
    result = {
        "completions": n,
        "verdicts_per_second": {name: round(rate(name, rows, turns)) for name in REWARDS},
        "code_programs_per_second": round(rate("code", rows[:200], turns[:200]), 1),
        "math_verify": {
            "one_core_plain": round(plain),
            "pool": round(pooled),
            "workers": workers.workers,
            "pool_over_plain_times_workers": round(pooled / plain / workers.workers, 3),
        },
    }
    workers.close()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
