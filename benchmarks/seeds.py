"""What runs of one recipe with several seeds gained: python benchmarks/seeds.py runs/A runs/B ... Prints Markdown.

With `--question TEXT`, once or several times, it prints one table instead: the comparisons over the questions that
contain the text.

One table per task and metric, with a column per run: the accuracy of each evaluation that another one is compared
with, then each comparison of the recipe, paired by question, with its 95 % interval. The last tables have the means of
the other rewards, if there are any, and the minutes of each run.

`--over-runs` adds the mean difference of all runs, with an interval over the runs; `--costs` adds the FLOPs of each
stage that trains or samples, by `r1lab plan`, and its seconds.
"""

import argparse
import sys
from pathlib import Path

from r1lab.evaluation import stats
from r1lab.rundir import directory, storage
from r1lab.text import percent


def main(runs: list[Path], texts: list[str], *, costs: bool = False, over: bool = False) -> None:
    """Prints the tables of finished runs."""
    results = [directory.result(run) for run in runs]
    unfinished = [str(run) for run, result in zip(runs, results) if result is None]
    if not runs or unfinished:
        sys.exit(f"seeds: {', '.join(unfinished) or 'no run'}: name finished runs of one recipe")
    heads = " | ".join(run.name for run in runs)
    line = f"|---|---|{'---|' * len(runs)}"
    if texts:
        print(f"| questions with | | {heads} |\n{line}")
        for text in texts:
            for before, after in dict.fromkeys((row["before"], row["after"]) for row in results[0]["compare"]):
                print(f"| {text} | {after} - {before} | {' | '.join(_of(run, before, after, text) for run in runs)} |")
        return
    compared = [row for row in results[0]["compare"] if "/" not in row["task"]]
    for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in compared):
        rows = [row for row in compared if (row["task"], row["metric"]) == (task, metric)]
        print(f"\n**{task}**, {metric}\n\n| | from | {heads} |{' over the runs |' * over}\n{line}{'---|' * over}")
        for first in dict.fromkeys(row["before"] for row in rows):
            if first not in {row["after"] for row in rows}:
                values = [f"{result['stages'][first]['tasks'][task][metric]:.1%}" for result in results]
                print(f"| {first} | | {' | '.join(values)} |{' |' * over}")
        for row in rows:
            cells = [_cell(result, row) for result in results] + ([_over(results, row)] if over else [])
            print(f"| {row['after']} | {row['before']} | {' | '.join(cells)} |")
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
    if costs:
        _print_costs(runs, results, heads)


def _print_costs(runs: list[Path], results: list[dict], heads: str) -> None:
    """The FLOPs of each stage that trains or samples, by `r1lab plan`, and its seconds in each run."""
    from r1lab import plan
    from r1lab.recipe import loading as recipes

    stages = plan.plan(recipes.load([str(runs[0] / "recipe.yaml")])).stages
    print(f"\n| | FLOPs | seconds: {heads} |\n|---|---|{'---|' * len(runs)}")
    for stage in stages:
        if stage.stage != "eval":
            seconds = [f"{result['stages'][stage.name]['seconds']:.0f}" for result in results]
            print(f"| {stage.name} | {stage.flops:.1e} | {' | '.join(seconds)} |")


def _row(result: dict, like: dict) -> dict:
    keys = ("task", "metric", "before", "after")
    (row,) = [row for row in result["compare"] if all(row[key] == like[key] for key in keys)]
    return row


def _over(results: list[dict], like: dict) -> str:
    mean, bounds = stats.over_runs([_row(result, like)["diff"] for result in results])
    return percent(mean, bounds, signed=True)


def _cell(result: dict, like: dict) -> str:
    row = _row(result, like)
    return f"{row['after_value']:.1%}: {percent(row['diff'], row['ci95'], signed=True)}"


def _of(run: Path, before: str, after: str, text: str) -> str:
    old, new = (_answers(run, name, text) for name in (before, after))
    shared = [question for question in old if question in new]
    if not shared:
        return "none"
    first, second = ([scores[question] for question in shared] for scores in (old, new))
    diff, ci95 = stats.paired_diff(first, second)
    means = " → ".join(f"{sum(scores) / len(shared):.1%}" for scores in (first, second))
    return f"{len(shared)}: {means}, {percent(diff, ci95, signed=True)}"


def _answers(run: Path, stage: str, text: str) -> dict[tuple[str, int], float]:
    (folder,) = run.glob(f"[0-9]*-{stage}")
    rows = storage.read_jsonl(folder / "samples" / "questions.jsonl")
    asked = [row for row in rows if text in str(row["prompt"])]
    return {(row["task"], row["index"]): sum(row["scores"]) / len(row["scores"]) for row in asked}


def _mean(result: dict, name: str, task: str, reward: str) -> str:
    return f"{result['stages'][name]['tasks'][task]['rewards'][reward]:.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--question", action="append", default=[], metavar="TEXT")
    parser.add_argument("--over-runs", action="store_true", help="a column with the mean difference of all runs")
    parser.add_argument("--costs", action="store_true", help="also the FLOPs and the seconds of each stage")
    given = parser.parse_args()
    main(given.runs, given.question, costs=given.costs, over=given.over_runs)
