"""Whether an evaluation that is killed repeatedly has the same result as one that is not: benchmarks/eval_killed.py

Runs `r1lab eval` once undisturbed. Then it kills a second evaluation (SIGKILL to its whole process group) at random
moments, resumes it each time, and compares the files byte by byte. Prints JSON.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TASK = "name: knights_knaves, builder: knights_knaves, people: [2, 3], names: 16, sayings: 1, copies: 8"
FILES = ("01-tiny-qwen2/samples/questions.jsonl",)


def main() -> None:
    """Prints the result; the exit status is 1 if the files differ, or if the evaluation ended before all kills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--size", type=int, help="questions (default: 600 for vllm, 120 for transformers)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    arguments = parser.parse_args()
    arguments.size = arguments.size or (600 if arguments.engine == "vllm" else 120)
    with tempfile.TemporaryDirectory() as folder:
        found = compare(Path(folder), arguments)
    print(json.dumps(found, indent=2))
    sys.exit(0 if found["same"] and len(found["kills"]) == arguments.kills else 1)


def compare(folder: Path, arguments: argparse.Namespace) -> dict:
    """Runs both evaluations, and returns when the second was killed and whether the results are the same."""
    started = time.time()
    child, first = start(folder, "whole", arguments), None  # seconds until the first record
    while child.poll() is None:
        time.sleep(0.2)
        first = first or (time.time() - started if records(folder / "runs" / "whole") else None)
    assert child.returncode == 0, (folder / "whole.log").read_text()
    took = time.time() - started
    draw, kills = random.Random(arguments.seed), []
    while len(kills) < arguments.kills:
        child = start(folder, "killed", arguments, *(["--resume"] if kills else []))
        # Before the first record or soon after it, so that enough work is left for all kills.
        moment = draw.uniform(0.4 * first, first + 0.12 * (took - first))
        try:
            status = child.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            kill_orphans(folder)
            kills.append({"seconds": round(moment, 1), "records": records(folder / "runs" / "killed")})
            continue
        assert status == 0, (folder / "killed.log").read_text()
        break  # it ended before all kills: the benchmark fails
    assert start(folder, "killed", arguments, "--resume").wait() == 0, (folder / "killed.log").read_text()
    same = all(
        (folder / "runs" / "whole" / file).read_bytes() == (folder / "runs" / "killed" / file).read_bytes()
        for file in FILES
    )
    tasks = [result(folder / "runs" / name) for name in ("whole", "killed")]
    return {
        "engine": arguments.engine,
        "seconds": round(took, 1),
        "kills": kills,
        "same": same and tasks[0] == tasks[1],
        "figures": tasks[0]["knights_knaves"]["avg"],
    }


def start(folder: Path, name: str, arguments: argparse.Namespace, *more: str) -> subprocess.Popen:
    """`r1lab eval` in its own process group."""
    command = [sys.executable, "-m", "r1lab", "eval", "embedded:tiny-qwen2", "--tasks", "knights_knaves", "--no-check"]
    command += ["eval.num_samples=16", "--name", name, "--runs-dir", str(folder / "runs")]
    task = f"{{{TASK}, size: {arguments.size}}}"
    command += [
        f"eval.tasks=[{task}]",
        f"rollout.engine={arguments.engine}",
        "rollout.max_completion_length=256",
        *more,
    ]
    output = (folder / f"{name}.log").open("ab")
    return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


def kill_orphans(folder: Path) -> None:
    """Kills what a killed `r1lab` leaves behind: its stage, which has its own process group."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "r1lab.stages" in words and any(word.startswith(str(folder)) for word in words):
            os.kill(int(process.name), signal.SIGKILL)


def records(run: Path) -> int:
    """How many questions had a record when the evaluation was killed."""
    partial = run / "01-tiny-qwen2" / "samples" / "partial.jsonl"
    return partial.read_bytes().count(b"\n") if partial.exists() else 0


def result(run: Path) -> dict:
    """The scores of the only model."""
    return json.loads((run / "01-tiny-qwen2" / "result.json").read_text())["tasks"]


if __name__ == "__main__":
    main()
