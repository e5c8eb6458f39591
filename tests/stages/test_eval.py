"""What an evaluation makes of its records."""

import pytest

from r1lab.stages.eval import _figures, answer_of


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
    figures = _figures([record([1, 0, 0, 0], 1), record([1, 1, 1, 0], 0)])
    assert figures["n_questions"] == 2 and figures["n_samples"] == 4
    assert figures["avg"] == 0.5 and figures["greedy"] == 0.5
    assert figures["pass@4"] == 1.0 and figures["maj@4"] == 0.5
    assert figures["ci95"][0] <= 0.5 <= figures["ci95"][1]
    assert figures["truncated"] == 0 and figures["length"] == 10


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
