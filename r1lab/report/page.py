"""A report as one HTML file that sends no requests and runs only its own script."""

import base64
import hashlib
import re
from collections.abc import Iterator
from functools import partial
from html import escape
from pathlib import Path

from r1lab import __version__
from r1lab.report import about, budget_curves, content, figures, packed, samples, verdict
from r1lab.report.content import Table, filled
from r1lab.report.evaluations import episodes_table, evaluations_table
from r1lab.report.groups import RunGroup, groups
from r1lab.report.read import Run
from r1lab.report.samples import SampledCompletion
from r1lab.report.verdict import BETTER, WORSE
from r1lab.text import part_of_steps

SIZE = int(14.5 * 2**20)  # maximum bytes of a page; completions get what the rest of it leaves
FOLDED = ("loss", "grad_norm")  # charts below "more" if there are others with the outcome of a stage

Completions = dict[str, list[SampledCompletion]]  # of a run, by stage


def html(runs: list[Run], completions: list[Completions], curves: list[tuple[str, list[figures.Chart]]]) -> str:
    """The page of runs.

    Args:
        runs: One or more.
        completions: Of each run, by stage.
        curves: For each training stage its name and charts.
    """
    salt = iter(range(10**6))
    parts = {
        "verdict": ("Verdict", "".join(_verdict(runs, completions, salt))),
        "alarms": ("Alarms and flags", "".join(_alarms(runs, completions))),
        "missing": ("What is missing", _missing(runs)),
        "stages": ("Stages", "".join(_stages(runs, salt))),
        "curves": ("Curves", "".join(_curves(curves, groups(runs), salt))),
        "words": ("Reflection words", "".join(_words(runs, completions))),
        "completions": ("Completions", ""),
        "run": ("What was run", "".join(_about(runs))),
    }
    style, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    room = SIZE - sum(len(text.encode()) for text in (style, script, *(text for _, text in parts.values())))
    parts["completions"] = ("Completions", _browser(runs, completions, max(0, room)))
    parts = {key: part for key, part in parts.items() if part[1]}
    title = escape(", ".join(run.name for run in runs))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<a href="#{key}">{name}</a>' for key, (name, _) in parts.items())
    sections = "\n".join(f'<section id="{key}"><h2>{name}</h2>{text}</section>' for key, (name, text) in parts.items())
    summaries = "".join(f'<p class="dim">{_named(run, runs)}{escape(about.summary(run))}</p>' for run in runs)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{title} · r1lab report</title>
