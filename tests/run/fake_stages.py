"""Stages without a model: what they would write, and, as a program, a process that behaves like one.

`python fake_stages.py STAGE_DIR` does what the `train` section of STAGE_DIR/config.yaml says: see `main`.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from r1lab.rundir import storage

COMPLETION = (
    "<think> Suppose Ada is a knight . Then what Ada said is true : Bob is a knave and Cid is a knight . Bob said "
    "that Ada is a knave , which is false , as it should be . Cid said that Bob is a knave , which is true , as it "
    "should be . There is no contradiction . </think> <answer> (1) Ada is a knight (2) Bob is a knave (3) Cid is a "
    "knight </answer>"
)
PUZZLE = (
    "A very special island is inhabited only by knights and knaves. Knights always tell the truth, and knaves always "
    "lie. You meet {people} inhabitants: Ada, Bob and Cid. Ada said that Bob is a knave and Cid is a knight. Bob said "
    "that Ada is a knave. Cid said that Bob is a knave. So who is a knight and who is a knave?"
)


def write_eval(path, skill, *, questions=200, seed=0):
    """An eval stage of `questions` questions, half with 2 and half with 3 people."""
    draw = random.Random(seed)
    hardness = [random.Random(index).random() for index in range(questions)]
    rows = []
    for index, hard in enumerate(hardness):
        chance = min(1, max(0, skill + 0.5 - hard))
        scores = [int(draw.random() < chance) for _ in range(4)]
        subtask = f"knights_knaves/{2 + index % 2}ppl"
        row = {"task": "knights_knaves", "subtask": subtask, "index": index, "prompt": f"puzzle {index}"}
        rows.append(row | {"scores": scores, "greedy": int(chance > 0.5)})
    storage.write_jsonl(path / "samples" / "questions.jsonl", rows)
    tasks = {"knights_knaves": rows} | {f"knights_knaves/{n}ppl": rows[n - 2 :: 2] for n in (2, 3)}
    result = {"stage": "eval", "seconds": 21.5, "tasks": {task: _figures(part) for task, part in tasks.items()}}
    storage.write_json_atomic(path / "result.json", result)


def _figures(rows):
    avg = sum(sum(row["scores"]) / 4 for row in rows) / len(rows)
    greedy = sum(row["greedy"] for row in rows) / len(rows)
    return {
        "n_questions": len(rows),
        "n_samples": 4,
        "avg": avg,
        "ci95": [max(0, avg - 0.05), min(1, avg + 0.05)],
        "pass@4": sum(max(row["scores"]) for row in rows) / len(rows),
        "maj@4": avg,
        "greedy": greedy,
        "greedy_ci95": [max(0, greedy - 0.07), min(1, greedy + 0.07)],
        "truncated": 0.012,
        "length": 84.2,
    }


def grpo_row(step, total, *, time):
    """A row of metrics of a GRPO stage that learns."""
    draw = random.Random(step)
    reward = 0.35 + 0.3 * (1 - 2.7 ** (-3 * step / total)) + draw.gauss(0, 0.04)
    return {
        "phase": "train",
        "step": step,
        "total": total,
        "time": time,
        "reward": reward + 0.2,
        "rewards": {"knights_knaves": reward, "format": min(1.0, 0.9 + step / total / 10)},
        "length": 84 - 10 * step / total + draw.gauss(0, 2),
        "no_signal": 0.2 + 0.3 * step / total,
        "truncated": 0.01,
        "tokens_per_second": 3456.7,
        "loss": draw.gauss(0, 0.01),
        "grad_norm": 0.3,
        "seconds": 3.1,
    }


def write_samples(path, step):
    rows = [
        {
            "prompt": PUZZLE.format(people=people),
            "completion": COMPLETION,
            "rewards": {"knights_knaves": right, "format": 1.0},
            "reasons": {"knights_knaves": "" if right else "Bob is wrong"},
            "reward": right + 0.2,
            "step": step,
        }
        for people in (2, 3, 4, 5)
        for right in (0.0, 1.0)
    ]
    storage.write_jsonl(path / "samples" / f"step_{step:06d}.jsonl", rows)


def write_grpo(path, *, total=60, start=1000.0, finished=True):
    """A GRPO stage with an evaluation every 20 steps."""
    rows = [{"phase": "load", "step": 0, "total": total, "time": start}]
    for step in range(1, total + 1):
        now = start + 3.1 * step
        rows.append(grpo_row(step, total, time=now))
        if step % 20 == 0 and step < total:
            avg = 0.37 + 0.2 * step / total
            task = {"n_questions": 100, "n_samples": 1, "avg": avg, "ci95": [avg - 0.09, avg + 0.09]}
            rows.append(
                {"phase": "eval", "step": step, "total": total, "time": now, "tasks": {"knights_knaves": task}}
            )
    storage.write_jsonl(path / "metrics.jsonl", rows)
    for step in (1, total):
        write_samples(path, step)
    if finished:
        result = {"stage": "grpo", "seconds": 3.1 * total, "steps": total, "model": "model"}
        storage.write_json_atomic(path / "result.json", result)


def main(path):
    config = storage.read_yaml(path / "config.yaml")
    train = config.get("train", {})
    behaviour = train.get("behaviour")
    print("a fake stage starts")
    if behaviour == "crash":
        print("Traceback (most recent call last):\nRuntimeError: the loss is \x1b[31mnan\x1b[0m\n")
        print("Set VERBOSE=1 for more")
        return 1
    if behaviour == "refuse":
        (path / "error.txt").write_text("data: row 3 has no answer\ndata: row 4 has no answer\n")
        return 2
    if behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "no result":
        return 0
    if behaviour == "stubborn":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
        storage.write_json_atomic(path / "pids.json", [os.getpid(), helper.pid])
        time.sleep(100)
    if config["stage"] == "eval":
        model = Path(config["model"]["path"])
        write_eval(path, 0.6 if model.is_dir() else 0.37, questions=40)
        return 0
    return train_steps(path, **train)


def train_steps(path, *, max_steps, seconds=0.0, learning_rate=0.0):
    """Steps that take a while; SIGINT ends the step, saves a checkpoint and exits with 130."""
    asked = []
    signal.signal(signal.SIGINT, lambda *_: asked.append(1))
    checkpoint = path / "checkpoints" / "checkpoint-1" / "step"
    first = int(checkpoint.read_text()) + 1 if checkpoint.is_file() else 1
    for step in range(first, max_steps + 1):
        time.sleep(seconds)
        storage.append_jsonl(path / "metrics.jsonl", grpo_row(step, max_steps, time=time.time()))
        if asked:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.write_text(str(step))
            return 130
    (path / "model").mkdir(exist_ok=True)
    write_samples(path, 1)
    result = {"stage": "grpo", "seconds": 1.5, "steps": max_steps, "first": first, "model": "model"}
    storage.write_json_atomic(path / "result.json", result)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
