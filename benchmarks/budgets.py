"""Thinking budgets of finished runs: python benchmarks/budgets.py RUN [RUN ...]. Prints Markdown.

For each run and task, accuracy (lenient) and mean thinking tokens at each budget, of each evaluation; then for each
comparison of the recipe the accuracy that both evaluations reach without a budget, the thinking tokens that each of
them needs for it, and what the second one saves, paired by question, with its 95 % interval.
"""

import argparse
import sys
from pathlib import Path

from r1lab.evaluation import curves
from r1lab.evaluation.comparison import question_key
from r1lab.rundir import directory, storage
from r1lab.text import percent


def main(runs: list[Path]) -> None:
    """Prints the tables of finished runs."""
    for run in runs:
        result = directory.result(run)
        if result is None:
            sys.exit(f"budgets: {run}: not a finished run")
        records = {name: _records(run, name) for name, stage in result["stages"].items() if stage["stage"] == "eval"}
        for task in dict.fromkeys(task for of in records.values() for task in of):
            having = {name: of[task] for name, of in records.items() if task in of}
            print(f"\n**{run.name}**, {task}\n\n| budget | {' | '.join(having)} |\n|---|{'---|' * len(having)}")
            found = [curves.curve(list(of.values())) for of in having.values()]
            for points in zip(*found, strict=True):
                budget = points[0]["budget"]
                print(f"| {'none' if budget is None else budget} | {' | '.join(_shown(point) for point in points)} |")
            pairs = dict.fromkeys((row["before"], row["after"]) for row in result["compare"])
            _print_saved([pair for pair in pairs if set(pair) <= having.keys()], having)


def _records(run: Path, stage: str) -> dict[str, dict[str, dict]]:
    """The records with budgets of a stage, by task and question."""
    found: dict[str, dict[str, dict]] = {}
    for folder in run.glob(f"[0-9][0-9]-{stage}"):
        for row in storage.read_jsonl(folder / "samples" / "questions.jsonl"):
            if row.get("budgets"):
                found.setdefault(row["task"], {})[question_key(row)] = row
    return found


def _shown(point: dict) -> str:
    return f"{percent(point['lenient'], point['lenient_ci95'])} · {point['thinking']:.1f}"


def _print_saved(pairs: list[tuple[str, str]], having: dict[str, dict[str, dict]]) -> None:
    """The table of what each comparison saves."""
    print("\n| at the accuracy | | tokens | fewer tokens |\n|---|---|---|---|")
    for before, after in pairs:
        shared = [key for key in having[before] if key in having[after]]
        one = curves.thinking_saved(*([having[name][key] for key in shared] for name in (before, after)))
        tokens = f"{one['before']:.1f} → {one['after']:.1f}"
        saved = "{:.1f} [{:.1f}, {:.1f}]".format(one["saved"], *one["saved_ci95"])
        print(f"| {one['lenient']:.1%} | {before} → {after} | {tokens} | {saved} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    main(parser.parse_args().runs)
