"""Curves: what they are of, and that they are text and titles in the page's own colors."""

import dataclasses
import re
from functools import partial

import numpy as np
import pytest

from r1lab.report import figures, read, samples
from r1lab.report.figures import Chart, Line


@pytest.fixture(scope="module")
def measured(run):
    whole = read.read(run)
    return whole.stages[1], samples.read(whole, [])["zero"]


def test_what_is_drawn_of_one_run(measured):
    found = {chart.key: chart for chart in figures.charts({"tried": [measured]})}
    assert {"reward", "correct", "length", "no_signal", "entropy", "kl", "importance_ratio", "words"} <= found.keys()
    assert [line.label for line in found["reward"].lines] == ["maths", "format", "total"]
    assert [line.label for line in found["length"].lines] == ["all", "correct", "wrong"]
    assert found["entropy"].lines[0].runs == [{step: 1 / step for step in range(1, 13)}]
    assert "drift" not in found and "margin" not in found


def test_what_is_drawn_of_episodes(played):
    whole = read.read(played)
    found = {chart.key: chart for chart in figures.charts({"p": [(whole.stages[1], samples.read(whole, [])["zero"])]})}
    assert [line.label for line in found["episodes"].lines] == ["turns", "calls"]
    assert found["call_errors"].lines[0].runs[0][1] == 0.5
    ends = {line.label: line.runs[0] for line in found["ends"].lines}
    assert ends["turns"][1] == 0.0 and ends["turns"][3] == 0.5 and ends["answered"][12] == 0.5
    assert "replies" in [line.label for line in found["length"].lines]


def test_the_distance_from_a_teacher_has_a_curve_for_each_part_of_a_completion(measured):
    stage, completions = measured
    rows = [
        row | {"teacher": {"kl": 2 / row["step"], "kl_by_position": {"0": 1 / row["step"], "16": 3 / row["step"]}}}
        for row in stage.rows
    ]
    found = figures.series(dataclasses.replace(stage, rows=rows), completions)["teacher"]
    assert list(found) == ["all", "from token 0", "from token 16"]
    assert found["from token 16"] == {step: 3 / step for step in range(1, 13)}
    assert "teacher" not in figures.series(stage, completions)


def test_of_several_groups_each_has_a_line(measured):
    charts = figures.charts({"a": [measured, measured], "b": [measured]})
    titles = [chart.title for chart in charts]
    assert {"Rewards: maths", "Rewards: format", "Length: correct", "Entropy"} <= set(titles)
    entropy = charts[titles.index("Entropy")]
    assert [(line.label, len(line.runs)) for line in entropy.lines] == [("a", 2), ("b", 1)]


def test_one_reward_for_correct_answers_is_drawn_once(measured):
    stage, completions = measured
    share = {step: samples.share_correct(some) for step, some in samples.completions_by_step(completions).items()}
    rows = [row | {"rewards": {"maths": share[row["step"]]}, "reward": share[row["step"]]} for row in stage.rows]
    found = figures.series(dataclasses.replace(stage, rows=rows), completions)
    assert "reward" not in found and found["correct"]["in training"] == share
    rows[3]["rewards"]["maths"] += 0.1  # not the same curve
    assert "reward" in figures.series(dataclasses.replace(stage, rows=rows), completions)


def test_charts_are_as_wide_as_a_phone_can_show():
    rows = [("a stage of a long name", "run", 0.5, 0.4, 0.6), ("b", "run", 0.6, 0.5, 0.7)]
    drawn = [
        figures.accuracies(rows, ["run"]), figures.times([("a", 1.0, 2.0), ("b", 3.0, 4.0)]),
        figures.draw(Chart("loss", "Loss", "", [Line("mean", [{1: 0.1, 2: 0.2}])])),
    ]  # fmt: skip
    for figure in drawn:
        points = 72 * figure.get_figwidth()
        labels = figure.axes[0].get_xticklabels() + figure.axes[0].get_yticklabels()
        assert all(label.get_fontsize() * 358 / points > 9 for label in labels)  # pixels on a screen 390 wide
    longer, shorter = drawn[0].axes[0].get_position().x0, drawn[1].axes[0].get_position().x0
    assert shorter < 0.1 < longer  # the left margin is as wide as the names


