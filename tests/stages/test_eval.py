"""What an evaluation makes of its records."""

import ast

import pytest

from r1lab import recipe
from r1lab.data.knights_knaves import split_of
from r1lab.records import answer_of, figures
from r1lab.stages.eval import eval_tasks


def record(scores, greedy, answers=None, task="kk/2ppl"):
    n = len(scores)
    return {
        "task": "kk",
        "subtask": task,
        "scores": scores,
        "greedy": greedy,
        "answers": answers or ["a" if s else "b" for s in scores],
        "truncated": [False] * n,
        "lengths": [10] * n,
    }


def test_figures():
    found = figures([record([1, 0, 0, 0], 1), record([1, 1, 1, 0], 0)])
    assert found["n_questions"] == 2 and found["n_samples"] == 4
    assert found["avg"] == 0.5 and found["greedy"] == 0.5
    assert found["pass@4"] == 1.0 and found["maj@4"] == 0.5
    assert found["ci95"][0] <= 0.5 <= found["ci95"][1]
    assert found["truncated"] == 0 and found["length"] == 10


@pytest.mark.parametrize(
    "text, answer",
    [
        ("<think> x </think> <answer> (1) Zoey is a Knight\n(2) B </answer>", "(1) zoey is a knight (2) b"),
        ("<answer>a</answer> no <answer> b </answer>", "b"),
        ("<think> x </think> 7", "7"),
        ("<think> x", None),
        ("<answer> </answer>", None),
    ],
)
def test_answer_of(text, answer):
    assert answer_of(text) == answer


def test_a_training_without_tasks_is_evaluated_on_the_test_split(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "stage: grpo\nmodel: {path: embedded:tiny-qwen2}\ndata: {builder: knights_knaves, people: 3, size: 30}\n"
        "rewards: [{name: knights_knaves}]\ntrain: {per_device_train_batch_size: 8}\neval: {every: 1, size: 12}\n"
    )
    ((name, rows),) = eval_tasks(recipe.load([str(path)])).items()
    assert name == "knights_knaves" and len(rows) == 12
    assert {split_of(ast.literal_eval(row["statements"])) for row in rows} == {"test"}
