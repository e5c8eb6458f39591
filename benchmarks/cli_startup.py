"""How long the command takes to respond: python benchmarks/cli_startup.py [RUNS]. Prints JSON, medians in seconds."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "r1lab --help": [sys.executable, "-m", "r1lab", "--help"],
    "r1lab ls": [sys.executable, "-m", "r1lab", "ls"],
    "r1lab show recipes/quickstart.yaml": [sys.executable, "-m", "r1lab", "show", "recipes/quickstart.yaml"],
    "trl --help": [str(Path(sys.executable).parent / "trl"), "--help"],
    "python -c pass": [sys.executable, "-c", "pass"],
}
TARGETS = {"r1lab --help": 0.3, "r1lab ls": 0.3, "r1lab show recipes/quickstart.yaml": 1.0}


def seconds(command: list[str]) -> float:
    """The wall time of one call."""
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measure(runs: int) -> dict:
    """The median over `runs` calls of each command, after one warm-up call that is not counted."""
    medians = {}
    for name, command in COMMANDS.items():
        if not Path(command[0]).exists():
            continue
        seconds(command)
        medians[name] = round(statistics.median(seconds(command) for _ in range(runs)), 3)
    return medians


if __name__ == "__main__":
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    medians = measure(runs)
    print(
        json.dumps(
            {
                "seconds": medians,
                "targets": TARGETS,
                "met": all(medians[name] <= target for name, target in TARGETS.items()),
                "runs": runs,
                "python": platform.python_version(),
                "cores": os.cpu_count(),
            },
            indent=2,
        )
    )
