"""Paired comparisons of two evaluations on the same questions."""

import json
from pathlib import Path

from r1lab.evaluation import stats
from r1lab.rundir import directory, storage

METRICS = ("avg", "greedy", "strict", "lenient")


def compare(before: str, after: str, folders: dict[str, Path]) -> list[dict]:
    """Paired differences between two eval stages for each task and metric that both have, over shared questions.

    `strict` and `lenient` are among the metrics where one of them differs from `avg`: what `lenient` gains is
    reasoning, and what `strict` gains beyond it is format.
    The metric `budget 64` is the lenient accuracy with thinking stopped at 64 tokens.
    """
    scores = [_scores(folders[name]) for name in (before, after)]
    rows = []
    for task, metric in scores[0]:
        forms = [{form: of.get((task, form)) for form in ("avg", "strict", "lenient")} for of in scores]
        if metric in ("strict", "lenient") and all(of["strict"] == of["lenient"] == of["avg"] for of in forms):
            continue
        first, second = scores[0][task, metric], scores[1].get((task, metric), {})
        shared = [question for question in first if question in second]
        if not shared:
            continue
        old, new = ([table[question] for question in shared] for table in (first, second))
        diff, ci95 = stats.paired_diff(old, new)
        rows.append(
            {
                "task": task,
                "metric": metric,
                "before": before,
                "after": after,
                "before_value": round(sum(old) / len(old), 4),
                "after_value": round(sum(new) / len(new), 4),
                "diff": round(diff, 4),
                "ci95": [round(bound, 4) for bound in ci95],
                "n_questions": len(shared),
            }
        )
    return rows


def _scores(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """For each task and metric, the score of each question, for the tasks that the stage's result lists."""
    tasks = directory.finished_result(path)["tasks"]
    budgets = {t: [f"budget {one['budget']}" for one in scores.get("budgets", ())[:-1]] for t, scores in tasks.items()}
    scores: dict[tuple[str, str], dict[str, float]] = {
        (task, metric): {} for task in tasks for metric in (*METRICS, *budgets[task])
    }
    for row in storage.read_jsonl(path / "samples" / "questions.jsonl"):
        question = question_key(row)
        for task in {row["task"], row.get("subtask", row["task"])} & tasks.keys():
            scores[task, "avg"][question] = sum(row["scores"]) / len(row["scores"])
            for form in ("strict", "lenient"):
                if form in row:
                    scores[task, form][question] = sum(row[form]) / len(row[form])
            if row.get("greedy") is not None:
                scores[task, "greedy"][question] = row["greedy"]
            for one in row.get("budgets", ()):
                scores[task, f"budget {one['budget']}"][question] = sum(one["lenient"]) / len(one["lenient"])
    return scores


def question_key(row: dict) -> str:
    """The key that identifies the question of a row of `questions.jsonl` across evaluations."""
    return row.get("key") or json.dumps([row.get("prompt"), row["index"]], sort_keys=True)
