"""Checks a training set: its tasks, duplicates, and rows that are also in an evaluation."""

from collections import Counter

from r1lab import lookup
from r1lab.check.seen import Seen
from r1lab.data import operations
from r1lab.findings import Finding
from r1lab.recipe.schema import EvalRecipe, StageRecipe
from r1lab.recipe.sections import Data
from r1lab.recipe.yaml_source import COMMAND_LINE
from r1lab.text import counted

NEAR = 0.9  # the share of common 5-grams from which two rows count as near duplicates
NO_TASK = "no task"  # stands for the task of rows without one
MANY = 0.05  # the share of such rows that is worth a warning
WIDE = 0.15  # half of a 95 % interval above which a score says little
_NGRAM = 13  # consecutive words that two contaminated problems share: GPT-3's rule (arXiv:2005.14165, appendix C)


def row_findings(seen: Seen, evaluations: list[Seen], *, tiny: bool = False) -> list[Finding]:
    """Shares of tasks, duplicates, and rows that a training set shares with the evaluations of the same recipe.

    Args:
        evaluations: The inputs of the eval stages, and of a stage's own `eval`.
        tiny: The recipe was scaled down by `--tiny`, which evaluates on few questions on purpose.
    """
    rows, keys = seen.data, ("data",)
    if not rows:
        return []
    tasks = Counter(str(row.get("task") or NO_TASK) for row in rows)
    shares = ", ".join(
        f"{'none' if task == NO_TASK else task} {count / len(rows):.0%}" for task, count in tasks.most_common(6)
    )
    more = f" and {len(tasks) - 6} more" if len(tasks) > 6 else ""
    found = [Finding("ok", "data", f"{counted(len(rows), 'row')} checked; tasks: {shares}{more}", keys=keys)]
    found += _tasks(seen, tasks)
    found += _few(seen, seen.recipe) if isinstance(seen.recipe, EvalRecipe) and not tiny else []
    if seen.recipe.trl:
        found += _duplicates(seen)
        found += _contamination(seen, evaluations)
    return found


def _tasks(seen: Seen, tasks: Counter) -> list[Finding]:
    """Rewards for tasks that no row has, and rows that no reward applies to."""
    found, rewards = [], seen.rewards
    from r1lab.grading.grader import applies

    for index, reward in enumerate(rewards):
        if reward.tasks and not any(applies(reward.tasks, task) for task in tasks):
            what = f"{reward.name} is for {', '.join(reward.tasks)}, but the rows have {', '.join(tasks)}"
            # A reward that all stages of a pipeline share may be meant for another stage.
            own = seen.recipe._document.origin((*seen.recipe._keys, "rewards")) == (*seen.recipe._keys, "rewards")
            verdict = "error" if own else "ok"
            fix = f"set tasks: [{next(iter(tasks))}], or remove it" if own else ""
            found.append(Finding(verdict, "data", what, fix, ("rewards", index, "tasks")))
    left = [task for task in tasks if rewards and not any(applies(reward.tasks, task) for reward in rewards)]
    if left:
        what = f"no reward applies to rows of {', '.join(left[:4])}, so their groups never have a signal"
        found.append(Finding("error", "data", what, "add a reward for these rows, or remove them", ("rewards",)))
    return found


def _few(seen: Seen, recipe: EvalRecipe) -> list[Finding]:
    """Evaluations with too few questions and samples for a precise score."""
    from r1lab.stages.rows import samples_of

    found = []
    for task, rows in seen.tasks.items():
        questions, samples = len(rows), samples_of(recipe, task)
        # Answers to one question vary less than answers to different ones: sampling halves the variance at best.
        half = 1.96 * (0.25 / questions * max(1 / samples, 0.5)) ** 0.5
        if half > WIDE:
            what = f"{questions} questions of {task}, {samples} sample{'s' * (samples != 1)} each:"
            what += f" a score of 50 % has an interval of ± {100 * half:.0f} points"
            more = samples == 1 and recipe.eval.temperature > 0
            if recipe._document.places.get(("stages",)) == COMMAND_LINE:  # of `r1lab eval`, which has options for both
                fixes, keys = ("--samples 16", "a larger --size, if there are more questions"), ()
            else:
                fixes, keys = ("eval.num_samples: 16", "more questions"), ("eval",)
            fix = f"use {' and '.join(fixes if more else fixes[1:])}"
            found.append(Finding("warning", "data", what, fix, keys))
    return found


def _duplicates(seen: Seen) -> list[Finding]:
    rows, keys = seen.data, ("data",)
    data: Data | None = getattr(seen.recipe, "data", None)
    if data and data.deduplicate:
        return []
    same = len(rows) - len(operations.deduplicate(rows))
    like = len(rows) - len(operations.deduplicate(rows, near=NEAR)) - same if len(rows) <= 20_000 else 0
    if same / len(rows) > MANY:
        what = f"{same:,} of {len(rows):,} rows are exact duplicates"
        return [Finding("warning", "data", what, "set data.deduplicate: true", keys)]
    if like / len(rows) > MANY and not _generated(seen.recipe):
        what = (
            f"{like:,} of {len(rows):,} rows are near duplicates, which share {NEAR:.0%} of their 5-grams with another"
        )
        return [Finding("warning", "data", what, f"set data.deduplicate: {NEAR}", keys)]
    return [Finding("ok", "data", f"{same:,} exact duplicates, {like:,} near duplicates", keys=keys)]


def _contamination(seen: Seen, evaluations: list[Seen]) -> list[Finding]:
    """Rows whose prompt is in an evaluation."""
    found, compared = [], {}
    data: Data | None = getattr(seen.recipe, "data", None)
    if data and data.decontaminate:
        return []
    for other in evaluations:
        if other.recipe is seen.recipe and other.data is seen.data:
            continue
        compared.setdefault(str([row["prompt"] for row in other.data]), []).append(other)
    for same in compared.values():
        shared = _shared(seen, same[0])
        if shared:
            where = same[0].recipe.name + (f" and {len(same) - 1} more" if len(same) > 1 else "")
            what = f"{len(shared):,} of {len(seen.data):,} training prompts are in the evaluation {where}, such as"
            fix = "set data.decontaminate, or evaluate on another set"
            found.append(Finding("error", "data", f"{what} {shared[0][:60]!r}", fix, ("data",)))
    if compared and not found:
        found.append(Finding("ok", "data", "no training prompt is in an evaluation of this recipe"))
    return found


def _shared(seen: Seen, other: Seen) -> list[str]:
    """Training prompts that are also in an evaluation.

    Generators split by puzzle and share phrases between splits, so for them only equal prompts count.
    """
    if _generated(seen.recipe) and _generated(other.recipe):
        theirs = {_words(row) for row in other.data}
        return [_words(row) for row in seen.data if _words(row) in theirs]
    return [_words(row) for row in operations.decontaminate(seen.data, other.data, n=_NGRAM)[1]]


def _words(row: dict) -> str:
    return " ".join(operations.prompt_text(row).split())


def _generated(recipe: StageRecipe) -> bool:
    """Whether all rows that exist before the run come from a generator, which splits them by puzzle."""
    from r1lab.stages.rows import task_sections

    own: Data | None = getattr(recipe, "data", None)
    sections = task_sections(recipe).values() if isinstance(recipe, EvalRecipe) else [own] if own else []
    parts = []
    for data in sections:
        parts += data.parameters["parts"] if data.builder == "mix" else [{"builder": data.builder}]
    there = [part for part in parts if not str(part.get("path", "")).startswith("@")]
    return all("path" not in lookup.parameters(lookup.function("data", p.get("builder", "rows"))) for p in there)