<style>
{style}</style>
</head>
<body>
<header><h1>{title}</h1>{summaries}<nav aria-label="sections">{links}</nav></header>
<main>
{sections}
</main>
<footer class="dim"><p>r1lab {__version__}</p></footer>
<script>{script}</script>
</body>
</html>
"""


def _named(run: Run, runs: list[Run]) -> str:
    return f"<b>{escape(run.name)}</b> · " if len(runs) > 1 else ""


def _verdict(runs: list[Run], completions: list[Completions], salt: Iterator[int]) -> Iterator[str]:
    numbers = "".join(
        f"<div><dt>{escape(n.label)}</dt><dd{_tone(n.value)}>{escape(n.value)}</dd><dd>{escape(n.detail)}</dd></div>"
        for n in verdict.big_numbers(runs)
    )
    if numbers:
        yield f'<dl class="numbers">{numbers}</dl>'
    for run, own in zip(runs, completions):
        if lines := "".join(f"<li{_tone(line)}>{_prose(line)}</li>" for line in verdict.verdict(run, own)):
            yield f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else ""
            yield f'<ul class="verdict">{lines}</ul>'
    table, drawn = verdict.verdict_table(runs), "".join(_accuracies(runs, salt))
    yield _sides(_table(table), drawn) if table and drawn else _table(table) if table else drawn
    yield from _budgets(runs, salt)
    for run in runs:
        if full := evaluations_table(run):
            summary = f"{_named(run, runs)}<b>Evaluations in full</b>"
            yield f"<details><summary>{summary}</summary>{_table(full)}</details>"
        if played := episodes_table(run):
            summary = f"{_named(run, runs)}<b>Episodes of the evaluations</b>"
            yield f"<details open><summary>{summary}</summary>{_table(played)}</details>"


def _budgets(runs: list[Run], salt: Iterator[int]) -> Iterator[str]:
    for task, lines in budget_curves.curves(runs).items():
        yield _figure(
            partial(figures.budget_curves, lines),
            f"{task}: accuracy against thinking tokens. {budget_curves.description(lines)}", salt,
            f"<b>{escape(task)}</b>: accuracy against thinking tokens, by budget", "single",
        )  # fmt: skip
    for run in runs:
        if full := budget_curves.table(run):
            yield f"<details><summary>{_named(run, runs)}<b>Thinking budgets</b></summary>{_table(full)}</details>"


def _accuracies(runs: list[Run], salt: Iterator[int]) -> Iterator[str]:
    for task, rows in verdict.accuracies(runs).items():
        if len(rows) > 1:
            names = [run.name for run in runs if any(row[1] == run.name for row in rows)]
            description = "; ".join(
                f"{name}, {of}: {100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
                for name, of, value, low, high in rows
            )
            yield _figure(
                partial(figures.accuracies, rows, names), f"{task}: accuracy of each evaluation. {description}", salt,
                f"<b>{escape(task)}</b>: accuracy of each evaluation", "single",
            )  # fmt: skip


def _alarms(runs: list[Run], completions: list[Completions]) -> Iterator[str]:
    found: dict[str, None] = {}
    for run, own in zip(runs, completions):
        lines = content.alarms(run, own)
        if len(runs) > 1:
            yield f"<h3>{escape(run.name)}</h3>"
        yield _list(lines) if lines else "<p>No warnings.</p>"
        if table := content.flags_table(own):
            found |= dict.fromkeys(table.head)
            yield _table(table)
    terms = "".join(f"<dt>{flag}</dt><dd>{escape(why)}</dd>" for flag, why in samples.FLAGS.items() if flag in found)
    if terms:
        yield f'<dl class="terms">{terms}</dl>'


def _missing(runs: list[Run]) -> str:
    named = "{}: " if len(runs) > 1 else ""
    return _list([f"{named.format(run.name)}{problem}" for run in runs for problem in run.problems])


def _stages(runs: list[Run], salt: Iterator[int]) -> Iterator[str]:
    for run in runs:
        if not run.pipeline:
            continue
        if len(runs) > 1:
            yield f"<h3>{escape(run.name)}</h3>"
        table, rows = _table(content.stages_table(run)), content.times(run)
        if len(rows) < 2:
            yield table
        else:
            description = "; ".join(f"{name} {work:.0f} s, its process {more:.0f} s more" for name, work, more in rows)
            caption = "<b>Time</b> by stage"
            drawn = _figure(partial(figures.times, rows), f"Time by stage. {description}", salt, caption, "single")
            yield _sides(table, drawn)


def _curves(curves: list, grouped: list[RunGroup], salt: Iterator[int]) -> Iterator[str]:
    if any(len(group.runs) > 1 for group in grouped):
        yield '<p class="note">Lines are means over the seeds; bands range from the lowest run to the highest.</p>'
    elif curves:
        note = "Lines are running means over a fifteenth of the steps; if there is one, a faint line shows each step."
        yield f'<p class="note">{note}</p>'
    for place, (stage, charts) in enumerate(curves):
        outcome = any(chart.key in ("reward", "correct") for chart in charts)
        folded = [chart for chart in charts if outcome and chart.key in FOLDED]
        yield f"<details{' open' * (place == 0)}><summary><b>{escape(stage)}</b></summary>"
        yield _charts([chart for chart in charts if chart not in folded], salt)
        if folded:
            titles = ", ".join(chart.title.lower() for chart in folded)
            yield f"<details><summary>more: {escape(titles)}</summary>{_charts(folded, salt)}</details>"
        yield "</details>"


def _charts(charts: list[figures.Chart], salt: Iterator[int]) -> str:
    drawn = "".join(
        _figure(partial(figures.draw, chart), chart.description, salt,
                f"<b>{escape(chart.title)}</b>{': ' * bool(chart.caption)}{escape(chart.caption)}")
        for chart in charts
    )  # fmt: skip
    return f'<div class="charts">{drawn}</div>'


def _words(runs: list[Run], completions: list[Completions]) -> Iterator[str]:
    for run, own in zip(runs, completions):
        for stage, some in own.items():
            seen, label = content.reflections(some), escape(_label(run, stage, runs))
            if not seen:
                continue
            yield f"<details><summary><b>{label}</b>: {escape(', '.join(s.word for s in seen[:6]))}</summary>"
            rows = [[s.word, f"{s.first:.3f}", f"{s.last:.3f}", f"step {s.step}"] for s in seen]
            part = part_of_steps(len(samples.completions_by_step(some)), 5)
            note = f"Occurrences per completion, in the first and in the last {part}."
            yield _table(Table(["word", "start", "end", "first seen"], rows, note))
            for s in seen:
                yield f'<p class="dim">{escape(s.word)}, step {s.step}</p><pre>{_around(s)}</pre>'
            yield "</details>"


def _around(seen: content.SeenWord, width: int = 180) -> str:
    """The part of a completion around the word, which is marked."""
    text = seen.completion.text
    at = content.place(text, seen.word)
    start, end = max(0, at - width), at + len(seen.word)
    head, tail = "… " * (start > 0), " …" * (end + width < len(text))
    word = f"<mark>{escape(text[at:end])}</mark>"
    return f"{head}{escape(text[start:at])}{word}{escape(text[end : end + width])}{tail}"


def _label(run: Run, stage: str, runs: list[Run]) -> str:
    return f"{run.name} · {stage}" if len(runs) > 1 else stage


def _browser(runs: list[Run], completions: list[Completions], room: int) -> str:
    own = {_label(run, stage, runs): some for run, of in zip(runs, completions) for stage, some in of.items() if some}
    total = sum(map(len, own.values()))
    if not total:
        return "<p>No completions were found.</p>"
    index, blocks, kept = packed.pack(own, room)
    left = total - kept
    note = (
        f"{kept:,} of {total:,} completions are in this file, evenly spread; {left:,} are not, to keep it small. "
        "All of them are in samples/."
        if left
        else f"All {total:,} completions are in this file."
    )
    data = "".join(
        f'<script type="text/plain" id="{name}">{text}</script>'
        for name, text in [("index", index), *((f"block-{i}", block) for i, block in enumerate(blocks))]
    )
    return f'<p class="note">{note}</p>{_FILTERS}{data}'


_FILTERS = """
<noscript><p>The browser of completions needs JavaScript.</p></noscript>
<div class="filters">
<label>stage<select id="f-stage"><option value="">all</option></select></label>
<label>task<select id="f-task"><option value="">all</option></select></label>
<label>steps<span class="pair"><input id="f-from" type="number" min="0" placeholder="from" aria-label="from step">
<input id="f-to" type="number" min="0" placeholder="to" aria-label="to step"></span></label>
<label>correct<select id="f-correct"><option value="">all</option><option value="1">correct</option>
<option value="0">wrong</option></select></label>
<label class="of-episodes">end<select id="f-end"><option value="">all</option></select></label>
<label>flag<select id="f-flag"><option value="">all</option><option value="any">any flag</option></select></label>
<label>reward<select id="f-reward"><option value="">the total</option></select></label>
<label>its value<span class="pair"><input id="f-low" type="number" step="any" placeholder="min"
aria-label="reward at least"><input id="f-high" type="number" step="any" placeholder="max"
aria-label="reward at most"></span></label>
<label>reason<select id="f-reason"><option value="">all</option></select></label>
<label>order<select id="f-sort"><option value="random">random</option>
<option value="correct">correct at late steps</option><option value="flags">most flags</option>
<option value="first">first steps</option><option value="last">last steps</option>
<option value="high">highest reward</option>
<option value="low">lowest reward</option><option value="long">longest</option>
<option value="turns" class="of-episodes">most turns</option>
<option value="errors" class="of-episodes">most errors</option></select></label>
<label>text contains<input id="f-text" type="search"></label>
</div>
<div class="bar"><span id="status" role="status">…</span><button id="every-prompt" hidden>all prompts</button>
<button id="clear">clear filters</button><button id="back">back</button><button id="next">next</button></div>
<div id="list"></div>
"""


def _about(runs: list[Run]) -> Iterator[str]:
    for run in runs:
        if len(runs) > 1:
            yield f"<h3>{escape(run.name)}</h3>"
        yield _table(about.about(run))
        if run.recipe:
            recipe = escape(about.homeless(run.recipe))
            yield f"<details><summary><b>Recipe</b>, as written</summary><pre>{recipe}</pre></details>"


def _sides(left: str, right: str) -> str:
    return f'<div class="sides"><div>{left}</div><div>{right}</div></div>'


def _list(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{_prose(line)}</li>' for line in lines)}</ul>" if lines else ""


def _prose(text: str) -> str:
    """A sentence in which words between backticks are code.

    >>> _prose("`a < b` and a ` alone")
    '<code>a &lt; b</code> and a ` alone'
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _tone(text: str) -> str:
    tone = {BETTER: "good", WORSE: "bad"}.get(text[:1])
    return f' class="{tone}"' if tone else ""


def _table(table: Table) -> str:
    table = filled(table)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.head)
    rows = "".join(f"<tr>{''.join(map(_cell, row, table.head))}</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    heads = f"<thead><tr>{head}</tr></thead>" if any(table.head) else ""
    return f'<div class="table"><table>{heads}<tbody>{rows}</tbody></table></div>{note}'


def _cell(text: str, head: str) -> str:
    kind = _tone(text) or (' class="wide"' if len(text) > 40 else "")
    named = f' data-head="{escape(head)}"' if head else ""  # a phone shows it, and no head
    return f"<td{kind}{named}>{escape(text)}</td>"


def _figure(make: partial, description: str, salt: Iterator[int], caption: str, kind: str = "") -> str:
    drawn = figures.svg(make, description, next(salt))
    return f"<figure{f' class={kind}' if kind else ''}><figcaption>{caption}</figcaption>{drawn}</figure>"
