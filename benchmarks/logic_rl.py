"""Prints Logic-RL's tables from runs of recipes/logic-rl, as Markdown: see docs/studies/logic-rl.md.

python benchmarks/logic_rl.py table runs/logic-rl-table [MORE ...]
python benchmarks/logic_rl.py memorization runs/logic-rl-memorization
python benchmarks/logic_rl.py reflection runs/logic-rl-tiny/02-grpo
"""

import argparse
import statistics
from pathlib import Path

from r1lab.errors import UserError
from r1lab.evaluation import reflection
from r1lab.evaluation.memorization import limem
from r1lab.recipe import loading as recipes
from r1lab.rundir import directory, storage

PEOPLE = range(2, 9)
# arXiv:2502.14768, the table of accuracies: 100 puzzles per number of people, one answer each.
PUBLISHED = {
    "o3-mini-high": (0.99, 0.98, 0.97, 0.95, 0.94, 0.89, 0.83),
    "o1-2024-12-17": (0.83, 0.51, 0.38, 0.38, 0.35, 0.30, 0.20),
    "DeepSeek-R1": (0.91, 0.73, 0.77, 0.78, 0.75, 0.88, 0.83),
    "GPT-4o": (0.68, 0.57, 0.49, 0.32, 0.23, 0.21, 0.11),
    "GPT-4o-mini": (0.63, 0.42, 0.34, 0.17, 0.09, 0.10, 0.01),
    "NuminaMath-7B-CoT": (0.28, 0.13, 0.12, 0.05, 0.01, 0.0, 0.0),
    "Deepseek-Math-7B": (0.35, 0.21, 0.08, 0.06, 0.02, 0.0, 0.0),
    "Qwen2.5-7B": (0.41, 0.34, 0.16, 0.09, 0.0, 0.0, 0.0),
    "Qwen2.5-7B-Instruct-1M": (0.49, 0.40, 0.25, 0.11, 0.06, 0.02, 0.01),
    "Qwen2.5-7B-Instruct-1M, Logic-RL": (0.99, 0.99, 0.94, 0.92, 0.91, 0.80, 0.67),
}


def table(runs: list[str]) -> str:
    """The published table, followed by each evaluation of the runs with tasks named `2ppl`, `3ppl`, ..."""
    lines = [_row(["model", *map(str, PEOPLE), "mean"]), _row(["---"] * (len(PEOPLE) + 2))]
    for name, shares in PUBLISHED.items():
        cells = [f"{100 * share:.0f}" for share in (*shares, statistics.fmean(shares))]
        lines.append(_row([f"{name} (published)", *cells]))
    for run in runs:
        found = {name: result["tasks"] for name, result in _results(run).items() if "tasks" in result}
        for name, tasks in found.items():
            scores = [tasks.get(f"{n}ppl") for n in PEOPLE]
            if any(scores):
                means = [score["avg"] for score in scores if score]
                mean = f"{100 * statistics.fmean(means):.1f}" if len(means) == len(PEOPLE) else ""
                lines.append(_row([name, *map(_share, scores), mean]))
    return "\n".join(lines)


def memorization(run: str) -> str:
    """LiMem of each stage with twins: stages `seen` and `seen-KIND`, `unseen` and `unseen-KIND`."""
    stages = {path.name.partition("-")[2]: path for path in sorted(Path(run).glob("[0-9][0-9]-*"))}
    lines = [_row(["puzzles", "twins", "pairs", "Acc", "CR", "LiMem"]), _row(["---"] * 6)]
    for name, path in stages.items():
        for twin_name, twin_path in stages.items():
            if twin_name.startswith(f"{name}-"):
                found = limem(*_paired(path, twin_path))
                cr = "" if found["cr"] is None else f"{100 * found['cr']:.1f}"
                low, high = (100 * bound for bound in found["ci95"])
                score = f"{100 * found['limem']:.1f} [{low:.1f}, {high:.1f}]"
                kind = twin_name.removeprefix(f"{name}-")
                lines.append(_row([name, kind, str(found["n_pairs"]), f"{100 * found['acc']:.1f}", cr, score]))
    return "\n".join(lines)


def words(run: str, rows: int = 10) -> str:
    """Reflection words per completion, and lengths in words, at about `rows` steps of a grpo stage."""
    steps = reflection.words_by_step(run)
    shown = steps[:: max(1, len(steps) // rows)]
    said = [word for word in reflection.WORDS if any(step["words"][word] for step in steps)]
    lines = [_row(["step", *said, "length right", "length wrong"]), _row(["---"] * (len(said) + 3))]
    for step in shown:
        lengths = [f"{step[key]['words']:.0f}" if step[key] else "" for key in ("right", "wrong")]
        lines.append(_row([str(step["step"]), *(f"{step['words'][word]:.2f}" for word in said), *lengths]))
    return "\n".join(lines)


def _paired(path: Path, twin_path: Path) -> tuple[list[float], list[float]]:
    """The share of correct samples of each puzzle that has a twin, and of the twin."""
    from r1lab.stages.rows import eval_tasks

    shares = {name: _shares(folder) for name, folder in (("original", path), ("twin", twin_path))}
    (twins,) = eval_tasks(recipes.load([str(twin_path / "config.yaml")])).values()
    pairs = [(row["original"], row["prompt"]) for row in twins if row["original"] in shares["original"]]
    if not pairs:
        raise UserError(f"{twin_path}: none of its puzzles is the twin of a puzzle in {path}")
    return [shares["original"][puzzle] for puzzle, _ in pairs], [shares["twin"][twin] for _, twin in pairs]


def _shares(path: Path) -> dict[str, float]:
    questions = storage.read_jsonl(path / "samples" / "questions.jsonl")
    return {question["prompt"]: statistics.fmean(question["scores"]) for question in questions}


def _results(run: str) -> dict[str, dict]:
    result = directory.result(run)
    if result is None:
        raise UserError(f"{run}: there is no result.json: the run has not finished")
    name = Path(run).name
    return {f"{name}/{stage}": found for stage, found in result.get("stages", {}).items()} or {name: result}


def _share(scores: dict | None) -> str:
    if scores is None:
        return ""
    low, high = scores["ci95"]
    return f"{100 * scores['avg']:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("table").add_argument("runs", nargs="*")
    verbs.add_parser("memorization").add_argument("run")
    verbs.add_parser("reflection").add_argument("run")
    arguments = parser.parse_args()
    try:
        made = {"table": table, "memorization": memorization, "reflection": words}[arguments.verb]
        print(made(arguments.runs if arguments.verb == "table" else arguments.run))
    except UserError as error:
        raise SystemExit(str(error)) from None
