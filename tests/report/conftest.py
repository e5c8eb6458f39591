"""Run directories such as a pipeline of three stages leaves behind, and a Chromium to look at their reports with."""

import importlib.util
import json
import random
from pathlib import Path

import pytest

from r1lab.evaluation.comparison import compare
from r1lab.rundir import directory, storage

SPEC = importlib.util.spec_from_file_location("chromium", Path(__file__).parent / "chromium.py")
chromium = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(chromium)


def write_run(path: Path, *, seed: int = 0, steps: int = 12, group: int = 8, text=None, rate: float = 1e-3) -> Path:
    """A finished pipeline `base`, `zero`, `after`; `text(step, i)` is what completion i of a step says."""
    draw = random.Random(seed)
    text = text or (
        lambda step, i: f"<think> Wait, let me check step {step} of {i} once more. </think> <answer> 4 </answer>"
    )
    rollout = {"max_completion_length": 64, "num_generations": group}
    config = {"name": "tried", "seed": seed, "compare": [["base", "after"]]}
    config["stages"] = [
        {"name": "base", "stage": "eval", "rollout": rollout},
        {"name": "zero", "stage": "grpo", "rollout": rollout, "train": {"learning_rate": rate},
         "rewards": [{"name": "maths"}, {"name": "format"}]},
        {"name": "after", "stage": "eval", "rollout": rollout},
    ]  # fmt: skip
    directory.prepare("stage: grpo  # <b>as written</b>\n", config, path, resume=False, overwrite=False)
    manifest = {"time": "2026-01-02T03:04:05+0000", "command": ["r1lab", "run", "tried"], "seeds": {"recipe": seed}}
    hardware = {"cpu": "a CPU", "cores": 2, "memory_gib": 8.0, "gpus": []}
    storage.write_json_atomic(path / "manifest.json", manifest | {"hardware": hardware, "versions": {"trl": "1.16.0"}})
    folders = {name: path / f"{place:02d}-{name}" for place, name in enumerate(("base", "zero", "after"), 1)}
    for folder, stage in zip(folders.values(), config["stages"]):
        folder.mkdir()
        storage.write_yaml(folder / "config.yaml", stage)
    _evaluation(folders["base"], draw, 0.2)
    _training(folders["zero"], draw, steps, group, text)
    _evaluation(folders["after"], draw, 0.9)
    for name in folders:
        row = {"phase": "stage", "stage": name, "status": 0, "seconds": 12.5}
        storage.append_jsonl(path / "metrics.jsonl", row)
    result = {"stage": "pipeline", "seconds": 40.0, "compare": compare("base", "after", folders)}
    storage.write_json_atomic(path / "result.json", result)
    return path


def _evaluation(folder: Path, draw: random.Random, skill: float) -> None:
    rows = []
    for index in range(40):
        scores = [int(draw.random() < skill) for _ in range(4)]
        row = {"task": "maths", "index": index, "prompt": f"What is {index} + 1?", "answer": str(index + 1)}
        rows.append(row | {"scores": scores, "truncated": [False] * 4, "lengths": [9] * 4, "completion": "It is 4."})
    storage.write_jsonl(folder / "samples" / "questions.jsonl", rows)
    storage.append_jsonl(folder / "metrics.jsonl", {"phase": "eval", "step": 0, "done": 40, "total": 40, "time": 1.0})
    mean = sum(sum(row["scores"]) / 4 for row in rows) / 40
    tasks = {"maths": {"n_questions": 40, "avg": mean, "ci95": [mean - 0.05, mean + 0.05]}}
    storage.write_json_atomic(folder / "result.json", {"stage": "eval", "seconds": 10.0, "tasks": tasks})


def _training(folder: Path, draw: random.Random, steps: int, group: int, text) -> None:
    for step in range(1, steps + 1):
        rows = []
        for i in range(group):
            right = draw.random() < 0.2 + 0.6 * step / steps
            rewards = {"maths": float(right), "format": 1.0}
            reasons = {"maths": "correct" if right else "wrong", "format": "well_formed"}
            row = {"step": step, "task": "maths", "prompt": f"What is {step % 5} + 1?", "answer": "4"}
            row |= {"completion": text(step, i), "rewards": rewards, "reasons": reasons, "reward": 1.0 + right}
            rows.append(row | {"right": right, "tokens": 10 + step})
        storage.write_jsonl(folder / "samples" / f"step_{step:06d}.jsonl", rows)
        reward = sum(row["reward"] for row in rows) / group
        row = {"phase": "train", "step": step, "total": steps, "time": float(step), "reward": reward}
        row |= {"rewards": {"maths": reward - 1, "format": 1.0}, "length": 10.0 + step, "truncated": 0.0}
        row |= {"no_signal": 0.25, "entropy": 1 / step, "kl": 0.001 * step, "importance_ratio": 1.0, "seconds": 2.0}
        row |= {"seconds_generating": 1.2, "seconds_grading": 0.1}
        storage.append_jsonl(folder / "metrics.jsonl", row | {"tokens_per_second": 100, "loss": 0.1, "grad_norm": 0.5})
    warning = {"phase": "warning", "step": 9, "message": "alarm entropy: too low <i>", "alarm": "entropy", "since": 8}
    storage.append_jsonl(folder / "metrics.jsonl", warning)
    storage.write_json_atomic(folder / "result.json", {"stage": "grpo", "seconds": 11.0, "steps": steps})


