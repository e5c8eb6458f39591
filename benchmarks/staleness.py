"""How much staleness costs: the quickstart's training on groups from weights some updates old. Prints Markdown.

    python -m benchmarks.staleness --seeds 0 1 2 --runs-dir runs/staleness      # takes 7 to 12 minutes for each run

For each seed it runs the quickstart once synchronously (`staleness: 0`), and with each staleness and objective. The
engine is in process, so that each update trains on groups from weights exactly as old (`r1lab.grpo.asynchronous`).
Runs that are finished are kept, so a benchmark that was interrupted goes on.

Each row has the held-out accuracy after training, sampled, by seed, and the differences from staleness 0: of each
seed, paired by question, and over the seeds with Student's t interval.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from r1lab.evaluation import stats
from r1lab.evaluation.comparison import compare
from r1lab.rundir import directory
from r1lab.text import percent

TASK = "knights_knaves"


def folder_of(seed: int, staleness: int, objective: str, runs_dir: Path) -> Path:
    """The run directory of a cell."""
    return runs_dir / f"seed{seed}-{f'{objective}-{staleness}' if staleness else 'synchronous'}"


def run(seed: int, staleness: int, objective: str, folder: Path, overrides: list[str]) -> None:
    """Runs a cell, unless it is finished."""
    if directory.result(folder) is not None:
        return
    settings = [
        f"seed={seed}",
        f"stages.zero.rollout.async={{staleness: {staleness}, objective: {objective}}}",
        "stages.zero.train.vllm_importance_sampling_correction=true",
        *overrides,
    ]
    command = [sys.executable, "-m", "r1lab", "run", "quickstart", *settings, "--no-check", "--resume"]
    done = subprocess.run([*command, "--name", folder.name, "--runs-dir", str(folder.parent)], stdout=sys.stderr)
    if done.returncode:
        sys.exit(f"staleness: {folder}: exit status {done.returncode}")


def after(folder: Path) -> Path:
    """The folder of a run's evaluation after training."""
    (found,) = folder.glob("*-after")
    return found


def accuracy(folder: Path) -> float:
    """The sampled accuracy after training."""
    return directory.finished_result(after(folder))["tasks"][TASK]["avg"]


def against(base: Path, other: Path) -> dict:
    """The paired difference of two runs of a seed."""
    rows = compare("0", "k", {"0": after(base), "k": after(other)})
    return next(row for row in rows if row["task"] == TASK and row["metric"] == "avg")


def table(seeds: list[int], cells: list[tuple[int, str]], runs_dir: Path) -> str:
    """The table of all cells, a row for each."""
    head = " | ".join(f"seed {seed}" for seed in seeds)
    lines = [f"| staleness | objective | {head} | over the seeds |", f"|---|---|{'---|' * len(seeds)}---|"]
    bases = [folder_of(seed, 0, "decoupled", runs_dir) for seed in seeds]
    lines.append(f"| 0 | | {' | '.join(percent(accuracy(base)) for base in bases)} | |")
    for staleness, objective in cells:
        others = [folder_of(seed, staleness, objective, runs_dir) for seed in seeds]
        rows = [against(base, other) for base, other in zip(bases, others, strict=True)]
        cell = [
            f"{percent(accuracy(other))}: {percent(row['diff'], row['ci95'], signed=True)}"
            for other, row in zip(others, rows, strict=True)
        ]
        diffs = [row["diff"] for row in rows]
        mean = percent(*stats.over_runs(diffs), signed=True) if len(diffs) > 1 else ""
        lines.append(f"| {staleness} | {objective} | {' | '.join(cell)} | {mean} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the cells and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--staleness", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--objectives", nargs="+", default=["ppo", "decoupled"])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/staleness"))
    parser.add_argument("overrides", nargs="*", help="key=value, merged over the recipe")
    given = parser.parse_args()
    cells = [(staleness, objective) for staleness in given.staleness for objective in given.objectives]
    for seed in given.seeds:
        for staleness, objective in [(0, "decoupled"), *cells]:
            folder = folder_of(seed, staleness, objective, given.runs_dir)
            run(seed, staleness, objective, folder, given.overrides)
    print(table(given.seeds, cells, given.runs_dir))


if __name__ == "__main__":
    main()
