"""The verdict: big numbers, one table of comparisons, and only those sentences that the table cannot say."""

import dataclasses
import os

from r1lab.report import read, samples, verdict


def test_a_difference_has_the_direction_of_its_interval():
    bounds = {"better": [0.1, 0.2], "worse": [-0.2, -0.1], "unclear": [-0.1, 0.2], "touching": [0.0, 0.2]}
    found = {name: verdict.direction({"ci95": ci95}) for name, ci95 in bounds.items()}
    assert found == {"better": "▲", "worse": "▼", "unclear": "≈", "touching": "≈"}


def test_the_first_comparison_in_big_numbers(run):
    whole = read.read(run)
    row = whole.compare[0]
    numbers = verdict.big_numbers([whole])
    assert [n.label for n in numbers] == ["accuracy before and after", "difference in points", "questions", "time"]
    before, after = 100 * row["before_value"], 100 * row["after_value"]
    assert numbers[0].value == f"{before:.1f} → {after:.1f} %" and numbers[0].detail == "maths, base → after"
    assert numbers[1].value == f"▲ +{100 * row['diff']:.1f}" and numbers[1].detail.startswith("95 % interval [+")
    assert (numbers[2].value, numbers[3].value) == ("40", "40s")
    other = dataclasses.replace(whole, name="other")
    assert [(n.label, n.value) for n in verdict.big_numbers([whole, other])] == [
        ("tried", numbers[1].value), ("other", numbers[1].value)]  # fmt: skip
    assert verdict.big_numbers([whole] * 5) == []


def test_evaluations_without_a_comparison_in_big_numbers(run):
    whole = dataclasses.replace(read.read(run), compare=[], result={}, seconds=None)
    numbers = verdict.big_numbers([whole])
    assert [n.label for n in numbers] == ["accuracy on maths"] * 2 and numbers[0].detail.startswith("base, 95 % inter")
    assert [n.label for n in verdict.big_numbers([whole, whole])] == ["tried"] * 2


def test_a_training_without_evaluations_begins_with_its_reward(run):
    whole = read.read(run)
    zero = dataclasses.replace(whole, compare=[], stages=[whole.stages[1]])
    first, time = verdict.big_numbers([zero])
    assert (first.label, first.detail) == ("reward in training", "zero, first step → last step")
    rewards = [whole.stages[1].rows[place]["reward"] for place in (0, -1)]
    assert first.value == "{:.2f} → {:.2f}".format(*rewards) and time.label == "time"
    assert verdict.verdict(zero, {}) == []
    sampled = read.Stage("sampled", "sample", whole.path, result={"kept": 31, "sampled": 1080})
    assert verdict.big_numbers([dataclasses.replace(zero, stages=[sampled])])[0].value == "31 of 1,080"
    empty = dataclasses.replace(zero, stages=[])
    assert verdict.big_numbers([empty]) == [], "no time alone"
    assert verdict.verdict(empty, {}) == [
        "The run has no evaluation and no training step yet, so it has no outcome."]  # fmt: skip


def test_a_row_per_task_and_metric_without_stage_names(run):
    table = verdict.verdict_table([read.read(run)])
    assert table.head == ["task", "before (base)", "after (after)", "difference", "questions"]
    assert len(table.rows) == 1 and table.rows[0][0] == "maths" and table.rows[0][4] == "40"


def test_a_gain_in_format_and_one_in_reasoning_are_rows_of_their_own(run):
    whole = read.read(run)
    row = whole.compare[0]
    gains = {"avg": 0.5, "strict": 0.75, "lenient": 0.25}
    forms = [row | {"metric": form, "diff": gain, "ci95": [gain, gain]} for form, gain in gains.items()]
    one = dataclasses.replace(whole, compare=forms)
    for table in (verdict.verdict_table([one]), verdict.verdict_table([one, one])):
        assert [row[0] for row in table.rows] == ["maths", "maths, strict", "maths, lenient"]
        assert all(f"▲ +{100 * gain:.1f}" in " ".join(row) for row, gain in zip(table.rows, gains.values()))
        assert "Strict: correct in the format that the prompt requires. Lenient: in any format." in table.note
    assert "Lenient" not in verdict.verdict_table([whole]).note
    assert verdict.big_numbers([one])[1].value == "▲ +50.0"


