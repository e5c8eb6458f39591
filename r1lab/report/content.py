"""What a report says: the verdict, the stages, alarms, reflection words and what was run, as lines and tables."""

import re
from collections import Counter
from dataclasses import dataclass

from r1lab.evaluation import reflection
from r1lab.evaluation.records import families
from r1lab.recipe.schema import STAGES, trains
from r1lab.report import samples
from r1lab.report.read import Run, Stage, as_number, clean, items, section
from r1lab.report.samples import SampledCompletion
from r1lab.text import duration, percent
from r1lab.text import number as shown

BETTER, WORSE, UNCLEAR = "▲", "▼", "≈"


@dataclass(frozen=True)
class Table:
    """A table of texts, and a line under it."""

    head: list[str]
    rows: list[list[str]]
    note: str = ""


# The verdict


def comparisons(run: Run, metrics: tuple[str, ...] = ("avg",)) -> list[dict]:
    """The comparisons of whole tasks, not of their parts."""
    rows = [row for row in run.compare if row.get("metric", "avg") in metrics]
    tasks = {row["task"] for row in rows}
    return [row for row in rows if "/" not in row["task"] or row["task"].split("/")[0] not in tasks]


def direction(change: dict) -> str:
    """Whether the interval of a difference leaves out 0."""
    low, high = change["ci95"]
    return BETTER if low > 0 else WORSE if high < 0 else UNCLEAR


def verdict(run: Run, completions: dict[str, list[SampledCompletion]]) -> list[str]:
    """What came of a run, in a few sentences, the first the most important; each begins with its direction."""
    lines = []
    changes = comparisons(run)
    for task in dict.fromkeys(row["task"] for row in changes):
        own = [row for row in changes if row["task"] == task]
        if len(own) > 2:
            counts = Counter(map(direction, own))
            most = max(own, key=lambda row: row["diff"])
            lead = counts[BETTER] - counts[WORSE]
            mark = BETTER if lead > 0 else WORSE if lead < 0 else UNCLEAR
            lines.append(
                f"{mark} {task}: {len(own)} comparisons, {counts[BETTER]} better, {counts[WORSE]} worse, "
                f"{counts[UNCLEAR]} without a clear difference. The largest gain: {_sentence(run, most)}"
            )
        else:
            lines += [f"{direction(row)} {task}: {_sentence(run, row)}" for row in own]
    if not changes:
        for stage in run.stages:
            lines += _alone(stage, completions.get(stage.name, []))
    for stage in run.stages:
        at = _stands(stage)
        if stage.damaged:
            lines.append(f"{UNCLEAR} {stage.name}: its result.json is damaged{f'; it stands {at}' if at else ''}")
        elif not stage.result and (at or stage.error or not run.pipeline):
            why = f": {stage.error.splitlines()[-1][:300]}" if stage.error else ""
            what = at or f"before its first {'question' if stage.kind == 'eval' else 'step'}"
            lines.append(f"{UNCLEAR} {stage.name} has not finished: it stands {what}{why}")
    return lines or [f"{UNCLEAR} No evaluation and no training step was found, so there is nothing to judge by."]


def _stands(stage: Stage) -> str:
    """How far a stage has come, "" where nothing tells it."""
    if stage.rows:
        return f"at step {stage.rows[-1]['step']} of {clean(stage.rows[-1].get('total')) or '?'}"
    if not stage.asked:
        return ""
    several = len(items(section(stage.config, "eval").get("tasks"))) > 1  # which are counted one by one
    return f"at {stage.asked[0]:,} of {stage.asked[1]:,} questions{' of one of its tasks' * several}"


def _sentence(run: Run, row: dict) -> str:
    before, after = (_accuracy(run, row, side) for side in ("before", "after"))
    change = percent(row["diff"], row["ci95"], signed=True)
    questions = f", paired over {row['n_questions']} questions" if as_number(row.get("n_questions")) else ""
    return (
        f"{row['before']} {before} % right, {row['after']} {after} % right; "
        f"the difference is {change} points{questions}."
    )


def _accuracy(run: Run, row: dict, side: str) -> str:
    stage = next((stage for stage in run.stages if stage.name == row[side]), None)
    scores = stage.tasks.get(row["task"], {}) if stage else {}
    return percent(row[f"{side}_value"], interval(scores, "greedy_ci95" if _is_greedy(row) else "ci95"))


def _is_greedy(row: dict) -> bool:
    return row.get("metric") == "greedy"


