"""What a training set is made of: tasks, rows that are much the same, rows that are in an evaluation."""

from collections import Counter

from r1lab import lookup
from r1lab.check.seen import Seen
from r1lab.data import operations
from r1lab.findings import Finding
from r1lab.recipe.schema import EvalRecipe, StageRecipe
from r1lab.recipe.sections import Data

NEAR = 0.9  # the share of 5-word runs in common from which two rows count as the same
MANY = 0.05  # the share of such rows that is worth a warning
WIDE = 0.15  # half of a 95 % interval, from which a figure is not worth much
_NGRAM = 13  # words in a row that two problems share: GPT-3's rule (arXiv:2005.14165, appendix C)


def row_findings(seen: Seen, evaluations: list[Seen], *, tiny: bool = False) -> list[Finding]:
    """Shares of tasks, near duplicates, and what a training set shares with the evaluations of the same recipe.

    Args:
        evaluations: What was seen of the eval stages, and of a stage's own `eval`.
        tiny: The recipe is one in small, which evaluates on a handful on purpose.
    """
    rows, keys = seen.data, ("data",)
    if not rows:
        return []
    tasks = Counter(str(row.get("task") or "no task") for row in rows)
    shares = ", ".join(f"{task} {count / len(rows):.0%}" for task, count in tasks.most_common(6))
    more = f" and {len(tasks) - 6} more" if len(tasks) > 6 else ""
    found = [Finding("ok", "data", f"{len(rows):,} rows looked at: {shares}{more}", keys=keys)]
    found += _tasks(seen, tasks)
    found += _few(seen, seen.recipe) if isinstance(seen.recipe, EvalRecipe) and not tiny else []
    if seen.recipe.trl:
        found += _duplicates(seen)
        found += _contamination(seen, evaluations)
    return found


def _tasks(seen: Seen, tasks: Counter) -> list[Finding]:
    """Rewards for tasks that no row has, and rows that no reward is for."""
    found, rewards = [], seen.rewards
    from r1lab.grading.grader import applies

    for index, reward in enumerate(rewards):
        if reward.tasks and not any(applies(reward.tasks, task) for task in tasks):
            what = f"{reward.name} is for {', '.join(reward.tasks)}, and no row is: there are {', '.join(tasks)}"
            # What all stages of a pipeline share may be meant for another one.
            own = seen.recipe._document.origin((*seen.recipe._keys, "rewards")) == (*seen.recipe._keys, "rewards")
            verdict = "error" if own else "ok"
            fix = f"set tasks: [{next(iter(tasks))}], or leave it out" if own else ""
            found.append(Finding(verdict, "data", what, fix, ("rewards", index, "tasks")))
    left = [task for task in tasks if rewards and not any(applies(reward.tasks, task) for reward in rewards)]
    if left:
        what = f"no reward is for rows of {', '.join(left[:4])}: their groups never have a signal"
        found.append(Finding("error", "data", what, "add a reward for them, or leave them out", ("rewards",)))
    return found


def _few(seen: Seen, recipe: EvalRecipe) -> list[Finding]:
    """Evaluations of so few questions, asked so few times, that their figure says little."""
    from r1lab.stages.rows import samples_of

    found = []
    for task, rows in seen.tasks.items():
        questions, samples = len(rows), samples_of(recipe, task)
        # Answers to one question differ less than answers to two: this is what many samples come down to.
        half = 1.96 * (0.25 / questions * max(1 / samples, 0.5)) ** 0.5
        if half > WIDE:
            what = f"{questions} questions of {task}, {samples} sample{'s' * (samples != 1)} each:"
            what += f" a figure of 50 % is good to ± {100 * half:.0f} points"
            more = samples == 1 and recipe.eval.temperature > 0
            fix = "set eval.num_samples: 16, and more questions" if more else "ask more questions"
            found.append(Finding("warning", "data", what, fix, ("eval",)))
    return found


def _duplicates(seen: Seen) -> list[Finding]:
    rows, keys = seen.data, ("data",)
    data: Data | None = getattr(seen.recipe, "data", None)
    if data and data.deduplicate:
        return []
    same = len(rows) - len(operations.deduplicate(rows))
    like = len(rows) - len(operations.deduplicate(rows, near=NEAR)) - same if len(rows) <= 20_000 else 0
    if same / len(rows) > MANY:
        what = f"{same:,} of {len(rows):,} rows say the same as another"
        return [Finding("warning", "data", what, "set data.deduplicate: true", keys)]
    if like / len(rows) > MANY and not _generated(seen.recipe):
        what = f"{like:,} of {len(rows):,} rows share {NEAR:.0%} of their 5-word runs with another"
        return [Finding("warning", "data", what, f"set data.deduplicate: {NEAR}", keys)]
    return [Finding("ok", "data", f"{same:,} rows say the same as another, {like:,} nearly the same", keys=keys)]


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
        found.append(Finding("ok", "data", "no prompt is in an evaluation of this recipe"))
    return found


def _shared(seen: Seen, other: Seen) -> list[str]:
    """Prompts of training that are in an evaluation too.

    Generators keep the two apart by the puzzle itself and have phrases in common, so there equal prompts count.
    """
    if _generated(seen.recipe) and _generated(other.recipe):
        theirs = {_words(row) for row in other.data}
        return [_words(row) for row in seen.data if _words(row) in theirs]
    return [_words(row) for row in operations.decontaminate(seen.data, other.data, n=_NGRAM)[1]]


def _words(row: dict) -> str:
    return " ".join(operations.prompt_text(row).split())


def _generated(recipe: StageRecipe) -> bool:
    """Whether all rows that are there are made by a generator, which splits them by the puzzle."""
    from r1lab.stages.rows import task_sections

    own: Data | None = getattr(recipe, "data", None)
    sections = task_sections(recipe).values() if isinstance(recipe, EvalRecipe) else [own] if own else []
    parts = []
    for data in sections:
        parts += data.parameters["parts"] if data.builder == "mix" else [{"builder": data.builder}]
    there = [part for part in parts if not str(part.get("path", "")).startswith("@")]
    return all("path" not in lookup.parameters(lookup.function("data", p.get("builder", "rows"))) for p in there)
