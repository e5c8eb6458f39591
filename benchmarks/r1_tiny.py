"""What runs of r1/tiny gained, stage by stage: python benchmarks/r1_tiny.py runs/A runs/B ... Prints Markdown.

One row per evaluation, one column per run: the accuracy, and the difference from the stage that it started from,
paired by question, with its 95 % interval. The last table has the minutes of each run.
"""

import sys
from pathlib import Path

from r1lab.rundir import directory

TASKS = {"knights_knaves": "puzzles", "instructions": "requests"}


def main(runs: list[Path]) -> None:
    """Prints the tables of finished runs."""
    results = [directory.result(run) for run in runs]
    unfinished = [str(run) for run, result in zip(runs, results) if result is None]
    if not runs or unfinished:
        sys.exit(f"r1_tiny: {', '.join(unfinished) or 'no run'}: name finished runs of r1/tiny")
    heads = " | ".join(run.name for run in runs)
    for task, what in TASKS.items():
        n = results[0]["stages"]["base-eval"]["tasks"][task]["n_samples"]
        print(f"\n**{what}**, avg@{n}\n\n| | from | {heads} |\n|---|---|{'---|' * len(runs)}")
        for first in ("base-eval", "llama-base-eval"):
            values = [f"{result['stages'][first]['tasks'][task]['avg']:.1%}" for result in results]
            print(f"| {first} | | {' | '.join(values)} |")
        for row in results[0]["compare"]:
            if (row["task"], row["metric"]) == (task, "avg"):
                cells = [_cell(result, task, row["before"], row["after"]) for result in results]
                print(f"| {row['after']} | {row['before']} | {' | '.join(cells)} |")
    print(f"\n| | {heads} |\n|---|{'---|' * len(runs)}")
    minutes = [f"{result['seconds'] / 60:.1f}" for result in results]
    print(f"| minutes | {' | '.join(minutes)} |")


def _cell(result: dict, task: str, before: str, after: str) -> str:
    wanted = {"task": task, "metric": "avg", "before": before, "after": after}
    (row,) = [row for row in result["compare"] if wanted.items() <= row.items()]
    low, high = (f"{100 * bound:+.1f}" for bound in row["ci95"])
    return f"{row['after_value']:.1%}: {100 * row['diff']:+.1f} [{low}, {high}]"


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
