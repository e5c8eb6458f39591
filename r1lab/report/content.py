"""What a report says: the verdict, the stages, alarms, reflection words and what was run, as lines and tables."""

import json
import os
import re
from collections import Counter
from dataclasses import dataclass

from r1lab import reflection
from r1lab.display import PHASES, duration
from r1lab.display import number as shown
from r1lab.report import samples
from r1lab.report.read import Run, Stage, clean, items, number, section
from r1lab.report.samples import Completion
from r1lab.summary import families, percent

BETTER, WORSE, UNCLEAR = "▲", "▼", "≈"


@dataclass(frozen=True)
class Table:
    """A table of texts, and a line under it."""

    head: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    label: str
    runs: list[Run]


def groups(runs: list[Run]) -> list[Group]:
    """The runs, with those together whose recipes are the same but for the seeds."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps(_without_seeds(run.config), sort_keys=True, default=str) if run.config else run.name
        found.setdefault(key, []).append(run)
    return [Group(_label(some), some) for some in found.values()]


def _without_seeds(value: object, top: bool = True) -> object:
    if isinstance(value, dict):
        left = {str(k): v for k, v in value.items() if k != "seed" and not (top and k == "name")}
        return {key: _without_seeds(item, False) for key, item in left.items()}
    return [_without_seeds(item, False) for item in value] if isinstance(value, list) else value


def _label(runs: list[Run]) -> str:
    if len(runs) == 1:
        return runs[0].name
    shared = os.path.commonprefix([run.name for run in runs]).rstrip("-_ ").removesuffix("-seed")
    return f"{shared or runs[0].name} ({len(runs)} runs)"


# The verdict


def comparisons(run: Run) -> list[dict]:
    """The comparisons of whole tasks, not of their parts."""
    rows = [row for row in run.compare if row.get("metric", "avg") == "avg"]
    tasks = {row["task"] for row in rows}
    return [row for row in rows if "/" not in row["task"] or row["task"].split("/")[0] not in tasks]


def direction(change: dict) -> str:
    """Whether the interval of a difference leaves out 0."""
    low, high = change["ci95"]
    return BETTER if low > 0 else WORSE if high < 0 else UNCLEAR


def verdict(run: Run, completions: dict[str, list[Completion]]) -> list[str]:
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
        if not stage.result and (stage.rows or stage.error or not run.pipeline):
            last = stage.rows[-1] if stage.rows else {}
            at = f" at step {last['step']} of {last.get('total', '?')}" if last else " before its first step"
            why = f": {stage.error.splitlines()[-1][:300]}" if stage.error else ""
            lines.append(f"{UNCLEAR} {stage.name} has not finished: it stands{at}{why}")
    return lines or [f"{UNCLEAR} No evaluation and no training step was found, so there is nothing to judge by."]


def _sentence(run: Run, row: dict) -> str:
    before, after = (_accuracy(run, row, side) for side in ("before", "after"))
    change = percent(row["diff"], row["ci95"], signed=True)
    questions = f", paired over {row['n_questions']} questions" if number(row.get("n_questions")) else ""
    return (
        f"{row['before']} {before} % right, {row['after']} {after} % right; "
        f"the difference is {change} points{questions}."
    )


def _accuracy(run: Run, row: dict, side: str) -> str:
    stage = next((stage for stage in run.stages if stage.name == row[side]), None)
    scores = stage.tasks.get(row["task"], {}) if stage else {}
    return percent(row[f"{side}_value"], _interval(scores))


def _interval(scores: dict) -> list[float] | None:
    bounds = scores.get("ci95")
    fine = isinstance(bounds, list) and len(bounds) == 2 and all(number(bound) is not None for bound in bounds)
    return bounds if fine else None


def _alone(stage: Stage, completions: list[Completion]) -> list[str]:
    """What there is to say of a stage that is compared with none."""
    if stage.tasks:
        return [
            f"{UNCLEAR} {stage.name}: {clean(task)} {percent(number(scores.get('avg')), _interval(scores))} % right, "
            "compared with nothing."
            for task, scores in families({"tasks": stage.tasks}).items()
        ]
    evals = [row for row in stage.evals if families(row)]
    if len(evals) > 1:
        lines = []
        for task, first in families(evals[0]).items():
            last = evals[-1]["tasks"].get(task, {})
            told = [percent(number(scores.get("avg")), _interval(scores)) for scores in (first, last)]
            steps = f"step {evals[0]['step']}", f"step {evals[-1]['step']}"
            lines.append(
                f"{UNCLEAR} {clean(task)}, held out: {told[0]} % right at {steps[0]}, {told[1]} % at {steps[1]}; "
                "the intervals are of each alone, not of the difference."
            )
        return lines
    steps = list(samples.by_step(completions).values())
    fifth = max(1, len(steps) // 5)
    right = [samples.share_right([c for some in part for c in some]) for part in (steps[:fifth], steps[-fifth:])]
    if None in right or len(steps) < 2:
        return []
    return [
        f"{UNCLEAR} {stage.name}: {percent(right[0])} % of the completions are right in the first fifth of the steps, "
        f"{percent(right[1])} % in the last. That is on training prompts: nothing was held out to judge by."
    ]


def verdict_table(runs: list[Run]) -> Table | None:
    """Each comparison with its intervals; of several runs side by side."""
    keys = list(dict.fromkeys((r["task"], r["before"], r["after"]) for run in runs for r in comparisons(run)))
    if not keys:
        return None
    rows = []
    if len(runs) == 1:
        for row in comparisons(runs[0]):
            change = f"{direction(row)} {percent(row['diff'], row['ci95'], signed=True)}"
            told = [_accuracy(runs[0], row, side) for side in ("before", "after")]
            sides = [row["before"], told[0], row["after"], told[1]]
            rows.append([row["task"], change, *sides, str(row.get("n_questions", ""))])
        head = ["task", "difference", "before", "% right", "after", "% right", "questions"]
        note = f"95 % intervals over questions, differences paired by question. {_legend()}"
        return Table(head, rows, note)
    for task, before, after in keys:
        own = [
            next((r for r in comparisons(run) if (r["task"], r["before"], r["after"]) == (task, before, after)), None)
            for run in runs
        ]
        told = [f"{direction(r)} {percent(r['diff'], r['ci95'], signed=True)}" if r else "-" for r in own]
        differences = [r["diff"] for r in own if r]
        mean = percent(sum(differences) / len(differences), [min(differences), max(differences)], signed=True)
        rows.append([task, f"{before} → {after}", *told, mean])
    note = (
        f"Differences in points, 95 % intervals paired by question; the last column: lowest and highest. {_legend()}"
    )
    return Table(["task", "from → to", *(run.name for run in runs), "mean of the runs"], rows, note)


def _legend() -> str:
    return f"{BETTER} better, {WORSE} worse, {UNCLEAR} the interval holds 0."


def accuracies(runs: list[Run]) -> dict[str, list[tuple[str, str, float, float, float]]]:
    """By task, each evaluation of each run: (evaluation, run, value, low, high)."""
    found: dict[str, list] = {}
    for run in runs:
        for stage in run.stages:
            for task, scores in families({"tasks": stage.tasks}).items():
                if (value := number(scores.get("avg"))) is not None:
                    low, high = _interval(scores) or (value, value)
                    found.setdefault(clean(task), []).append((stage.name, run.name, value, low, high))
    return found


# Stages


def stages_table(run: Run) -> Table:
    """The stages of a pipeline: what each is, how long it took, what came of it."""
    rows = []
    for stage in run.stages:
        seconds = stage.seconds or number(stage.result.get("seconds"))
        steps = str(stage.rows[-1]["step"]) if stage.rows else ""
        state = "finished" if stage.result else "failed" if stage.error else "not finished" if stage.rows else "-"
        row = [stage.name, stage.kind, steps, duration(seconds) if seconds else "-", state, _outcome(stage)]
        rows.append(row)
    total = number(run.result.get("seconds"))
    note = f"All of it took {duration(total)}. " if total else ""
    return Table(
        ["stage", "kind", "steps", "time", "state", "what came of it"],
        rows,
        f"{note}Arrows: first tenth → last tenth of the steps.",
    )


def _outcome(stage: Stage) -> str:
    parts = [
        f"{clean(task)} {percent(number(scores.get('avg')), _interval(scores))} %"
        for task, scores in families({"tasks": stage.tasks}).items()
    ]
    for key, digits in (("reward", 2), ("length", 0), ("loss", 3), ("accuracy", 3)):
        values = [v for v in (number(row.get(key)) for row in stage.rows) if v is not None]
        if values and not (key in ("loss", "accuracy") and stage.kind == "grpo"):
            tenth = max(1, len(values) // 10)
            first, last = sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth
            parts.append(f"{key} {shown(first, digits)} → {shown(last, digits)}")
    kept, sampled, right = (number(stage.result.get(key)) for key in ("kept", "sampled", "right"))
    if kept is not None and sampled is not None:
        parts.append(f"{kept:,.0f} of {sampled:,.0f} samples kept")
    if right is not None:
        parts.append(f"{percent(right)} % right")
    return "; ".join(parts)


def times(run: Run) -> list[tuple[str, float, float]]:
    """Of each stage its seconds of work, and those of starting and ending its process."""
    found = []
    for stage in run.stages:
        work = number(stage.result.get("seconds"))
        if work is not None:
            found.append((stage.name, work, max(0.0, (stage.seconds or work) - work)))
    return found


# Alarms


def alarms(run: Run, completions: dict[str, list[Completion]]) -> list[str]:
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


def signs_table(completions: dict[str, list[Completion]]) -> Table | None:
    """How many completions of each stage show each sign."""
    rows = []
    for stage, own in completions.items():
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
class Seen:
    """A reflection word of a stage: times a completion at first and at last, and the first completion with it."""

    word: str
    first: float
    last: float
    step: int
    completion: Completion


def reflections(completions: list[Completion]) -> list[Seen]:
    """The reflection words of a GRPO stage, the most frequent first."""
    steps = samples.by_step(completions)
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
            found.append(Seen(word, first, last, have[0], with_it))
    return sorted(found, key=lambda seen: -max(seen.first, seen.last))


def place(text: str, word: str) -> int:
    """Where a reflection word first stands in a text, as `r1lab.reflection` counts it."""
    text = text.lower().replace("’", "'")
    found = re.search(rf"\b{re.escape(word)}\b", text)
    return found.start() if found else 0


# What was run


def about(run: Run) -> Table:
    """The manifest and the recipe's main settings, a row each."""
    manifest, hardware = run.manifest, section(run.manifest, "hardware")
    git = section(manifest, "git")
    command = manifest.get("command")
    gpus = items(hardware.get("gpus"))
    seconds = number(run.result.get("seconds"))
    changed = f", with {len(clean(git.get('diff')).splitlines())} lines of changes" if git.get("diff") else ""
    seeds = section(manifest, "seeds")
    models = [section(stage.config, "model").get("path") for stage in run.stages]
    models = dict.fromkeys(clean(path) for path in models if path and not str(path).startswith(("@", "/")))
    rewards = [r for stage in run.stages for r in items(stage.config.get("rewards")) if isinstance(r, dict)]
    facts = {
        "recipe": clean(run.config.get("name")),
        "stages": ", ".join(f"{count} {kind}" for kind, count in Counter(s.kind for s in run.stages).items()),
        "models": ", ".join(models),
        "rewards": ", ".join(dict.fromkeys(clean(reward.get("name")) for reward in rewards)),
        "started": clean(manifest.get("time")),
        "taken up again": f"{len(manifest['resumed'])} times" if isinstance(manifest.get("resumed"), list) else "",
        "took": duration(seconds) if seconds else "",
        "command": " ".join(map(clean, command)) if isinstance(command, list) else "",
        "seeds": ", ".join(dict.fromkeys(clean(seed) for seed in seeds.values())),
        "machine": ", ".join(
            filter(None, [
                clean(hardware.get("cpu")), f"{clean(hardware.get('cores'))} cores" if hardware else "",
                f"{clean(hardware.get('memory_gib'))} GiB" if hardware else "", *map(clean, gpus),
            ])
        ),
        "versions": ", ".join(f"{clean(k)} {clean(v)}" for k, v in section(manifest, "versions").items()),
        "commit": f"{clean(git.get('commit'))}{changed}" if git.get("commit") else "",
    }  # fmt: skip
    return Table(["", ""], [[key, value] for key, value in facts.items() if value])


def summary(run: Run) -> str:
    """A run in one line."""
    kinds = Counter(stage.kind for stage in run.stages)
    what = f"pipeline of {len(run.stages)} stages" if run.pipeline else next(iter(kinds))
    seconds = number(run.result.get("seconds"))
    gpus = items(section(run.manifest, "hardware").get("gpus"))
    cores = clean(section(run.manifest, "hardware").get("cores"))
    where = ", ".join(map(clean, gpus)) if gpus else f"{cores} CPU cores" if cores else ""
    parts = [
        clean(run.config.get("name")),
        what,
        clean(run.manifest.get("time"))[:10],
        duration(seconds) if seconds else "not finished" if not run.result else "",
        where,
    ]
    return " · ".join(filter(None, parts))


def is_training(stage: Stage) -> bool:
    """Whether a stage has curves."""
    return bool(stage.rows) and PHASES.get(stage.kind, "train") == "train"