def as_episodes(path: Path, *, text: str = "The friend of Mia is {step}.") -> Path:
    """Makes the completions of a run episodes: a call, one that fails, one that cannot be read, and the last turn."""
    ends = ("answered", "turns", "env_error")

    def episode(i: int, step: int) -> dict:
        call = {"name": "age", "arguments": {"person": "Mia"}}
        turns = [
            {"own": True, "text": text.format(step=step), "tokens": 9, "calls": [call], "seconds": 0.1},
            {"own": False, "text": f"41 and {i}", "tokens": 5, "seconds": 0.0},
            {"own": True, "text": "again", "tokens": 4, "calls": [call], "seconds": 0.1},
            {"own": False, "text": "Error: age: nobody", "tokens": 6, "error": "age: nobody", "seconds": 0.0},
            {"own": True, "text": "<tool_call>{", "tokens": 4, "error": "no JSON", "seconds": 0.1},
            {"own": False, "text": "Error: no JSON", "tokens": 6, "error": "no JSON", "seconds": 0.0},
            {"own": True, "text": text.format(step=f"last {i}"), "tokens": 3, "seconds": 0.1},
        ]
        turns = turns if i % 3 else turns[:2] + turns[-1:]
        end = ends[i % 3]
        return {"end": end, "turns": turns, "reply_tokens": 17, "info": {"reason": f"not right at {text}"}}

    for file in (path / "02-zero" / "samples").glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        storage.write_jsonl(file, [row | episode(i, row["step"]) for i, row in enumerate(rows)])
    file = path / "02-zero" / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        if "reward" in row:
            shares = {"answered": 0.5, "turns": 0.5} if row["step"] > 2 else {"answered": 1.0}
            row["episodes"] = {"turns": 3.0, "calls": 2.0, "call_errors": 0.5, "reply_tokens": 17.0, "ends": shares}
    storage.write_jsonl(file, rows)
    for name in ("01-base", "03-after"):
        file = path / name / "samples" / "questions.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row |= {"completions": ["41"] * 4, "episodes": [episode(i, 0) for i in range(4)]}
        storage.write_jsonl(file, rows)
        result = json.loads((path / name / "result.json").read_text())
        figures = {
            "turns": 3.5,
            "calls": 2.25,
            "call_errors": 0.4,
            "pass^2": 0.5,
            "ends": {"answered": 0.75, "turns": 0.25},
        }
        result["tasks"]["maths"] |= figures
        storage.write_json_atomic(path / name / "result.json", result)
    return path


SCRIPT = "</script><script>document.title = 'hacked'</script><img src=x onerror=\"document.title='hacked'\">"


@pytest.fixture
def make_run():
    """Writes a run: see `write_run`."""
    return write_run


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """A finished run, not to be changed."""
    return write_run(tmp_path_factory.mktemp("runs") / "tried")


@pytest.fixture(scope="session")
def played(tmp_path_factory) -> Path:
    """A finished run of episodes, not to be changed."""
    return as_episodes(write_run(tmp_path_factory.mktemp("runs") / "played"))


@pytest.fixture
def hostile_episodes(tmp_path) -> Path:
    """Episodes of a hostile model in a hostile environment."""
    path = as_episodes(write_run(tmp_path / "hostile", steps=4), text=SCRIPT + " \x00\x1b[31m {{step}}")
    file = path / "02-zero" / "samples" / "step_000001.jsonl"
    row = json.loads(file.read_text().splitlines()[0])
    call = {"name": SCRIPT, "arguments": {SCRIPT: [SCRIPT, float("nan"), "\ud83d"]}}
    turn = {"own": True, "text": "x" * 30_000, "tokens": "many", "calls": [call, None, 3] * 10, "error": SCRIPT * 99}
    odd = [{"turns": [turn] * 300, "end": SCRIPT, "info": {"reason": SCRIPT}}, {"turns": 5, "end": ["a"], "info": 3}]
    odd += [{"turns": [None, {}, turn | {"calls": "x", "own": 1}], "end": None}, {"turns": [], "end": "length"}]
    with file.open("a") as out:
        out.writelines(json.dumps(row | one) + "\n" for one in odd)
    return path


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A run that was killed, and whose model and disk did what they could."""
    path = write_run(
        tmp_path / "hostile", steps=6, group=4, text=lambda step, i: f"Wait: {SCRIPT} {step} {i} " + "\x00\x1b[31m"
    )
    zero = path / "02-zero"
    first = zero / "samples" / "step_000001.jsonl"
    row = json.loads(first.read_text().splitlines()[0])
    big = row | {"completion": "word \ud83d " * 150_000, "prompt": SCRIPT, "reasons": {"maths": SCRIPT}}
    with first.open("ab") as file:
        file.write(json.dumps(big).encode() + b"\n")
        file.write(
            b'{"step": 1, "completion": "\xff\xfe no UTF-8", "prompt": "p", "reward": "much", "right": "yes"}\n'
        )
        file.write(b'[1, 2]\n{"step": 1, "completion": "half a li')
    with (zero / "metrics.jsonl").open("ab") as file:
        file.write(
            b'{"phase": "train", "step": "seven"}\n{"phase": "train", "step": 7, "reward": NaN, "rewards": 3}\n{"pha'
        )
    (path / "manifest.json").unlink()
    (path / "result.json").unlink()
    (zero / "result.json").write_text("{")
    (path / "03-after" / "result.json").unlink()
    (path / "01-base" / "config.yaml").write_text("a: [")
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """A tab of Chromium."""
    if not chromium.program():
        pytest.skip("no Chromium on this machine: install the package chromium to run this")
    pytest.importorskip("websockets", reason="needs the package websockets to drive Chromium")
    with chromium.page(tmp_path_factory.mktemp("chromium")) as page:
        yield page
