"""The verdict of a report: the main comparison in big numbers, all comparisons as a table, and further sentences."""

from collections import Counter
from dataclasses import dataclass

from r1lab.evaluation.comparison import METRICS
from r1lab.evaluation.records import families
from r1lab.report import content, samples
from r1lab.report.content import NONE, Table, interval, progress
from r1lab.report.read import Run, Stage, as_number, clean
from r1lab.report.samples import SampledCompletion
from r1lab.text import duration, part_of_steps, percent

BETTER, WORSE, UNCLEAR = "▲", "▼", "≈"
SIDE_BY_SIDE = 4  # runs whose differences are shown as big numbers
LEGEND = f"{BETTER} better, {WORSE} worse, {UNCLEAR} the interval contains 0."
FORMS = {"strict": "Strict: correct in the format that the prompt requires.", "lenient": "Lenient: in any format."}


@dataclass(frozen=True)
class BigNumber:
    """A number at the top of the page, with what it is and what belongs to it."""

    label: str
    value: str
    detail: str = ""


def comparisons(run: Run, metrics: tuple[str, ...] = ("avg",)) -> list[dict]:
    """The comparisons of whole tasks, without those of their subtasks."""
    rows = [row for row in run.compare if row.get("metric", "avg") in metrics]
    tasks = {row["task"] for row in rows}
    return [row for row in rows if "/" not in row["task"] or row["task"].split("/")[0] not in tasks]


def direction(change: dict) -> str:
    """Whether the interval of a difference excludes 0, and on which side."""
    low, high = change["ci95"]
    return BETTER if low > 0 else WORSE if high < 0 else UNCLEAR


def big_numbers(runs: list[Run]) -> list[BigNumber]:
    """The main comparison of a run, which is the first of its recipe; of several runs, the difference of each.

    Without a comparison, these are the scores of its evaluations; without any, the outcomes of its other stages.
    """
    if len(runs) > 1:
        each = [number for run in runs for number in _main_number(run)]
        return each if len(each) <= SIDE_BY_SIDE else []
    run, found = runs[0], []
    if row := _main(run):
        task = f"{clean(row['task'])}, {_pair(row)}"
        accuracy = f"{percent(row['before_value'])} → {percent(row['after_value'])} %"
        found.append(BigNumber("accuracy before and after", accuracy, task))
        found.append(BigNumber("difference in points", _points(row), f"95 % interval {_bounds(row['ci95'])}"))
        if (questions := as_number(row.get("n_questions"))) is not None:
            found.append(BigNumber("questions", f"{questions:,.0f}", "paired by question"))
    else:
        found += (_scores(run) or _outcomes(run))[:SIDE_BY_SIDE]
    if found and run.seconds is not None:
        found.append(BigNumber("time", duration(run.seconds), "the whole run"))
    return found


def _main(run: Run) -> dict | None:
    return next(iter(comparisons(run)), None)


def _main_number(run: Run) -> list[BigNumber]:
    """One number for a run among several: its main difference, else its first score."""
    if row := _main(run):
        detail = f"points {_bounds(row['ci95'])}, {clean(row['task'])}, {_pair(row)}"
        return [BigNumber(run.name, _points(row), detail)]
    return [BigNumber(run.name, score.value, f"{score.label}, {score.detail}") for score in _scores(run)[:1]]


def _scores(run: Run) -> list[BigNumber]:
    found = []
    for stage in run.stages:
        for task, scores in families({"tasks": stage.tasks}).items():
            if (value := as_number(scores.get("avg"))) is not None:
                bounds = interval(scores)
                detail = f"{stage.name}, 95 % interval {_bounds(bounds, signed=False)}" if bounds else stage.name
                found.append(BigNumber(f"accuracy on {clean(task)}", f"{percent(value)} %", detail))
    return found


def _outcomes(run: Run) -> list[BigNumber]:
    """Of each training stage its reward, or else its loss, at the start and at the end; of others the samples kept."""
    found = []
    for stage in run.stages:
        if changes := content.changes(stage):
            key, change = next(iter(changes.items()))
            part = part_of_steps(len(stage.rows), 10)
            when = f"mean of the first {part} → of the last" if part != "step" else "first step → last step"
            found.append(BigNumber(f"{key} in training", change, f"{stage.name}, {when}"))
        kept, sampled = (as_number(stage.result.get(key)) for key in ("kept", "sampled"))
        if kept is not None and sampled is not None:
            found.append(BigNumber("samples kept", f"{kept:,.0f} of {sampled:,.0f}", stage.name))
    return found


def _points(row: dict) -> str:
    return f"{direction(row)} {percent(row['diff'], signed=True)}"


def _bounds(bounds: list[float], *, signed: bool = True) -> str:
    return percent(0.0, bounds, signed=signed).partition(" ")[2]


def _pair(row: dict) -> str:
    return f"{row['before']} → {row['after']}"


