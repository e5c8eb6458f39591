"""A short report as Markdown, for a README."""

import re
from pathlib import Path

from r1lab.report import about, budget_curves, content, verdict
from r1lab.report.content import Table, filled
from r1lab.report.evaluations import evaluations_table
from r1lab.report.read import Run
from r1lab.report.samples import SampledCompletion

_SPECIAL = re.compile(r"(?P<code>(?<!`)`[^`|<]+`(?!`))|[\\`*_\[\]<>|#~]")


def markdown(
    runs: list[Run], completions: list[dict[str, list[SampledCompletion]]], pictures: list[tuple[str, Path]]
) -> str:
    """Verdict, stages, alarms and what was run; `pictures` are titles and paths relative to the file."""
    lines = [f"# {_plain(', '.join(run.name for run in runs))}", ""]
    for run, own in zip(runs, completions):
        named = f"**{_plain(run.name)}**: " if len(runs) > 1 else ""
        lines += [f"{named}{_plain(about.summary(run))}", ""]
        numbers = [f"{n.label}: {n.value} ({n.detail})" for n in verdict.big_numbers([run])]
        lines += [*(f"- {_plain(line)}" for line in numbers + verdict.verdict(run, own)), ""]
    if table := verdict.verdict_table(runs):
        lines += _table(table)
    for title, path in pictures:
        lines += [f"![{_plain(title)}]({path.as_posix().replace(' ', '%20')})", ""]
    for run, own in zip(runs, completions):
        of = f" of {_plain(run.name)}" if len(runs) > 1 else ""
        if run.pipeline:
            lines += [f"## Stages{of}", "", *_table(content.stages_table(run))]
        if table := evaluations_table(run):
            lines += [f"## Evaluations{of}", "", *_table(table)]
        if table := budget_curves.table(run):
            lines += [f"## Thinking budgets{of}", "", *_table(table)]
        if problems := content.alarms(run, own) + run.problems:
            lines += [f"## Alarms and missing files{of}", "", *(f"- {_plain(line)}" for line in problems), ""]
        lines += [f"## What was run{of}", "", *_table(about.about(run))]
    return "\n".join(lines).rstrip() + "\n"


def _table(table: Table) -> list[str]:
    table = filled(table)
    rows = [table.head, ["---"] * len(table.head)]
    text = [" | ".join(row) for row in rows[1:]]
    body = [" | ".join(map(_plain, row)) for row in table.rows]
    lines = [f"| {' | '.join(map(_plain, table.head))} |", *(f"| {row} |" for row in text + body), ""]
    return [*lines, _plain(table.note), ""] if table.note else lines


def _plain(text: str) -> str:
    """A text in one line, with the special characters of Markdown escaped, except between backticks.

    >>> _plain("`a_b` and a_b")
    '`a_b` and a\\\\_b'
    """
    return _SPECIAL.sub(lambda found: found["code"] or f"\\{found[0]}", " ".join(text.split()))
