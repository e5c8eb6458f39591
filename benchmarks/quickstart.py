"""Runs the quickstart on several seeds: held-out accuracy before and after, time, and peak memory. Prints JSON.

    python benchmarks/quickstart.py --seeds 0 1 2 --runs-dir runs/benchmark
    python benchmarks/quickstart.py --seeds 0 1 2 3 4 --gpus 1 2      # each seed on one process and on two

Each seed is a complete `r1lab run quickstart seed=N` in its own processes. Memory is the largest sum of the resident
memory of the run's processes, read twice per second.

With several numbers of processes, each is compared with the first one: of each seed the difference after training,
paired by question, whose interval is that of these two runs on other questions; and over the seeds the mean of these
differences with Student's t interval, which also holds what differs from one training to the next.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from r1lab.evaluation import stats
from r1lab.evaluation.comparison import compare
from r1lab.text import percent


def run(seed: int, gpus: int, runs_dir: str, overrides: list[str]) -> dict:
    """Runs one seed: the rows of `compare`, seconds, and peak memory in GiB."""
    folder = run_folder(seed, gpus, runs_dir)
    command = [sys.executable, "-m", "r1lab", "run", "quickstart", f"seed={seed}", f"launch.gpus={gpus}", *overrides]
    command += ["--name", folder.name, "--runs-dir", runs_dir, "--overwrite"]
    started, peak = time.time(), 0
    process = subprocess.Popen(command, stdout=sys.stderr)
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"seed {seed}: the run ended with exit status {process.returncode}")
    result = json.loads((folder / "result.json").read_text())
    return {
        "seed": seed,
        "gpus": gpus,
        "seconds": round(time.time() - started, 1),
        "peak_gib": round(peak / 2**30, 2),
        "compare": result["compare"],
        "passes": all(passes(row) for row in result["compare"] if row["task"] == "knights_knaves"),
    }


def run_folder(seed: int, gpus: int, runs_dir: str) -> Path:
    """The run directory of a seed on a number of processes."""
    return Path(runs_dir) / (f"quickstart-seed{seed}" + f"-gpus{gpus}" * (gpus > 1))


def differences(seeds: list[int], gpus: list[int], runs_dir: str) -> list[dict]:
    """What each further number of processes is worth against the first one, by seed and over the seeds."""
    found = []
    for count in gpus[1:]:
        rows = []
        for seed in seeds:
            folders = {str(n): run_folder(seed, n, runs_dir) / "03-after" for n in (gpus[0], count)}
            rows += [{"seed": seed, **row} for row in compare(str(gpus[0]), str(count), folders)]
        for metric in ("avg", "greedy"):
            of_seeds = [row for row in rows if row["metric"] == metric and row["task"] == "knights_knaves"]
            values = [row["diff"] for row in of_seeds]
            found.append(
                {
                    "gpus": count,
                    "against": gpus[0],
                    "metric": metric,
                    "by_seed": {row["seed"]: percent(row["diff"], row["ci95"], signed=True) for row in of_seeds},
                    "mean": percent(*stats.over_runs(values), signed=True) if len(values) > 1 else None,
                }
            )
    return found


def passes(row: dict) -> bool:
    """Whether a difference is what the quickstart promises: an interval above 0, and 15 points in sampled accuracy."""
    return row["ci95"][0] > 0 and (row["metric"] != "avg" or row["diff"] >= 0.15)


def resident(pid: int) -> int:
    """Resident bytes of a process and its descendants."""
    total = 0
    try:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.NoSuchProcess:  # a process ended while it was read
        pass
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1], help="numbers of processes, as launch.gpus")
    parser.add_argument("--runs-dir", default="runs/benchmark")
    parser.add_argument("--compare-only", action="store_true", help="compare runs that are there already")
    parser.add_argument("overrides", nargs="*", help="key=value, merged over the recipe")
    arguments = parser.parse_args()
    printed: dict = {"cores": len(os.sched_getaffinity(0))}
    if not arguments.compare_only:
        printed["seeds"] = [
            run(seed, gpus, arguments.runs_dir, arguments.overrides)
            for seed in arguments.seeds
            for gpus in arguments.gpus
        ]
    if len(arguments.gpus) > 1:
        printed["differences"] = differences(arguments.seeds, arguments.gpus, arguments.runs_dir)
    print(json.dumps(printed, indent=2))
