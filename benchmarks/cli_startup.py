"""How long the command takes to respond, with compiled bytecode, as an installed package has it.

python benchmarks/cli_startup.py [RUNS] [OTHER_CHECKOUT] prints JSON, medians in seconds: the wall time and the CPU
time (user and system), which other work on the machine changes less. The calls of two checkouts alternate.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "r1lab --help": [sys.executable, "-m", "r1lab", "--help"],
    "r1lab ls": [sys.executable, "-m", "r1lab", "ls"],
    "r1lab show recipes/quickstart.yaml": [sys.executable, "-m", "r1lab", "show", "recipes/quickstart.yaml"],
    "trl --help": [str(Path(sys.executable).parent / "trl"), "--help"],
    "python -c pass": [sys.executable, "-c", "pass"],
}
TARGETS = {"r1lab --help": 0.3, "r1lab ls": 0.3, "r1lab show recipes/quickstart.yaml": 1.0}


def seconds(command: list[str], checkout: Path, bytecode: str) -> dict[str, float]:
    """The wall time and the CPU time of one call in a checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": str(checkout), "PYTHONPYCACHEPREFIX": bytecode}
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall": wall, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def measure(runs: int, checkouts: dict[str, Path]) -> dict[str, dict]:
    """The medians over `runs` calls of each command, after one warm-up call that is not counted."""
    medians: dict[str, dict] = {name: {} for name in checkouts}
    with tempfile.TemporaryDirectory() as bytecode:
        for command in filter(lambda command: Path(COMMANDS[command][0]).exists(), COMMANDS):
            calls = [
                {name: seconds(COMMANDS[command], folder, bytecode) for name, folder in checkouts.items()}
                for _ in range(runs + 1)
            ][1:]
            for name in checkouts:
                median = {key: statistics.median(call[name][key] for call in calls) for key in ("wall", "cpu")}
                medians[name][command] = {key: round(value, 3) for key, value in median.items()}
    return medians


if __name__ == "__main__":
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    other = {"other": Path(sys.argv[2]).resolve()} if len(sys.argv) > 2 else {}
    medians = measure(runs, {"this": ROOT} | other)
    print(
        json.dumps(
            {
                "seconds": medians,
                "targets": TARGETS,
                "met": all(medians["this"][name]["wall"] <= target for name, target in TARGETS.items()),
                "runs": runs,
                "python": platform.python_version(),
                "cores": os.cpu_count(),
            },
            indent=2,
        )
    )
