"""What a person sees at the end of a pipeline."""

import io
import shlex

from rich.console import Console

from r1lab.report import learning_curve
from r1lab.run import summary
from r1lab.rundir import storage


def figures(avg):
    return {"kk": {"avg": avg, "ci95": [avg - 0.1, avg + 0.1], "n_questions": 10, "n_samples": 1}}


def pipeline(run, monkeypatch):
    """base-eval, zero (with an evaluation at step 2), zero-eval, control, control-eval; what `curve` hands on."""
    seen = []
    monkeypatch.setattr(
        learning_curve, "learning_curve", lambda path, segments, lines, title: seen.append((title, segments, lines))
    )
    stages = []
    for name, kind, value in [
        ("base-eval", "eval", 0.2), ("zero", "grpo", None), ("zero-eval", "eval", 0.5),
        ("control", "grpo", None), ("control-eval", "eval", 0.3),
    ]:  # fmt: skip
        path = run / f"{len(stages) + 1:02d}-{name}"
        path.mkdir()
        stages.append((name, kind, path))
        if kind == "eval":
            storage.write_json_atomic(path / "result.json", {"stage": "eval", "tasks": figures(value)})
            continue
        rows = [{"phase": "train", "step": step, "total": 4, "reward": 0.1} for step in range(1, 5)]
        if name == "zero":
            rows.insert(2, {"phase": "eval", "step": 2, "total": 4, "tasks": figures(0.4)})
        storage.write_jsonl(path / "metrics.jsonl", rows)
    row = {"task": "kk", "before_value": 0.2, "after_value": 0.5, "diff": 0.3, "ci95": [0.2, 0.4]}
    compare = [
        row | {"before": "base-eval", "after": after} for after in ("zero-eval", "control-eval") for _ in range(2)
    ]
    summary.curve(run, stages, compare)
    return stages, *seen[0]


def test_a_line_joins_what_is_compared_through_the_training_between(tmp_path, monkeypatch):
    _, title, segments, lines = pipeline(tmp_path, monkeypatch)
    assert title == f"{tmp_path.name}: held-out accuracy 20.0 → 50.0 % (+30.0 [+20.0, +40.0])"
    assert [(segment.name, segment.start) for segment in segments] == [("zero", 0), ("control", 4)]
    assert [[(point.step, point.value) for point in line] for line in lines] == [
        [(0, 0.2), (2, 0.4), (4, 0.5)],
        [(0, 0.2), (8, 0.3)],
        [],
    ]


def test_all_models_of_a_pipeline_are_told(tmp_path, monkeypatch):
    stages, *_ = pipeline(tmp_path, monkeypatch)
    written = io.StringIO()
    summary._where(Console(file=written, width=200), tmp_path, stages, None)
    assert f"models {tmp_path}/STAGE/model/, STAGE one of 02-zero, 04-control" in written.getvalue()
    written = io.StringIO()
    summary._where(Console(file=written, width=200), tmp_path, stages[:3], None)
    assert f"model  {stages[1][2]}/model/" in written.getvalue()


def test_completions_of_a_run_with_several_ranks(tmp_path):
    for step in (1, 12):
        for rank in ("", ".rank1"):
            row = {"prompt": f"question of rank {rank or 0}", "completion": f"answer at step {step}"}
            storage.write_jsonl(tmp_path / "samples" / f"step_{step:06d}{rank}.jsonl", [row])
    found = summary.completions(tmp_path)
    assert [(step, sorted(row["prompt"] for row in rows)) for step, rows in found] == [
        (step, ["question of rank .rank1", "question of rank 0"]) for step in (1, 12)
    ]


def evaluated(path, answers):
    """An eval stage with one sampled answer to each question; an answer of `right` is scored 1."""
    rows = [
        {
            "task": "kk",
            "index": i,
            "prompt": f"question {i}",
            "completions": [text],
            "scores": [float(text == "right")],
        }
        for i, text in enumerate(answers)
    ]
    storage.write_jsonl(path / "samples" / "questions.jsonl", rows)
    return path.name, path


def printed(show, *arguments):
    written = io.StringIO()
    show(Console(file=written, width=100), *arguments)
    return written.getvalue()


def test_the_same_question_before_and_after(tmp_path):
    base = evaluated(tmp_path / "base", ["wrong", "right", "wrong", "right", "wrong"])
    after = evaluated(tmp_path / "after", ["right", "wrong", "right", "right", "right"])
    page = printed(summary.show_question, base, after)
    assert "question 2" in page and "question 0" not in page, "the middle one of those that changed"
    assert "base: wrong\nwrong\n" in page and "after: correct\nright\n" in page
    assert "first answers to 5 questions: 3 went from wrong to correct, 1 from correct to wrong" in page
    assert printed(summary.show_question, after, after) == "", "no question changed"


def test_a_run_ends_with_its_report_and_the_next_command(tmp_path):
    storage.write_yaml(tmp_path / "config.yaml", {"stage": "eval", "name": "mine"})
    page = printed(summary._where, tmp_path, [("mine", "eval", tmp_path)], None)
    assert f"report {tmp_path}/report.html\n" in page and (tmp_path / "report.html").is_file()
    assert f"next   r1lab report {tmp_path} OTHER_RUN" in page


def test_the_next_command_evaluates_an_embedded_model_on_the_puzzles_that_it_knows(tmp_path):
    for path, protocol in (("embedded:tiny-qwen2", "quickstart"), ("Qwen/Qwen2.5-0.5B", "greedy")):
        storage.write_yaml(tmp_path / "config.yaml", {"stage": "grpo", "name": "mine", "model": {"path": path}})
        assert f"--protocol {protocol}," in summary._next(tmp_path, [("mine", "grpo", tmp_path)], [tmp_path])


def test_the_next_command_evaluates_a_model_of_ones_own_rows_on_ones_own_rows(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    data = {"builder": "rows", "path": str(tmp_path / "train.jsonl"), "columns": {"prompt": "q", "answer": "final"}}
    config = {"stage": "grpo", "name": "mine", "data": data, "rewards": [{"name": "accuracy"}]}
    storage.write_yaml(tmp_path / "config.yaml", config | {"model": {"path": "embedded:tiny-qwen2"}})
    command, _, _ = summary._next(tmp_path, [("mine", "grpo", tmp_path)], [tmp_path]).partition(", on rows")
    words = ["--tasks", "OTHER_ROWS.jsonl", "--grader", "accuracy", "--protocol", "greedy"]
    last = "eval.tasks.0.columns={prompt: q, answer: final}"
    assert shlex.split(command) == ["r1lab", "eval", f"{tmp_path}/model", *words, last]


def test_the_next_command_may_be_given(tmp_path):
    storage.write_yaml(tmp_path / "config.yaml", {"stage": "eval", "name": "mine"})
    page = printed(summary._where, tmp_path, [("mine", "eval", tmp_path)], None, "r1lab run mine.yaml")
    assert page.endswith("next   r1lab run mine.yaml\n")


def test_a_report_that_cannot_be_written_does_not_fail_the_run(tmp_path):
    (tmp_path / "report.html").mkdir()
    storage.write_yaml(tmp_path / "config.yaml", {"stage": "eval", "name": "mine"})
    page = printed(summary._where, tmp_path, [("mine", "eval", tmp_path)], None)
    assert "report not written: " in page and f"to write it: r1lab report {tmp_path}" in page
