"""What runs of one recipe with several seeds gained: python benchmarks/seeds.py runs/A runs/B ... Prints Markdown.

One table per task and metric, with a column per run: the accuracy of each evaluation that another one is compared
with, then each comparison of the recipe, paired by question, with its 95 % interval. The last tables have the means of
the other rewards, if there are any, and the minutes of each run.
"""

import sys
from pathlib import Path

from r1lab.rundir import directory


def main(runs: list[Path]) -> None:
    """Prints the tables of finished runs."""
    results = [directory.result(run) for run in runs]
    unfinished = [str(run) for run, result in zip(runs, results) if result is None]
    if not runs or unfinished:
        sys.exit(f"seeds: {', '.join(unfinished) or 'no run'}: name finished runs of one recipe")
    heads = " | ".join(run.name for run in runs)
    line = f"|---|---|{'---|' * len(runs)}"
    compared = [row for row in results[0]["compare"] if "/" not in row["task"]]
    for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in compared):
        rows = [row for row in compared if (row["task"], row["metric"]) == (task, metric)]
        print(f"\n**{task}**, {metric}\n\n| | from | {heads} |\n{line}")
        for first in dict.fromkeys(row["before"] for row in rows):
            if first not in {row["after"] for row in rows}:
                values = [f"{result['stages'][first]['tasks'][task][metric]:.1%}" for result in results]
                print(f"| {first} | | {' | '.join(values)} |")
        for row in rows:
            print(f"| {row['after']} | {row['before']} | {' | '.join(_cell(result, row) for result in results)} |")
    others = [
        f"| {name} | {task}: {reward} | {' | '.join(_mean(result, name, task, reward) for result in results)} |"
        for name, stage in results[0]["stages"].items()
        for task, scores in stage.get("tasks", {}).items()
        for reward in scores.get("rewards", {})
        if "/" not in task
    ]
    if others:
        print("\n".join([f"\n| | mean of | {heads} |\n{line}", *others]))
    print(f"\n| | {heads} |\n|---|{'---|' * len(runs)}")
    minutes = [f"{result['seconds'] / 60:.1f}" for result in results]
    print(f"| minutes | {' | '.join(minutes)} |")


def _cell(result: dict, like: dict) -> str:
    keys = ("task", "metric", "before", "after")
    (row,) = [row for row in result["compare"] if all(row[key] == like[key] for key in keys)]
    low, high = (f"{100 * bound:+.1f}" for bound in row["ci95"])
    return f"{row['after_value']:.1%}: {100 * row['diff']:+.1f} [{low}, {high}]"


def _mean(result: dict, name: str, task: str, reward: str) -> str:
    return f"{result['stages'][name]['tasks'][task]['rewards'][reward]:.2f}"


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
