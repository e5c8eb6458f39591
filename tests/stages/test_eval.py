"""What an evaluation makes of its records."""

import ast
import logging
from pathlib import Path

import pytest

from r1lab.data.knights_knaves import split_of
from r1lab.engines import Completion
from r1lab.evaluation import records
from r1lab.evaluation.records import Judge, answer_of, figures
from r1lab.recipe import loading
from r1lab.run import summary
from r1lab.rundir import directory, storage
from r1lab.stages.eval import progress_writer
from r1lab.stages.eval import run as eval_run
from r1lab.stages.rows import build_rows, eval_tasks, instructed


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


def test_an_evaluation_records_every_reward_and_shows_the_means_of_those_that_do_not_decide():
    rewards = [{"name": "exact_match"}, {"name": "reasoning_steps"}, {"name": "choice", "tasks": ["other"]}]
    judge = Judge(rewards, template="none", prefill="")
    row = {"prompt": "2 + 2?", "answer": "4", "task": "sum"}
    said = [Completion("4", [1], False), Completion("First, think.\nSecond, add.\nThird, 4.", [1, 2], False)]
    made = records.record("sum", "sum", 0, row, said, judge.judge(said, [row] * 2, Path("unused")))
    assert made["scores"] == [1, 0] and made["rewards"] == {"reasoning_steps": [0.0, 1 / 3]}
    found = figures([made])
    assert found["avg"] == 0.5 and found["rewards"] == {"reasoning_steps": 0.1667}
    result = {"tasks": {"sum": found}}
    assert "reasoning…  0.167" in summary.accuracy_table([("eval", result)], []).plain


def test_answers_that_timed_out_are_counted():
    late = record([1, 0, 0], 0) | {"graded_by": "accuracy", "reasons": ["correct", "timeout", "wrong: 3"]}
    assert figures([late, late | {"greedy_reason": "timeout"}])["timeouts"] == 3
    assert "timeouts" not in figures([late | {"graded_by": "code"}])  # a program that takes too long is wrong
    assert "timeouts" not in figures([late | {"reasons": ["correct", "no_answer", "wrong: 3"]}])


def test_an_evaluation_says_that_answers_timed_out(tmp_path, monkeypatch, capsys):
    text = """
stage: eval
model: {path: embedded:tiny-qwen2}
data: {builder: knights_knaves, people: [2]}
prompt: {template: r1-zero}
rewards: [{name: accuracy, deadline: 1.0e-6}]
rollout: {engine: transformers}
eval: {size: 4, num_samples: 1, max_completion_length: 8}
"""
    (tmp_path / "r.yaml").write_text(text)
    assert eval_run(loading.load([str(tmp_path / "r.yaml")]), tmp_path / "run") == 0
    told = "knights_knaves: 8 answers were not graded in time and count as wrong, so its scores are too low"
    assert told in capsys.readouterr().out
    result = directory.result(tmp_path / "run")
    assert result["tasks"]["knights_knaves"]["timeouts"] == 8  # four samples and four greedy answers
    table = summary.accuracy_table([("eval", result)], [])
    assert "timed out   8" in table.plain and "the scores are too low" in table.plain
    assert "eval: 8 answers timed out" in summary.stages_tables([("eval", result)], [])[0].plain


def test_programs_and_requests_do_not_vote():
    voteless = record([1, 1], 1)
    del voteless["answers"]
    assert "maj@2" not in figures([voteless]) and figures([voteless])["pass@2"] == 1
    written = Completion("```python\nprint(1)\n```", [1], [0.0], False)
    for reward, has in (("instruction", False), ("exact_match", True)):
        judge = Judge([{"name": reward}], template="none", prefill="")
        row = {"prompt": "?", "answer": "1", "constraints": [{"kind": "num_words", "at_least": 1}]}
        (judged,) = judge.judge([written], [row], Path("failed.jsonl"))
        assert ("answer" in judged) is has


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
    ((name, rows),) = eval_tasks(loading.load([str(path)])).items()
    assert name == "knights_knaves" and len(rows) == 12
    assert {split_of(ast.literal_eval(row["statements"])) for row in rows} == {"test"}


@pytest.mark.parametrize("template, told", [("chat", True), ("none", True), ("r1-zero", False), ("logic-rl", False)])
def test_an_instruction_stands_below_questions_whose_template_names_no_form(tmp_path, template, told):
    path = tmp_path / "r.yaml"
    path.write_text(
        f"stage: eval\nmodel: {{path: embedded:tiny-qwen2}}\ndata: {{builder: arithmetic}}\n"
        f"prompt: {{template: {template}}}\nrewards: [{{name: accuracy}}]\n"
        "eval: {size: 3, tasks: [arithmetic, {name: boxed, builder: arithmetic, instruction: Use a box.}]}\n"
    )
    tasks = eval_tasks(loading.load([str(path)]))
    assert all(not row["prompt"].endswith("Use a box.") for row in tasks["arithmetic"])
    assert all(row["prompt"].endswith("\n\nUse a box.") is told for row in tasks["boxed"])
    plain = [row["prompt"].removesuffix("\n\nUse a box.") for row in tasks["boxed"]]
    assert plain == [row["prompt"] for row in tasks["arithmetic"]]


def test_an_instruction_stands_in_the_last_of_chat_messages():
    before = [{"role": "system", "content": "Hi."}, {"role": "user", "content": "2+2?"}]
    after = instructed(before, "Use a box.")
    assert after == [before[0], {"role": "user", "content": "2+2?\n\nUse a box."}] and before[1]["content"] == "2+2?"


def test_a_size_that_a_training_cannot_have_is_told_and_that_of_an_evaluation_is_a_limit(tmp_path, caplog):
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "2+2?", "answer": "4"}\n' * 3)
    path = tmp_path / "r.yaml"
    path.write_text(
        f"stage: grpo\nmodel: {{path: embedded:tiny-qwen2}}\ndata: {{builder: rows, path: {few}, size: 200}}\n"
        "rewards: [{name: accuracy}]\ntrain: {per_device_train_batch_size: 8}\n"
        f"eval: {{every: 1, size: 200, tasks: [{{builder: rows, path: {few}}}]}}\n"
    )
    loaded = loading.load([str(path)])
    with caplog.at_level(logging.WARNING):
        assert len(eval_tasks(loaded)["rows"]) == 3 and not caplog.text
        assert len(build_rows(loaded.data, seed=0)) == 3
    assert "few.jsonl: data.size is 200, but there are only 3 rows, which are all used" in caplog.text


def test_the_rate_of_a_round_is_of_its_own_tokens_and_seconds(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("r1lab.stages.eval.time.time", lambda: now[0])
    progress = progress_writer(tmp_path, "eval", 0)
    for answers, done, tokens in [("a", 1, 1000), ("a", 2, 2000), ("b", 1, 50), ("b", 2, 200)]:
        now[0] += 10
        progress(answers, done, 2, tokens)
    rows = storage.read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["tokens_per_second"] for row in rows] == [100, 100, 5, 10]
