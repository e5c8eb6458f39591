"""Whether two engines give one model the same scores on the same questions: python benchmarks/engines.py

Evaluates with vLLM and with transformers' `generate`, at temperature 0.6 and greedily, and compares the intervals.
Prints JSON; the exit status is 1 if they do not overlap.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TASK = "name: knights_knaves, builder: knights_knaves, people: [2, 3], names: 16, sayings: 1, copies: 6"
ENGINES = ("vllm", "transformers")


def main() -> None:
    """Prints the scores of both engines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded:tiny-qwen2")
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--samples", type=int, default=4)
    arguments = parser.parse_args()
    found = {"model": arguments.model, "questions": arguments.size, "samples": arguments.samples, "engines": {}}
    with tempfile.TemporaryDirectory() as folder:
        for engine in ENGINES:
            found["engines"][engine] = evaluate(engine, Path(folder), arguments)
        same = shared(*(questions(Path(folder) / engine) for engine in ENGINES))
    first, second = (found["engines"][engine] for engine in ENGINES)
    overlap = {
        key: first[key][0] <= second[key][1] and second[key][0] <= first[key][1] for key in first if "ci" in key
    }
    found |= {"overlap": overlap, "greedy_answers_alike": same}
    print(json.dumps(found, indent=2))
    sys.exit(0 if all(overlap.values()) else 1)


def evaluate(engine: str, folder: Path, arguments: argparse.Namespace) -> dict:
    """The scores of one engine."""
    command = [sys.executable, "-m", "r1lab", "eval", arguments.model, "--tasks", "knights_knaves", "--no-check"]
    task = f"{{{TASK}, size: {arguments.size}}}"
    command += [f"eval.tasks=[{task}]", f"eval.num_samples={arguments.samples}", "--name", engine]
    command += ["--runs-dir", str(folder), f"rollout.engine={engine}", "rollout.max_completion_length=384"]
    command += ["eval.greedy=true"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (stage,) = (folder / engine).glob("01-*")
    result = json.loads((stage / "result.json").read_text())
    scores = result["tasks"]["knights_knaves"]
    return {key: scores[key] for key in ("avg", "ci95", "greedy", "greedy_ci95", "length", "truncated")} | {
        "seconds": result["seconds"]
    }


def questions(run: Path) -> list[dict]:
    """The records of the only stage."""
    (file,) = run.glob("01-*/samples/questions.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def shared(first: list[dict], second: list[dict]) -> float:
    """The share of questions whose greedy completion is the same text."""
    return sum(a["greedy_completion"] == b["greedy_completion"] for a, b in zip(first, second)) / len(first)


if __name__ == "__main__":
    main()
