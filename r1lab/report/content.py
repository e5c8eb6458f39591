"""What a report says about stages, alarms, flags and reflection words, as lines and tables."""

import re
from collections import Counter
from dataclasses import dataclass, replace

from r1lab.evaluation import reflection
from r1lab.evaluation.records import families
from r1lab.recipe.schema import STAGES, on_policy, trains
from r1lab.report import samples
from r1lab.report.read import Run, Stage, as_number, clean, items, section
from r1lab.report.samples import SampledCompletion
from r1lab.text import duration, either, part_of_steps, percent
from r1lab.text import number as shown

NONE = "-"


@dataclass(frozen=True)
class Table:
    """A table of texts, and a line below it."""

    head: list[str]
    rows: list[list[str]]
    note: str = ""


def filled(table: Table) -> Table:
    """The table without the columns that have no value in any row.

    >>> filled(Table(["task", "greedy", "maj@4"], [["a", "-", "0.5"], ["b", "", "-"]])).head
    ['task', 'maj@4']
    """
    kept = [i for i in range(len(table.head)) if any(row[i] not in ("", NONE) for row in table.rows)]
    return replace(table, head=[table.head[i] for i in kept], rows=[[row[i] for i in kept] for row in table.rows])


def interval(scores: dict, key: str = "ci95") -> list[float] | None:
    """The bounds of a score, None where the file does not have them."""
    bounds = scores.get(key)
    fine = isinstance(bounds, list) and len(bounds) == 2 and all(as_number(bound) is not None for bound in bounds)
    return bounds if fine else None


def progress(stage: Stage) -> str:
    """How far a stage has come, "" if its files do not show it."""
    if stage.rows:
        return f"at step {stage.rows[-1]['step']} of {clean(stage.rows[-1].get('total')) or '?'}"
    if not stage.answered:
        return ""
    several = len(items(section(stage.config, "eval").get("tasks"))) > 1  # which are counted one by one
    return f"at {stage.answered[0]:,} of {stage.answered[1]:,} questions{' of one of its tasks' * several}"


# Stages


def stages_table(run: Run) -> Table:
    """The stages of a pipeline: their kinds, steps, times, states and outcomes."""
    rows = []
    for stage in run.stages:
        seconds = stage.seconds or as_number(stage.result.get("seconds"))
        steps = str(stage.rows[-1]["step"]) if stage.rows else ""
        at = progress(stage)
        begun = f"not finished, {at}" if at else NONE if stage.path.is_dir() else "not started"
        state = "failed" if stage.error else begun
        state = "finished" if stage.result else "result.json damaged" if stage.damaged else state
        row = [stage.name, stage.kind, steps, duration(seconds) if seconds else NONE, state, _outcome(stage)]
        rows.append(row)
    notes = [f"Total time: {duration(run.seconds)}."] if run.seconds else []
    if any("→" in row[-1] for row in rows):
        parts = {part_of_steps(len(stage.rows), 10) for stage in run.stages if stage.rows}
        notes.append(f"Arrows: from the first {either(sorted(parts, key=len))} to the last.")
    return Table(["stage", "kind", "steps", "time", "state", "outcome"], rows, " ".join(notes))


def _outcome(stage: Stage) -> str:
    parts = [
        f"{clean(task)} {percent(as_number(scores.get('avg')), interval(scores))} %"
        for task, scores in families({"tasks": stage.tasks}).items()
    ]
    parts += [f"{key} {change}" for key, change in changes(stage).items()]
    kept, sampled, correct = (as_number(stage.result.get(key)) for key in ("kept", "sampled", "right"))
    if kept is not None and sampled is not None:
        parts.append(f"{kept:,.0f} of {sampled:,.0f} samples kept")
    if correct is not None:
        parts.append(f"{percent(correct)} % correct")
    return "; ".join(parts)


