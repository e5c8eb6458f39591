"""How long the command takes to answer: python benchmarks/cli_startup.py [RUNS]. Prints JSON, medians in seconds."""

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
    """The time of one call, from its start to its end."""
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measure(runs: int) -> dict:
    """The median over some calls of each command, after one that is not counted."""
    figures = {}
    for name, command in COMMANDS.items():
        if not Path(command[0]).exists():
            continue
        seconds(command)
        figures[name] = round(statistics.median(seconds(command) for _ in range(runs)), 3)
    return figures


if __name__ == "__main__":
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    figures = measure(runs)
    print(
        json.dumps(
            {
                "seconds": figures,
                "targets": TARGETS,
                "met": all(figures[name] <= target for name, target in TARGETS.items()),
                "runs": runs,
                "python": platform.python_version(),
                "cores": os.cpu_count(),
            },
            indent=2,
        )
    )
