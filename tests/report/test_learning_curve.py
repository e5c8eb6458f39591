"""The picture of the learning curve."""

from matplotlib.figure import Figure

from r1lab.report import learning_curve
from r1lab.report.learning_curve import Point


def styles(*lines):
    axis = Figure().add_subplot()
    learning_curve._draw_lines(axis, [[Point(step, "kk", 0.1, 0.0, 0.2) for step in line] for line in lines])
    return [line.get_linestyle() for line in axis.lines if line.get_marker() in ("None", None)]


def test_two_evaluations_with_none_between_them_are_joined_by_dashes():
    assert styles([0, 9]) == ["--"] and styles([0, 5, 9]) == ["-"]


def test_the_headline_is_the_first_comparison():
    row = {"task": "kk", "before_value": 0.5, "after_value": 0.469, "diff": -0.031, "ci95": [-0.05, -0.012]}
    worse = "x: held-out accuracy 50.0 → 46.9 % (-3.1 [-5.0, -1.2])"
    assert learning_curve.headline("x", [row | {"metric": "greedy", "diff": 0}, row]) == worse
    assert learning_curve.headline("x", [row, row | {"task": "kk/2ppl"}]) == worse
    assert learning_curve.headline("x", [row, row | {"task": "gsm8k"}]).startswith("x: held-out accuracy on kk 50.0")
    assert learning_curve.headline("x", []) == "x"