def changes(stage: Stage) -> dict[str, str]:
    """By metric of a training, its mean in the first tenth of the steps → in the last."""
    found = {}
    for key, digits in (("reward", 2), ("length", 0), ("loss", 3), ("accuracy", 3)):
        values = [v for v in (as_number(row.get(key)) for row in stage.rows) if v is not None]
        if values and not (key in ("loss", "accuracy") and on_policy(stage.kind)):
            tenth = max(1, len(values) // 10)
            first, last = sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth
            found[key] = f"{shown(first, digits)} → {shown(last, digits)}"
    return found


def times(run: Run) -> list[tuple[str, float, float]]:
    """For each stage, its seconds of work, and the seconds for starting and ending its process."""
    found = []
    for stage in run.stages:
        work = as_number(stage.result.get("seconds"))
        if work is not None:
            found.append((stage.name, work, max(0.0, (stage.seconds or work) - work)))
    return found


# Alarms


def alarms(run: Run, completions: dict[str, list[SampledCompletion]]) -> list[str]:
    """The warnings of the run, and those that only its completions and curves as a whole support."""
    lines = []
    for stage in run.stages:
        for row in stage.messages:
            if row.get("phase") == "warning":
                at = f", step {row['step']}" if type(row.get("step")) is int else ""
                lines.append(f"{stage.name}{at}: {clean(row['message'])}")
        own = completions.get(stage.name, [])
        for name, (before, after, first, last) in samples.paid_for_form(own).items():
            lines.append(
                f"{stage.name}: {name} rose from {shown(before, 2)} to {shown(after, 2)} while the share of correct "
                f"answers went from {percent(first)} to {percent(last)} %: it may reward the format alone"
            )
    return lines


def flags_table(completions: dict[str, list[SampledCompletion]]) -> Table | None:
    """How many completions of each stage have each flag, None if no completion has any.

    Greedy answers do not count, because their lengths are not recorded.
    """
    rows = []
    for stage, every in completions.items():
        own = [c for c in every if not c.greedy]
        counts = Counter(flag for c in own for flag in c.flags)
        if own:
            shares = [
                f"{counts[flag]:,} ({percent(counts[flag] / len(own))} %)" if counts[flag] else NONE
                for flag in samples.FLAGS
            ]
            rows.append([stage, f"{len(own):,}", *shares])
    flagged = any(cell != NONE for row in rows for cell in row[2:])
    return filled(Table(["stage", "completions", *samples.FLAGS], rows)) if flagged else None


# Reflection words


@dataclass(frozen=True)
class SeenWord:
    """A reflection word of a stage: its occurrences per completion at the start and at the end, and its first use."""

    word: str
    first: float
    last: float
    step: int
    completion: SampledCompletion


def reflections(completions: list[SampledCompletion]) -> list[SeenWord]:
    """The reflection words of a GRPO stage, the most frequent first."""
    steps = samples.completions_by_step(completions)
    means = {step: reflection.per_completion(c.text for c in some) for step, some in steps.items()}
    fifth = max(1, len(steps) // 5)
    found = []
    for word in reflection.WORDS:
        have = [step for step, mean in means.items() if mean[word]]
        if have:
            first, last = (
                sum(means[s][word] for s in part) / fifth for part in (list(steps)[:fifth], list(steps)[-fifth:])
            )
            with_it = next(c for c in steps[have[0]] if reflection.counts(c.text)[word])
            found.append(SeenWord(word, first, last, have[0], with_it))
    return sorted(found, key=lambda seen: -max(seen.first, seen.last))


def place(text: str, word: str) -> int:
    """The position of the first occurrence of a reflection word, as `r1lab.evaluation.reflection` counts it."""
    text = text.lower().replace("’", "'")
    found = re.search(rf"\b{re.escape(word)}\b", text)
    return found.start() if found else 0


def is_training(stage: Stage) -> bool:
    """Whether a stage has curves."""
    return bool(stage.rows) and (trains(stage.kind) or stage.kind not in STAGES)
