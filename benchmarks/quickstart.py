"""Runs the quickstart on several seeds: held-out accuracy before and after, time, and peak memory. Prints JSON.

    python benchmarks/quickstart.py --seeds 0 1 2 --runs-dir runs/benchmark

Each seed is a complete `r1lab run quickstart seed=N` in its own processes. Memory is the largest sum of the resident
memory of the run's processes, read twice per second.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil


def run(seed: int, runs_dir: str, overrides: list[str]) -> dict:
    """Runs one seed: the rows of `compare`, seconds, and peak memory in GiB."""
    name = f"quickstart-seed{seed}"
    command = [sys.executable, "-m", "r1lab", "run", "quickstart", f"seed={seed}", *overrides]
    command += ["--name", name, "--runs-dir", runs_dir, "--overwrite"]
    started, peak = time.time(), 0
    process = subprocess.Popen(command, stdout=sys.stderr)
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"seed {seed}: the run ended with exit status {process.returncode}")
    result = json.loads((Path(runs_dir) / name / "result.json").read_text())
    return {
        "seed": seed,
        "seconds": round(time.time() - started, 1),
        "peak_gib": round(peak / 2**30, 2),
        "compare": result["compare"],
        "passes": all(passes(row) for row in result["compare"] if row["task"] == "knights_knaves"),
    }


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs-dir", default="runs/benchmark")
    parser.add_argument("overrides", nargs="*", help="key=value, merged over the recipe")
    arguments = parser.parse_args()
    seeds = [run(seed, arguments.runs_dir, arguments.overrides) for seed in arguments.seeds]
    print(json.dumps({"cores": len(os.sched_getaffinity(0)), "seeds": seeds}, indent=2))