def interval(scores: dict, key: str = "ci95") -> list[float] | None:
    """The bounds of a figure, None where they are not told."""
    bounds = scores.get(key)
    fine = isinstance(bounds, list) and len(bounds) == 2 and all(as_number(bound) is not None for bound in bounds)
    return bounds if fine else None


def _alone(stage: Stage, completions: list[SampledCompletion]) -> list[str]:
    """What there is to say of a stage that is compared with none."""
    if stage.tasks:
        return [
            f"{UNCLEAR} {stage.name}: {clean(task)} {percent(as_number(scores.get('avg')), interval(scores))} % right,"
            " compared with nothing."
            for task, scores in families({"tasks": stage.tasks}).items()
        ]
    evals = [row for row in stage.evals if families(row)]
    if len(evals) == 1:
        return [
            f"{UNCLEAR} {clean(task)}, held out: {percent(as_number(scores.get('avg')), interval(scores))} % right at "
            f"step {evals[0]['step']}, compared with nothing."
            for task, scores in families(evals[0]).items()
        ]
    if evals:
        lines = []
        for task, first in families(evals[0]).items():
            last = evals[-1]["tasks"].get(task, {})
            told = [percent(as_number(scores.get("avg")), interval(scores)) for scores in (first, last)]
            steps = f"step {evals[0]['step']}", f"step {evals[-1]['step']}"
            lines.append(
                f"{UNCLEAR} {clean(task)}, held out: {told[0]} % right at {steps[0]}, {told[1]} % at {steps[1]}; "
                "the intervals are of each alone, not of the difference."
            )
        return lines
    steps = list(samples.completions_by_step(completions).values())
    fifth = max(1, len(steps) // 5)
    right = [samples.share_right([c for some in part for c in some]) for part in (steps[:fifth], steps[-fifth:])]
    if None in right or len(steps) < 2:
        return []
    return [
        f"{UNCLEAR} {stage.name}: {percent(right[0])} % of the completions are right in the first fifth of the steps, "
        f"{percent(right[1])} % in the last. That is on training prompts: nothing was held out to judge by."
    ]


def verdict_table(runs: list[Run]) -> Table | None:
    """Each comparison with its intervals, of sampled and of greedy answers; of several runs side by side."""
    found = [{_key(row): row for row in comparisons(run, ("avg", "greedy"))} for run in runs]
    keys = list(dict.fromkeys(key for own in found for key in own))
    if not keys:
        return None
    rows = []
    if len(runs) == 1:
        for (task, _, _), row in found[0].items():
            change = f"{direction(row)} {percent(row['diff'], row['ci95'], signed=True)}"
            told = [_accuracy(runs[0], row, side) for side in ("before", "after")]
            sides = [row["before"], told[0], row["after"], told[1]]
            rows.append([task, change, *sides, str(row.get("n_questions", ""))])
        head = ["task", "difference", "before", "% right", "after", "% right", "questions"]
        note = f"95 % intervals over questions, differences paired by question. {_legend()}"
        return Table(head, rows, note)
    for key in keys:
        own = [rows_of.get(key) for rows_of in found]
        told = [f"{direction(r)} {percent(r['diff'], r['ci95'], signed=True)}" if r else "-" for r in own]
        differences = [r["diff"] for r in own if r]
        mean = percent(sum(differences) / len(differences), [min(differences), max(differences)], signed=True)
        rows.append([key[0], f"{key[1]} → {key[2]}", *told, mean])
    note = (
        f"Differences in points, 95 % intervals paired by question; the last column: lowest and highest. {_legend()}"
    )
    return Table(["task", "from → to", *(run.name for run in runs), "mean of the runs"], rows, note)


def _key(row: dict) -> tuple[str, str, str]:
    return f"{row['task']}{', greedy' * _is_greedy(row)}", row["before"], row["after"]


def _legend() -> str:
    return f"{BETTER} better, {WORSE} worse, {UNCLEAR} the interval holds 0."


def accuracies(runs: list[Run]) -> dict[str, list[tuple[str, str, float, float, float]]]:
    """By task, each evaluation of each run: (evaluation, run, value, low, high)."""
    found: dict[str, list] = {}
    for run in runs:
        for stage in run.stages:
            for task, scores in families({"tasks": stage.tasks}).items():
                if (value := as_number(scores.get("avg"))) is not None:
                    low, high = interval(scores) or (value, value)
                    found.setdefault(clean(task), []).append((stage.name, run.name, value, low, high))
    return found


# Stages


def stages_table(run: Run) -> Table:
    """The stages of a pipeline: what each is, how long it took, what came of it."""
    rows = []
    for stage in run.stages:
        seconds = stage.seconds or as_number(stage.result.get("seconds"))
        steps = str(stage.rows[-1]["step"]) if stage.rows else ""
        at = _stands(stage)
        state = "failed" if stage.error else f"not finished, {at}" if at else "-"
        state = "finished" if stage.result else "result.json damaged" if stage.damaged else state
        row = [stage.name, stage.kind, steps, duration(seconds) if seconds else "-", state, _outcome(stage)]
        rows.append(row)
    total = as_number(run.result.get("seconds"))
    notes = [f"All of it took {duration(total)}."] if total else []
    notes += ["Arrows: first tenth → last tenth of the steps."] if any("→" in row[-1] for row in rows) else []
    return Table(["stage", "kind", "steps", "time", "state", "what came of it"], rows, " ".join(notes))


def _outcome(stage: Stage) -> str:
    parts = [
        f"{clean(task)} {percent(as_number(scores.get('avg')), interval(scores))} %"
        for task, scores in families({"tasks": stage.tasks}).items()
    ]
    for key, digits in (("reward", 2), ("length", 0), ("loss", 3), ("accuracy", 3)):
        values = [v for v in (as_number(row.get(key)) for row in stage.rows) if v is not None]
        if values and not (key in ("loss", "accuracy") and stage.kind == "grpo"):
            tenth = max(1, len(values) // 10)
            first, last = sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth
            parts.append(f"{key} {shown(first, digits)} → {shown(last, digits)}")
    kept, sampled, right = (as_number(stage.result.get(key)) for key in ("kept", "sampled", "right"))
    if kept is not None and sampled is not None:
        parts.append(f"{kept:,.0f} of {sampled:,.0f} samples kept")
    if right is not None:
        parts.append(f"{percent(right)} % right")
    return "; ".join(parts)


def times(run: Run) -> list[tuple[str, float, float]]:
    """Of each stage its seconds of work, and those of starting and ending its process."""
    found = []
    for stage in run.stages:
        work = as_number(stage.result.get("seconds"))
        if work is not None:
            found.append((stage.name, work, max(0.0, (stage.seconds or work) - work)))
    return found


# Alarms


def alarms(run: Run, completions: dict[str, list[SampledCompletion]]) -> list[str]:
    """What the run warned of, and what its completions and curves show that it did not know to warn of."""
    lines = []
    for stage in run.stages:
        for row in stage.told:
            if row.get("phase") == "warning":
                at = f", step {row['step']}" if type(row.get("step")) is int else ""
                lines.append(f"{stage.name}{at}: {clean(row['message'])}")
        own = completions.get(stage.name, [])
        for name, (before, after, first, last) in samples.paid_for_form(own).items():
            lines.append(
                f"{stage.name}: {name} rose from {shown(before, 2)} to {shown(after, 2)} while the share of right "
                f"answers went from {percent(first)} to {percent(last)} %: it may be paid for form alone"
            )
    return lines


def signs_table(completions: dict[str, list[SampledCompletion]]) -> Table | None:
    """How many completions of each stage show each sign; greedy answers, whose length is not told, do not count."""
    rows = []
    for stage, every in completions.items():
        own = [c for c in every if not c.greedy]
        counts = Counter(sign for c in own for sign in c.signs)
        if own:
            shares = [
                f"{counts[sign]:,} ({percent(counts[sign] / len(own))} %)" if counts[sign] else "-"
                for sign in samples.SIGNS
            ]
            rows.append([stage, f"{len(own):,}", *shares])
    note = "; ".join(f"{sign}: {told}" for sign, told in samples.SIGNS.items())
    return Table(["stage", "completions", *samples.SIGNS], rows, f"{note}.") if rows else None


# Reflection words


@dataclass(frozen=True)
class SeenWord:
    """A reflection word of a stage: times a completion at first and at last, and the first completion with it."""

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
    """Where a reflection word first stands in a text, as `r1lab.evaluation.reflection` counts it."""
    text = text.lower().replace("’", "'")
    found = re.search(rf"\b{re.escape(word)}\b", text)
    return found.start() if found else 0


def is_training(stage: Stage) -> bool:
    """Whether a stage has curves."""
    return bool(stage.rows) and (trains(stage.kind) or stage.kind not in STAGES)
