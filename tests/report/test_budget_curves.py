"""The curve of accuracy against thinking tokens in a report."""

from functools import partial

from r1lab.report import budget_curves, figures, page, read


def point(budget, avg, thinking, **more):
    return {"budget": budget, "lenient": avg, "lenient_ci95": [avg - 0.1, avg + 0.1], "thinking": thinking,
            "thinking_ci95": [thinking - 1, thinking + 1]} | more  # fmt: skip


def run_of(path, *tasks):
    stages = [
        read.Stage(name, "eval", path, {}, {"tasks": {"kk": {"avg": 0.5, "budgets": points}}})
        for name, points in zip(("base", "after"), tasks)
    ]
    return read.Run("r", path, {}, "", {}, {}, stages, [], [])


CURVES = (
    [point(0, 0.1, 9.0, stopped=1.0, thinks_on=0.25), point(64, 0.4, 60.0, stopped=0.5, thinks_on=0.0),
     point(None, 0.5, 88.0)],
    [point(0, 0.3, 2.0, stopped=1.0, thinks_on=0.0), point(64, 0.6, 31.0, stopped=0.0), point(None, 0.6, 31.0)],
)  # fmt: skip


def test_the_table_and_the_figure_have_each_budget_of_each_evaluation(tmp_path):
    run = run_of(tmp_path, *CURVES)
    table = budget_curves.table(run)
    assert len(table.rows) == 6
    assert table.rows[0] == ["base", "kk", "0", "10.0 [0.0, 20.0]", "9.0 [8.0, 10.0]", "100.0", "25.0"]
    assert table.rows[2][2:] == ["none", "50.0 [40.0, 60.0]", "88.0 [87.0, 89.0]", "-", "-"]
    curves = budget_curves.curves([run])
    assert list(curves["kk"]) == ["base", "after"]
    text = figures.svg(partial(figures.budget_curves, curves["kk"]), "a description", 0)
    assert "mean thinking tokens" in text and ">after<" in text
    drawn = "".join(page._budgets([run], iter(range(9))))
    assert "base: 10.0 % with 9 tokens" in drawn and "<b>Thinking budgets</b>" in drawn


def test_damaged_points_are_left_out_and_no_budgets_are_no_table(tmp_path):
    run = run_of(tmp_path, [{"budget": 3}, "x", point(5, 0.5, 4.0) | {"lenient_ci95": None}], [])
    assert [row[2:4] for row in budget_curves.table(run).rows] == [["5", "50.0"]]
    assert budget_curves.table(run_of(tmp_path, [])) is None and budget_curves.curves([run_of(tmp_path, [])]) == {}