def test_several_pairs_have_a_column_of_their_names(run):
    whole = read.read(run)
    pairs = [whole.compare[0], whole.compare[0] | {"before": "zero"}]
    table = verdict.verdict_table([dataclasses.replace(whole, compare=pairs)])
    assert table.head == ["task", "compared", "before", "after", "difference", "questions"]
    assert [row[1] for row in table.rows] == ["base → after", "zero → after"]


def test_sentences_do_not_repeat_the_table(run):
    whole = read.read(run)
    assert verdict.verdict(whole, {}) == []
    many = [whole.compare[0] | {"after": name} for name in ("a", "b", "c")]
    lines = verdict.verdict(dataclasses.replace(whole, compare=many), {})
    assert len(lines) == 1 and lines[0].startswith("▲ maths: 3 comparisons, 3 better, 0 worse, 0 without")


def test_an_evaluation_that_has_not_run_yet_is_named(make_run, tmp_path):
    path = make_run(tmp_path / "running")
    (path / "result.json").unlink(), (path / "02-zero" / "result.json").unlink()
    os.rename(path / "03-after", tmp_path / "after")
    run = read.read(path)
    first, last = verdict.verdict(run, samples.read(run, []))
    assert first.endswith("These are training prompts: the held-out evaluation `after` has not run yet.")
    assert last == "zero has not finished: it is at step 12 of 12"
    os.rename(tmp_path / "after", path / "03-after")
    (path / "03-after" / "result.json").unlink()
    running = read.read(path)
    assert "No comparison: the held-out evaluation `after` has not finished yet." in verdict.verdict(running, {})


def test_comparisons_of_greedy_answers_are_rows_of_the_table_and_no_sentences(run):
    whole = read.read(run)
    greedy = whole.compare[0] | {"metric": "greedy", "before_value": 0.1, "diff": 0.25, "ci95": [0.2, 0.3]}
    more = dataclasses.replace(whole, name="more", compare=[*whole.compare, greedy])
    assert verdict.verdict(more, {}) == verdict.verdict(whole, {})
    rows = {row[0]: row for row in verdict.verdict_table([more]).rows}
    assert rows["maths, greedy"][1:4] == ["10.0", "88.8", "▲ +25.0 [+20.0, +30.0]"] and "[" in rows["maths"][1]
    side_by_side = {row[0]: row[1:3] for row in verdict.verdict_table([whole, more]).rows}
    assert side_by_side["maths, greedy"] == ["-", "▲ +25.0 [+20.0, +30.0]"]


def test_a_failed_stage_says_why(run, make_run, tmp_path):
    path = make_run(tmp_path / "failed")
    (path / "02-zero" / "result.json").unlink()
    (path / "result.json").unlink()
    (path / "02-zero" / "error.txt").write_text("train: the loss is nan\n")
    lines = verdict.verdict(read.read(path), {})
    assert lines[-1] == "zero has not finished: it is at step 12 of 12: train: the loss is nan"
    assert lines[:-1] == verdict.verdict(read.read(run), {})


def run_of(path, stage):
    return read.Run("r", path, {}, "", {}, {}, stages=[stage], compare=[], problems=[])


def test_the_one_evaluation_of_a_training_is_the_verdict(tmp_path):
    tasks = {"kk": {"avg": 0.5, "ci95": [0.4, 0.6]}, "kk/2ppl": {"avg": 0.6}}
    stage = read.Stage("zero", "grpo", tmp_path, result={"steps": 9}, evals=[{"step": 5, "tasks": tasks}])
    line = "kk, held-out: 50.0 [40.0, 60.0] % correct at step 5; no comparison."
    assert verdict.verdict(run_of(tmp_path, stage), {}) == [line]
