"""Accuracy against thinking tokens, of the evaluations of a run that have `eval.budgets`."""

from dataclasses import dataclass

from r1lab.evaluation.records import families
from r1lab.report.content import NONE, Table, interval
from r1lab.report.read import Run, as_number, clean, items
from r1lab.text import number, percent


@dataclass(frozen=True)
class Point:
    """A point of a curve: its budget (None: none), mean thinking tokens, and accuracy with its interval, in [0, 1]."""

    budget: int | None
    thinking: float
    value: float
    low: float
    high: float


Curves = dict[str, dict[str, list[Point]]]
"""By task, then by evaluation."""


def curves(runs: list[Run]) -> Curves:
    """The budget curves of runs; an evaluation is named with its run if there are several."""
    found: Curves = {}
    for run in runs:
        for stage in run.stages:
            for task, scores in families({"tasks": stage.tasks}).items():
                points = [point for row in items(scores.get("budgets")) if (point := _point(row))]
                label = f"{run.name}, {stage.name}" if len(runs) > 1 else stage.name
                if points:
                    found.setdefault(clean(task), {})[label] = points
    return found


def _point(row: object) -> Point | None:
    if not isinstance(row, dict):
        return None
    thinking, value = as_number(row.get("thinking")), as_number(row.get("lenient"))
    if thinking is None or value is None:
        return None
    low, high = interval(row, "lenient_ci95") or (value, value)
    return Point(row["budget"] if type(row.get("budget")) is int else None, thinking, value, low, high)


def table(run: Run) -> Table | None:
    """A row for each budget of each evaluation; None if no evaluation has budgets."""
    rows = []
    for stage in run.stages:
        for task, scores in families({"tasks": stage.tasks}).items():
            for row in items(scores.get("budgets")):
                if _point(row) is None:
                    continue
                budget = number(as_number(row.get("budget")), 0) if row.get("budget") is not None else "none"
                tokens = [number(bound, 1) for bound in interval(row, "thinking_ci95") or ()]
                thinking = number(as_number(row["thinking"]), 1) + (f" [{', '.join(tokens)}]" if tokens else "")
                shares = [percent(as_number(row.get(key))) if key in row else NONE for key in ("stopped", "thinks_on")]
                accuracy = percent(as_number(row["lenient"]), interval(row, "lenient_ci95"))
                rows.append([stage.name, clean(task), budget, accuracy, thinking, *shares])
    note = (
        "Accuracy in percent and mean thinking tokens, with 95 % intervals over questions in brackets. Accuracy is "
        "lenient, correct in any format, because a forced end is not the model's own. Stopped: the share of answers "
        "whose thinking was stopped at the budget; thinks on: the share of these that went on thinking after the "
        "forced end, whose tokens count."
    )
    head = ["evaluation", "task", "budget", "% correct", "thinking tokens", "stopped", "thinks on"]
    return Table(head, rows, note) if rows else None


def description(of_task: dict[str, list[Point]]) -> str:
    """The curves of a task as a text, for readers who do not see them."""
    return "; ".join(
        f"{label}: " + ", ".join(f"{100 * p.value:.1f} % with {p.thinking:.0f} tokens" for p in points)
        for label, points in of_task.items()
    )
