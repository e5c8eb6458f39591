"""An evaluation by two workers against one: python -m benchmarks.workers [QUESTIONS]

Evaluates the quickstart's base on puzzles twice, with `launch.gpus=1` and `launch.gpus=2`, as `r1lab run` does on a
machine without GPUs. Prints JSON: the seconds of each, their ratio, and whether the records of all questions are the
same byte for byte. Only a machine of two cores without other work shows what the second worker is worth.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
name: workers
stage: eval
model: {path: embedded:tiny-qwen2}
prompt: {template: r1-zero}
rewards: [{name: knights_knaves, mode: strict}]
rollout: {engine: auto, max_completion_length: 256}
eval:
  tasks: [{builder: knights_knaves, people: {2: 3, 3: 2}, names: 16, sayings: 1, copies: 40}]
  num_samples: 8
"""


def evaluate(folder: Path, gpus: int, questions: int) -> tuple[float, bytes]:
    """The seconds of an evaluation, and its records."""
    command = [sys.executable, "-m", "r1lab", "run", "recipe.yaml", f"launch.gpus={gpus}", f"eval.size={questions}"]
    started = time.perf_counter()
    done = subprocess.run([*command, "--no-check", "--name", f"by-{gpus}"], cwd=folder, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"workers: launch.gpus={gpus}: exit status {done.returncode}")
    return time.perf_counter() - started, (folder / f"runs/by-{gpus}/samples/questions.jsonl").read_bytes()


def main(questions: int) -> None:
    """Prints the comparison."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "recipe.yaml").write_text(RECIPE)
        one, records = evaluate(Path(folder), 1, questions)
        two, same = evaluate(Path(folder), 2, questions)
    figures = {
        "questions": questions,
        "seconds_by_one": round(one, 1),
        "seconds_by_two": round(two, 1),
        "ratio": round(two / one, 3),
        "same_records": records == same,
        "cores": os.cpu_count(),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
