"""Puzzles per second on one core, by number of people: `python benchmarks/knights_knaves.py`. Prints JSON."""

import json
import random
import time

from r1lab.data.knights_knaves import generate


def rate(n: int, seconds: float = 3.0) -> float:
    """Puzzles of `n` people per second, each with one solution, assigned to a split by canonical form."""
    started, made = time.perf_counter(), 0
    for _ in generate(n, 10**9, split="train", rng=random.Random(0)):
        made += 1
        if time.perf_counter() - started > seconds:
            break
    return made / (time.perf_counter() - started)


if __name__ == "__main__":
    print(json.dumps({f"{n}_people_puzzles_per_second": round(rate(n)) for n in (3, 5, 7, 8, 10)}))
