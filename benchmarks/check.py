"""How long `r1lab check` takes for a recipe: python benchmarks/check.py [RECIPE] [RUNS]. Prints JSON, in seconds.

For comparison it also times what every check must wait for: importing transformers and loading a tokenizer.
"""

import json
import platform
import statistics
import subprocess
import sys
import time

LOAD = "from r1lab.models.loading import load_tokenizer; load_tokenizer('embedded:tiny-qwen2')"


def seconds(command: list[str]) -> float:
    """The wall time of one call."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Prints the median over RUNS calls, after one warm-up call that is not counted."""
    words = sys.argv[1:]
    recipe, runs = (words[0] if words else "quickstart"), (int(words[1]) if len(words) > 1 else 5)
    commands = {
        f"r1lab check {recipe}": [sys.executable, "-m", "r1lab", "check", recipe],
        "transformers and a tokenizer": [sys.executable, "-c", LOAD],
    }
    medians = {}
    for name, command in commands.items():
        seconds(command)
        medians[name] = round(statistics.median(seconds(command) for _ in range(runs)), 2)
    print(json.dumps({"machine": platform.machine(), "runs": runs, "seconds": medians}, indent=2))


if __name__ == "__main__":
    main()
