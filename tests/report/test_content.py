"""Tables and alarms of a report, also of damaged or unfinished runs."""

import dataclasses
import json
import os
import shutil

import pytest

from r1lab.report import about, content, evaluations, figures, groups, packed, read, samples, verdict
from r1lab.rundir import storage


def test_a_pipeline_that_has_not_finished_is_compared_as_far_as_it_got(make_run, tmp_path):
    path = make_run(tmp_path / "killed")
    finished = read.read(path)
    (path / "result.json").unlink()
    killed = read.read(path)
    assert killed.compare == finished.compare and killed.compare[0]["diff"] > 0.4
    storage.write_text_atomic(path / "01-base" / "samples" / "questions.jsonl", '{"task": "maths", "scores": 1}\n')
    damaged = read.read(path)
    assert damaged.compare == [] and any("cannot be compared" in problem for problem in damaged.problems)


def test_stages_that_have_not_started(make_run, tmp_path):
    path = make_run(tmp_path / "short")
    os.rename(path / "03-after", tmp_path / "after")
    run = read.read(path)
    assert [stage.name for stage in run.stages] == ["base", "zero", "after"]
    assert "short: 1 of 3 stages has not started: after" in run.problems
    rows = {row[0]: row for row in content.stages_table(run).rows}
    assert rows["zero"][1:5] == ["grpo", "12", "12s", "finished"] and rows["after"][3:5] == ["-", "not started"]


def test_the_first_completions_with_a_reflection_word(run):
    seen = {s.word: s for s in content.reflections(samples.read(read.read(run), [])["zero"])}
    assert {"wait", "check"} <= seen.keys() and "verify" not in seen
    assert (seen["wait"].first, seen["wait"].last, seen["wait"].step) == (1.0, 1.0, 1)
    assert "Wait, let me check step 1 of 0" in seen["wait"].completion.text
    assert content.place("WAIT, awaiting", "wait") == 0 and content.place("No, wait", "wait") == 4


def test_alarms(run):
    whole = read.read(run)
    assert content.alarms(whole, {}) == ["zero, step 9: alarm entropy: too low <i>"]


@pytest.mark.parametrize(
    "change",
    [{"compare": "much"}, {"compare": [{"task": 1}, 5]}, {"compare": [{"task": "a", "before": "b", "after": "c"}]}],
)
def test_a_result_with_odd_comparisons(make_run, tmp_path, change):
    path = make_run(tmp_path / "odd", steps=1)
    result = json.loads((path / "result.json").read_text()) | change
    (path / "result.json").write_text(json.dumps(result))
    assert read.read(path).compare == []