def verdict(run: Run, completions: dict[str, list[SampledCompletion]]) -> list[str]:
    """What the table of comparisons does not say: summaries of many, scores without any, unfinished stages.

    A line that summarizes comparisons begins with their direction.
    """
    lines = []
    changes = comparisons(run)
    for task in dict.fromkeys(row["task"] for row in changes):
        own = [row for row in changes if row["task"] == task]
        if len(own) > 2:
            counts = Counter(map(direction, own))
            most = max(own, key=lambda row: row["diff"])
            lead = counts[BETTER] - counts[WORSE]
            mark = BETTER if lead > 0 else WORSE if lead < 0 else UNCLEAR
            gain = percent(most["diff"], most["ci95"], signed=True)
            lines.append(
                f"{mark} {task}: {len(own)} comparisons, {counts[BETTER]} better, {counts[WORSE]} worse, "
                f"{counts[UNCLEAR]} without a clear difference; the largest gain is {gain} points, {_pair(most)}."
            )
    if not changes:
        pending = _pending(run.stages)
        for place, stage in enumerate(run.stages):
            lines += _training(stage, completions.get(stage.name, []), _pending(run.stages[place + 1 :]))
        if pending and not any(pending in line for line in lines):
            lines.append(f"No comparison: {pending}.")
    for stage in run.stages:
        at = progress(stage)
        if stage.damaged:
            lines.append(f"{stage.name}: its result.json is damaged{f'; it is {at}' if at else ''}")
        elif not stage.result and (at or stage.error or not run.pipeline):
            why = f": {stage.error.splitlines()[-1][:300]}" if stage.error else ""
            where = at or f"before its first {'question' if stage.kind == 'eval' else 'step'}"
            lines.append(f"{stage.name} has not finished: it is {where}{why}")
    if not (lines or big_numbers([run])):
        lines.append("The run has no evaluation and no training step yet, so it has no outcome.")
    return lines


def _pending(stages: list[Stage]) -> str:
    """The state of the first evaluation that has not finished, "" if there is none."""
    for stage in stages:
        if stage.kind == "eval" and not stage.result:
            state = "finished" if progress(stage) or stage.damaged else "run"
            return f"the held-out evaluation `{stage.name}` has not {state} yet"
    return ""


def _training(stage: Stage, completions: list[SampledCompletion], pending: str) -> list[str]:
    """The scores of a training stage: of its own evaluations, else of its completions."""
    evals = [row for row in stage.evals if families(row)]
    if len(evals) == 1:
        return [
            f"{clean(task)}, held-out: {_score(scores)} % correct at step {evals[0]['step']}; no comparison."
            for task, scores in families(evals[0]).items()
        ]
    if evals:
        lines = []
        for task, first in families(evals[0]).items():
            last = evals[-1]["tasks"].get(task, {})
            start, end = map(_score, (first, last))
            lines.append(
                f"{clean(task)}, held-out: {start} % correct at step {evals[0]['step']}, {end} % at step "
                f"{evals[-1]['step']}; each interval is of its own score, not of the difference."
            )
        return lines
    steps = list(samples.completions_by_step(completions).values())
    fifth = max(1, len(steps) // 5)
    first, last = ([c for some in part for c in some] for part in (steps[:fifth], steps[-fifth:]))
    start, end = samples.share_correct(first), samples.share_correct(last)
    if start is None or end is None or len(steps) < 2:
        return []
    return [
        f"{stage.name}: {percent(start)} % of the completions are correct in the first "
        f"{part_of_steps(len(steps), 5)}, "
        f"{percent(end)} % in the last. These are training prompts: "
        f"{pending or 'there is no held-out evaluation'}."
    ]


def _score(scores: dict) -> str:
    return percent(as_number(scores.get("avg")), interval(scores))


def verdict_table(runs: list[Run]) -> Table | None:
    """Each comparison with its intervals, of sampled and of greedy answers and of their forms, where these differ;
    several runs are side by side."""
    found = [{_key(row): row for row in comparisons(run, METRICS)} for run in runs]
    shown = {row.get("metric") for own in found for row in own.values()}
    said = "".join(f" {meaning}" for form, meaning in FORMS.items() if form in shown)
    keys = list(dict.fromkeys(key for own in found for key in own))
    if not keys:
        return None
    pairs = list(dict.fromkeys((before, after) for _, before, after in keys))
    rows = []
    if len(runs) == 1:
        for (task, _, _), row in found[0].items():
            compared = [_pair(row)] if len(pairs) > 1 else []
            sides = [_accuracy(runs[0], row, side) for side in ("before", "after")]
            change = f"{direction(row)} {percent(row['diff'], row['ci95'], signed=True)}"
            rows.append([task, *compared, *sides, change, clean(row.get("n_questions"))])
        names = ["compared", "before", "after"] if len(pairs) > 1 else [
            f"{side} ({name})" for side, name in zip(("before", "after"), pairs[0])]  # fmt: skip
        note = "Accuracy in percent with 95 % intervals over questions; differences are paired by question."
        return Table(["task", *names, "difference", "questions"], rows, f"{note}{said} {LEGEND}")
    for key in keys:
        own = [rows_of.get(key) for rows_of in found]
        changes = [f"{direction(r)} {percent(r['diff'], r['ci95'], signed=True)}" if r else NONE for r in own]
        differences = [r["diff"] for r in own if r]
        mean = percent(sum(differences) / len(differences), [min(differences), max(differences)], signed=True)
        rows.append([key[0], *([f"{key[1]} → {key[2]}"] if len(pairs) > 1 else []), *changes, mean])
    shared = "" if len(pairs) > 1 else f" ({pairs[0][0]} → {pairs[0][1]})"
    note = (
        f"Differences in points{shared} with 95 % intervals, paired by question; the last column has the lowest and "
        f"the highest difference in brackets.{said} {LEGEND}"
    )
    compared = ["compared"] if len(pairs) > 1 else []
    return Table(["task", *compared, *(run.name for run in runs), "mean of the runs"], rows, note)


def _key(row: dict) -> tuple[str, str, str]:
    metric = row.get("metric", "avg")
    return f"{row['task']}{'' if metric == 'avg' else f', {metric}'}", row["before"], row["after"]


def _accuracy(run: Run, row: dict, side: str) -> str:
    stage = next((stage for stage in run.stages if stage.name == row[side]), None)
    scores = stage.tasks.get(row["task"], {}) if stage else {}
    return percent(row[f"{side}_value"], interval(scores, f"{row.get('metric', 'avg')}_ci95".removeprefix("avg_")))


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
