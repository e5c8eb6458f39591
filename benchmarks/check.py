"""How long `r1lab check` takes of a recipe: python benchmarks/check.py [RECIPE] [RUNS]. Prints JSON, in seconds.

Beside it stands what every check has to wait for: the import of transformers and the loading of a tokenizer.
"""

import json
import platform
import statistics
import subprocess
import sys
import time

LOAD = "from r1lab.models.loading import load_tokenizer; load_tokenizer('embedded:tiny-qwen2')"


def seconds(command: list[str]) -> float:
    """The time of one call, from its start to its end."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Prints the median of some calls, after one that is not counted."""
    words = sys.argv[1:]
    recipe, runs = (words[0] if words else "quickstart"), (int(words[1]) if len(words) > 1 else 5)
    commands = {
        f"r1lab check {recipe}": [sys.executable, "-m", "r1lab", "check", recipe],
        "transformers and a tokenizer": [sys.executable, "-c", LOAD],
    }
    figures = {}
    for name, command in commands.items():
        seconds(command)
        figures[name] = round(statistics.median(seconds(command) for _ in range(runs)), 2)
    print(json.dumps({"machine": platform.machine(), "runs": runs, "seconds": figures}, indent=2))


if __name__ == "__main__":
    main()