def test_lines_that_are_no_rows(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    path.write_bytes(b'{"a": 1}\n\n[1]\n"a"\n{"b": "\xff"}\n' + b"[" * 100_000 + b'\n{"half": tr')
    problems = []
    assert list(read.rows(path, problems)) == [{"a": 1}, {"b": "\ufffd"}]
    assert problems == [
        "run/metrics.jsonl: 4 lines are not JSON objects, skipped",
        "run/metrics.jsonl: 1 line has bytes that are not UTF-8, shown as \ufffd",
    ]


def test_a_page_can_hold_any_text():
    assert read.clean("a\x00\x1b\r\n\tb\x7f\ud83d") == "a␀␛\n\tb␡\ufffd"
    read.clean("\ud800 \udfff").encode()


ODD = (None, 5, -1.5, True, "x", [1], [{"a": 1}], {"a": [1]}, float("nan"), 1e308, "\ud800")


@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples/step_000001.jsonl", "result.json", "../manifest.json"])
def test_odd_values_anywhere(make_run, tmp_path, name, value):
    """Each value of a file in turn is something that it never should be."""
    path = make_run(tmp_path / "odd", steps=2, group=2)
    file = path / "02-zero" / name
    first = json.loads(file.read_text().splitlines()[0] if name.endswith("l") else file.read_text())
    rows = [first | {key: value} for key in first] + [{key: {key: value} for key in first}]
    for row in rows if name.endswith("n") else [rows]:
        text = "\n".join(map(json.dumps, row)) if isinstance(row, list) else json.dumps(row)
        file.write_text(text + "\n")
        _say_everything(path)


def _say_everything(path):
    run = read.read(path)
    completions = samples.read(run, run.problems)
    verdict.verdict(run, completions), verdict.big_numbers([run]), verdict.verdict_table([run])
    assert about.about(run).rows and about.summary(run)
    assert len(content.stages_table(run).rows) == 3 and completions
    content.flags_table(completions)
    content.alarms(run, completions), verdict.accuracies([run]), content.times(run), groups.groups([run])
    for stage in run.stages:
        for chart in figures.charts({"run": [(stage, completions[stage.name])]}):
            assert chart.description
    packed.pack(completions, 10**7)
    json.dumps(completions, default=str).encode()


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_values_in_the_recipe(make_run, tmp_path, value):
    path = make_run(tmp_path / "odd", steps=1, group=2)
    config = storage.read_yaml(path / "config.yaml")
    for key in ("seed", "compare", "rewards", "rollout", "train"):
        changed = config | {key: value} | {"stages": [stage | {key: value} for stage in config["stages"]]}
        (path / "config.yaml").write_text(json.dumps(changed))  # JSON is YAML
        _say_everything(path)


def run_of(path, stage, **more):
    return read.Run("r", path, **{"config": {}, "recipe": "", "manifest": {}, "result": {}} | more,
                    stages=[stage], compare=[], problems=[])  # fmt: skip


def test_evaluations_in_full_stand_where_they_say_so_much(tmp_path):
    scores = {"avg": 0.5, "strict": 0.25, "lenient": 0.75, "format": 0.5, "truncated": 0.1, "n_samples": 4}
    scores |= {"pass@4": 0.9, "maj@4": 0.6, "length_right": 10.0, "length_wrong": 20.4}
    stage = read.Stage("after", "eval", tmp_path, {}, {"tasks": {"kk": scores, "old": {"avg": 0.5}}})
    table = evaluations.evaluations_table(run_of(tmp_path, stage))
    assert table.rows == [
        ["after", "kk", "50.0", "25.0", "75.0", "50.0", "10.0", "pass@4 90.0, maj@4 60.0", "10 / 20 / -"]
    ]


def test_greedy_answers_and_parts_of_tasks_stand_in_full_with_their_intervals(tmp_path):
    scores = {"avg": 0.5, "ci95": [0.4, 0.6], "greedy": 0.25, "greedy_ci95": [0.2, 0.3]}
    strict = {"strict": 0.125, "strict_ci95": [0.1, 0.2]}
    tasks = {"kk": scores | strict, "kk/2ppl": scores, "other": {"avg": 0.5}, "other/a": {"avg": 0.75}}
    table = evaluations.evaluations_table(run_of(tmp_path, read.Stage("e", "eval", tmp_path, {}, {"tasks": tasks})))
    assert table.head[2:5] == ["% correct", "greedy", "strict"]
    assert [row[1:5] for row in table.rows] == [
        ["kk", "50.0 [40.0, 60.0]", "25.0 [20.0, 30.0]", "12.5 [10.0, 20.0]"],
        ["kk/2ppl", "50.0 [40.0, 60.0]", "25.0 [20.0, 30.0]", "-"],
        ["other/a", "75.0", "-", "-"],
    ]


def test_an_evaluation_that_is_under_way(make_run, tmp_path):
    path = make_run(tmp_path / "running", steps=1)
    after = path / "03-after"
    (path / "result.json").unlink(), (after / "result.json").unlink()
    rows = (after / "samples" / "questions.jsonl").read_text().splitlines(keepends=True)
    (after / "samples" / "partial.jsonl").write_text("".join(rows[:8]) + rows[8][:40])
    (after / "samples" / "questions.jsonl").unlink()
    storage.append_jsonl(after / "metrics.jsonl", {"phase": "eval", "step": 0, "done": 8, "total": 60})
    run = read.read(path)
    assert verdict.verdict(run, {})[-1] == "after has not finished: it is at 8 of 60 questions"
    assert content.stages_table(run).rows[-1][4] == "not finished, at 8 of 60 questions"
    assert len(samples.read(run, run.problems)["after"]) == 8
    assert "03-after/samples/partial.jsonl: 1 line is not a JSON object, skipped" in run.problems


def test_a_damaged_result_is_told_as_such(make_run, tmp_path):
    path = make_run(tmp_path / "damaged", steps=1)
    (path / "01-base" / "result.json").write_text("{")
    run = read.read(path)
    assert content.stages_table(run).rows[0][4] == "result.json damaged"
    assert "base: its result.json is damaged; it is at 40 of 40 questions" in verdict.verdict(run, {})


def test_arrows_are_explained_where_there_are_some(run, make_run, tmp_path):
    assert "Arrows" in content.stages_table(read.read(run)).note
    path = make_run(tmp_path / "evaluations", steps=1)
    shutil.rmtree(path / "02-zero")
    assert content.stages_table(read.read(path)).note == "Total time: 40s."


def test_models_are_told_without_the_places_of_a_machine(tmp_path):
    paths = (
        "/home/joe/of/many/models/qwen",
        "/data/qwen",
        "a/b",
        "@cold/model",
        f"{tmp_path}/01-x/model",
        "/old/02-y",
    )
    stages = [read.Stage(str(i), "eval", tmp_path / "s", {"model": {"path": path}}) for i, path in enumerate(paths)]
    manifest = {
        "command": ["/home/joe/venv/bin/r1lab", "run", "/data/joe/my.yaml"],
        "directory": "/old",
        "git": None,
        "r1lab_git": {"commit": "0123456789abcdef", "diff": "a\nb"},
    }
    whole = dataclasses.replace(run_of(tmp_path, stages[0], manifest=manifest), stages=stages)
    facts = dict(about.about(whole).rows)
    assert facts["command"] == "r1lab run my.yaml"
    assert facts["models"] == "…/many/models/qwen, /data/qwen, a/b"
    assert facts["commit"] == "0123456789, with 2 lines of uncommitted changes"


def test_a_table_has_no_columns_without_values():
    table = content.filled(
        content.Table(["task", "greedy", "maj@n"], [["a", "-", ""], ["b", "", "maj@4 50.0"]], "note")
    )
    assert table == content.Table(["task", "maj@n"], [["a", ""], ["b", "maj@4 50.0"]], "note")


def test_flags_that_no_completion_has_are_not_in_the_table(run):
    own = samples.read(read.read(run), [])
    assert content.flags_table(own).head == ["stage", "completions", "bare"]
    assert content.flags_table({"zero": own["zero"]}) is None


def test_episodes_of_evaluations(played, run):
    table = evaluations.episodes_table(read.read(played))
    assert [row[:2] for row in table.rows] == [["base", "maths"], ["after", "maths"]]
    row = dict(zip(table.head, table.rows[0]))
    assert (row["turns"], row["calls"], row["errors"], row["pass^k"]) == ("3.50", "2.25", "40.0", "pass^2 50.0")
    assert row["ends"] == "answered 75.0, turns 25.0" and row["not counted"] == "-"
    assert "turns, the maximum number of turns" in table.note and "length" not in table.note
    assert evaluations.episodes_table(read.read(run)) is None