def test_lengths_are_split_by_what_came_of_them(measured):
    stage, completions = measured
    found = figures.series(stage, completions)["length"]
    of_step = [c for c in completions if c.step == 3]
    assert found["correct"][3] == np.mean([c.length for c in of_step if c.correct]) == 13


def test_a_band_is_of_the_runs_that_have_the_step():
    steps, mean, low, high = figures._band([{1: 0.0, 2: 1.0}, {1: 1.0, 2: 3.0, 3: 5.0}])
    assert steps.tolist() == [1, 2, 3] and mean.tolist() == [0.5, 2, 5]
    assert low.tolist() == [0, 1, 5] and high.tolist() == [1, 3, 5]


def test_long_lines_are_thinned():
    assert len(figures._thinned(dict.fromkeys(range(10_000), 0.0))) <= figures.POINTS


def test_an_svg_for_the_page():
    lines = [Line("a $x$ <script>", [{1: 0.1, 2: 0.2}]), Line("b", [{1: 0.3, 2: 0.1}])]
    chart = Chart("reward", "Rewards", "", lines)
    text = figures.svg(partial(figures.draw, chart), chart.description, 7)
    assert text.startswith("<svg viewBox=") and text.rstrip().endswith("</svg>")
    assert 'role="img" aria-label="Rewards. a $x$ &lt;script&gt;: from 0.100 to 0.200, steps 1 to 2; b:' in text
    assert "a $x$ &lt;script&gt;" in re.sub(
        r"<title>.*?</title>|aria-label=\"[^\"]*\"", "", text
    )  # the legend, as text
    assert "var(--c0)" in text and "var(--c1)" in text and "currentColor" in text and figures.INK not in text
    assert "<script>" not in text and "http" not in text and "<style" not in text and "<metadata" not in text
    other = figures.svg(partial(figures.draw, chart), chart.description, 8)
    ids = [set(re.findall(r' id="([^"]+)"', drawn)) for drawn in (text, other)]
    assert ids[0] and not ids[0] & ids[1]


def test_intervals_that_do_not_hold_their_mean():
    rows = [("before", "run", 0.5, 0.51, 0.6), ("after", "run", 0.6, 0.6, 0.6)]
    assert "before" in figures.svg(partial(figures.accuracies, rows, ["run"]), "accuracy", 1)


@pytest.mark.parametrize(
    ("key", "values", "low", "high"),
    [
        ("importance_ratio", [1.0, 1.0000002], 0.5, 1.5),
        ("length", [32.0, 32.0], 16, 48),
        ("reward", [0.0, 0.0], -0.05, 1.05),
        ("kl", [3e-8, -1e-8], -0.05, 1.05),
        ("loss", [-2.0, -2.0], -3, -1),
        ("no_signal", [1.0, 1.0], -5, 105),
    ],
)
def test_values_that_are_all_the_same_have_an_axis_to_read(key, values, low, high):
    figure = figures.draw(Chart(key, "", "", [Line("mean", [dict(enumerate(values, 1))])]))
    figure.canvas.draw()
    axis = figure.axes[0]
    assert axis.get_ylim() == pytest.approx((low, high), abs=1e-3)
    assert axis.yaxis.get_offset_text().get_text() == ""
    assert all(len(label.get_text()) <= 5 for label in axis.get_yticklabels())
    assert all(tick == int(tick) for tick in axis.get_xticks())


def test_a_series_of_one_step_has_one_tick():
    axis = figures.draw(Chart("reward", "", "", [Line("mean", [{1: 0.5}])])).axes[0]
    low, high = axis.get_xlim()
    assert [tick for tick in axis.get_xticks() if low <= tick <= high] == [1]


def test_values_that_differ_keep_their_own_range():
    axis = figures.draw(Chart("importance_ratio", "", "", [Line("mean", [{1: 0.998, 2: 1.003}])])).axes[0]
    assert 0.99 < axis.get_ylim()[0] < 0.998 and 1.003 < axis.get_ylim()[1] < 1.01
