"""What a report says, and what it makes of damaged or unfinished runs."""

import json
import os

import pytest

from r1lab import rundir
from r1lab.report import content, figures, packed, read, samples


def test_a_difference_is_told_by_its_interval():
    bounds = {"better": [0.1, 0.2], "worse": [-0.2, -0.1], "unclear": [-0.1, 0.2], "touching": [0.0, 0.2]}
    told = {name: content.direction({"ci95": ci95}) for name, ci95 in bounds.items()}
    assert told == {"better": "▲", "worse": "▼", "unclear": "≈", "touching": "≈"}


def test_a_pipeline_that_has_not_finished_is_compared_as_far_as_it_got(make_run, tmp_path):
    path = make_run(tmp_path / "killed")
    finished = read.read(path)
    (path / "result.json").unlink()
    killed = read.read(path)
    assert killed.compare == finished.compare and killed.compare[0]["diff"] > 0.4
    rundir.write_text_atomic(path / "01-base" / "samples" / "questions.jsonl", '{"task": "maths", "scores": 1}\n')
    damaged = read.read(path)
    assert damaged.compare == [] and any("cannot be compared" in problem for problem in damaged.problems)


def test_stages_that_have_not_begun(make_run, tmp_path):
    path = make_run(tmp_path / "short")
    os.rename(path / "03-after", tmp_path / "after")
    run = read.read(path)
    assert [stage.name for stage in run.stages] == ["base", "zero", "after"]
    assert "short: 1 of 3 stages have not begun: after" in run.problems
    rows = {row[0]: row for row in content.stages_table(run).rows}
    assert rows["zero"][1:5] == ["grpo", "12", "12s", "finished"] and rows["after"][3:5] == ["-", "-"]


def test_a_failed_stage_says_why(run, make_run, tmp_path):
    path = make_run(tmp_path / "failed")
    (path / "02-zero" / "result.json").unlink()
    (path / "result.json").unlink()
    (path / "02-zero" / "error.txt").write_text("train: the loss is nan\n")
    lines = content.verdict(read.read(path), {})
    assert lines[-1] == "≈ zero has not finished: it stands at step 12 of 12: train: the loss is nan"
    assert lines[:-1] == content.verdict(read.read(run), {})


def test_seeds_make_a_group_and_settings_do_not(make_run, tmp_path):
    runs = [read.read(make_run(tmp_path / name, steps=1, **more)) for name, more in (
        ("a-seed0", {}), ("a-seed1", {"seed": 1}), ("b", {"rate": 1.0}))]  # fmt: skip
    groups = content.groups(runs)
    assert [(group.label, len(group.runs)) for group in groups] == [("a (2 runs)", 2), ("b", 1)]


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
        "run/metrics.jsonl: 4 lines are no JSON object, left out",
        "run/metrics.jsonl: 1 line has bytes that are no UTF-8, shown as \ufffd",
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
    assert content.verdict(run, completions) and content.about(run).rows and content.summary(run)
    assert len(content.stages_table(run).rows) == 3 and content.signs_table(completions)
    content.alarms(run, completions), content.accuracies([run]), content.times(run), content.groups([run])
    for stage in run.stages:
        for chart in figures.charts({"run": [(stage, completions[stage.name])]}):
            assert chart.told
    packed.pack(completions, 10**7)
    json.dumps(completions, default=str).encode()


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_values_in_the_recipe(make_run, tmp_path, value):
    path = make_run(tmp_path / "odd", steps=1, group=2)
    config = rundir.read_yaml(path / "config.yaml")
    for key in ("seed", "compare", "rewards", "rollout", "train"):
        changed = config | {key: value} | {"stages": [stage | {key: value} for stage in config["stages"]]}
        (path / "config.yaml").write_text(json.dumps(changed))  # JSON is YAML
        _say_everything(path)


def test_evaluations_in_full_stand_where_they_say_so_much(tmp_path):
    from r1lab.report.evaluations import evaluations_table
    from r1lab.report.read import Run, Stage

    scores = {"avg": 0.5, "strict": 0.25, "lenient": 0.75, "format": 0.5, "truncated": 0.1, "n_samples": 4}
    scores |= {"pass@4": 0.9, "maj@4": 0.6, "length_right": 10.0, "length_wrong": 20.4}
    stage = Stage("after", "eval", tmp_path, {}, {"tasks": {"kk": scores, "kk/2ppl": scores, "old": {"avg": 0.5}}})
    table = evaluations_table(Run("r", tmp_path, {}, "", {}, {}, [stage], [], []))
    assert table.rows == [
        ["after", "kk", "50.0", "25.0", "75.0", "50.0", "10.0", "pass@4 90.0, maj@4 60.0", "10 / 20 / -"]
    ]
