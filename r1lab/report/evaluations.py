"""The evaluations of a run in full: accuracy in the form asked for and in any, several answers, lengths."""

from r1lab.display import number as shown
from r1lab.report.content import Table
from r1lab.report.read import Run, clean, number
from r1lab.summary import families, percent

_LENGTHS = ("length_right", "length_wrong", "length_truncated")


def evaluations_table(run: Run) -> Table | None:
    """A row for each task of each evaluation; None where there are none that say so much."""
    rows = []
    for stage in run.stages:
        for task, scores in families({"tasks": stage.tasks}).items():
            if number(scores.get("strict")) is None:
                continue
            shares = [percent(number(scores.get(key))) for key in ("avg", "strict", "lenient", "format", "truncated")]
            several = [f"{clean(key)} {percent(number(value))}" for key, value in scores.items()
                       if key.startswith(("pass@", "maj@")) and number(scores.get("n_samples")) != 1]  # fmt: skip
            lengths = " / ".join(shown(number(scores.get(key)), 0) for key in _LENGTHS)
            rows.append([stage.name, clean(task), *shares, ", ".join(several), lengths])
    if not rows:
        return None
    head = ["evaluation", "task", "% right", "strict", "lenient", "in form", "cut", "of several", "tokens"]
    note = (
        "Strict: right and in the form that the prompt asks for; lenient: right wherever it is said. Tokens: mean of "
        "right, of wrong and of cut answers. What each figure hangs on is in the stage's evaluation.json."
    )
    return Table(head, rows, note)
