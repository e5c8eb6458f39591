"""The rows of a stage: built, converted, filtered and mixed as its recipe says."""

from pathlib import Path

from r1lab import lookup, ranks
from r1lab.data import operations
from r1lab.data.calls import rows_of
from r1lab.episodes.record import sampled_ids
from r1lab.errors import UserError
from r1lab.evaluation import forms
from r1lab.models import tools
from r1lab.models.prompts import wording
from r1lab.recipe.schema import EvalRecipe, GrpoRecipe
from r1lab.recipe.sections import TASKS_OWN, Data, Eval, EvalData, Task
from r1lab.rundir import storage
from r1lab.stages.common import doing, logger, note

Evaluated = GrpoRecipe | EvalRecipe
"""A stage that evaluates, during training or on its own."""


def build_rows(
    data: Data,
    *,
    seed: int,
    size: int | None = None,
    run_dir: Path | None = None,
    tokenizer=None,
) -> list[dict]:
    """Returns the rows of a recipe's `data` section, or of an eval task.

    Args:
        run_dir: Gets the reports of the operations of `data`: `data.jsonl` lists the rows that decontamination
            removed.
        tokenizer: Counts the tokens for `max_tokens`.
    """
    parameters = dict(data.parameters)
    given = {
        "split": data.split,
        "size": size if size is not None else data.size,
        "seed": data.seed if data.seed is not None else seed,
    }
    if run_dir:
        doing(run_dir, "reading the data")
    rows = rows_of(data.builder, parameters, given)
    if not rows:
        raise UserError(f"data: {data.builder} has no rows for split {given['split']}: set another data.split")
    if size is None and data.size and len(rows) < data.size:  # the size of an evaluation is a limit
        where = parameters.get("path", data.builder)
        there = "is only 1 row" if len(rows) == 1 else f"are only {len(rows)} rows, which are all used"
        logger.warning("%s: data.size is %d, but there %s", where, data.size, there)
    return _operated(rows, data, seed, run_dir, tokenizer)


def _operated(rows: list[dict], data: Data, seed: int, run_dir: Path | None, tokenizer) -> list[dict]:
    """Returns the rows after the operations of a `data` section, each of which reports how many it removed."""

    def report_removed(kept: list[dict], why: str) -> list[dict]:
        if len(kept) < len(rows) and run_dir:
            note(run_dir, f"data: {len(rows) - len(kept):,} of {len(rows):,} rows left out: {why}")
        if not kept:
            raise UserError(f"data: none of the {len(rows):,} rows is left: {why}: relax this filter")
        return kept

    if data.deduplicate:
        near = None if data.deduplicate is True else data.deduplicate
        rows = report_removed(operations.deduplicate(rows, near=near), "duplicates of other rows (deduplicate)")
    if data.decontaminate:
        kept, removed = operations.decontaminate(
            rows, _evaluation_sets(data.decontaminate.against, seed), n=data.decontaminate.n
        )
        if run_dir and removed and ranks.is_main():
            storage.write_jsonl(run_dir / "data.jsonl", removed)
        rows = report_removed(kept, "shared with an evaluation set (decontaminate; listed in data.jsonl)")
    if data.max_tokens and tokenizer is None:
        raise UserError("data.max_tokens: it needs a tokenizer, which evaluations and servers do not load: remove it")
    if data.max_tokens:
        kept, _ = operations.by_length(rows, lambda row: _tokens(row, tokenizer), max_tokens=data.max_tokens)
        rows = report_removed(kept, f"longer than {data.max_tokens} tokens (max_tokens)")
    if data.pass_rate:
        samples = lookup.function("data", "rows")(path=data.pass_rate.path)
        bounds = {"lowest": data.pass_rate.lowest, "highest": data.pass_rate.highest}
        kept, _ = operations.by_pass_rate(rows, samples, **bounds)
        rows = report_removed(kept, f"not sampled, or with a pass rate outside of {list(bounds.values())} (pass_rate)")
    if data.budget:
        rows = operations.with_budgets(rows, **data.budget.model_dump(), seed=seed if data.seed is None else data.seed)
    return operations.ordered(rows, by=data.order) if data.order else rows


def _evaluation_sets(tasks: list[str | Task], seed: int) -> list[dict]:
    sections = [_as_data(task) for task in tasks]
    return [row for section in sections for row in build_rows(section, seed=seed)]


def _as_data(task: str | Task) -> EvalData:
    """Returns an evaluation's task as a `data` section."""
    if isinstance(task, str):
        return EvalData(builder=task)
    return EvalData(**task.model_dump(exclude=set(TASKS_OWN), exclude_none=True))


def _tokens(row: dict, tokenizer) -> int:
    if (sampled := sampled_ids(row)) is not None:
        return len(sampled[0]) + len(sampled[1])
    texts = [row["prompt"], row.get("completion") or ""]
    texts += [tools.as_text(listed)] if (listed := tools.schemas(row.get("tools"))) else []
    plain = [t if isinstance(t, str) else "\n".join(message["content"] for message in t) for t in texts]
    return sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in plain)


def task_name(task) -> str:
    """Returns the name of a task of `eval.tasks` in results."""
    return task if isinstance(task, str) else task.name or task.builder


def eval_of(recipe: Evaluated) -> Eval:
    """Returns the `eval` section of a stage."""
    assert recipe.eval is not None  # a grpo stage without `eval` evaluates nothing
    return recipe.eval


def samples_of(recipe: Evaluated, name: str) -> int:
    """Returns the number of answers per question of a task."""
    settings = eval_of(recipe)
    own = [task for task in settings.tasks if not isinstance(task, str) and task_name(task) == name]
    return (own[0].num_samples if own else None) or settings.num_samples


def task_sections(recipe: Evaluated) -> dict[str, Data]:
    """Returns the `data` section of each task, by name. Without `eval.tasks` the recipe's own `data` is the task.

    The sections have the sizes of the tasks; `data.size` is the size of the training set in a pipeline that shares
    its `data`.
    """
    own, found = recipe.data, {}
    tasks = recipe.eval.tasks if recipe.eval else []
    # Never the rows that a grpo stage trains on; an eval stage may set a split.
    change = {"size": None} | ({"split": "test"} if recipe.on_policy or tasks else {})
    for task in tasks or ([own.builder] if own else []):
        named = own if own and task == own.builder else None
        found[task_name(task)] = named.model_copy(update=change) if named else _as_data(task)
    return found


def eval_tasks(recipe: Evaluated, sections: dict[str, Data] | None = None) -> dict[str, list[dict]]:
    """Returns the rows of each task, by name; `eval.size` of them if the task has no size.

    Args:
        sections: Some of `task_sections`; default: all of them.
    """
    evaluation = eval_of(recipe)
    own = {task_name(task): task for task in evaluation.tasks if isinstance(task, Task)}
    tasks = {}
    for name, data in (task_sections(recipe) if sections is None else sections).items():
        rows = build_rows(data, seed=recipe.seed, size=data.size or evaluation.size)
        instruction = own[name].instruction if name in own else None
        if instruction and not forms.tagged(wording(**recipe.prompt.model_dump())):
            rows = [row | {"prompt": instructed(row["prompt"], instruction)} for row in rows]
        tasks[name] = rows
    return tasks


def instructed(prompt: str | list[dict], instruction: str) -> str | list[dict]:
    """Appends an instruction to a question; with chat messages, to the last one.

    >>> instructed("2+2?", "Answer in a box.")
    '2+2?\\n\\nAnswer in a box.'
    """
    if isinstance(prompt, str):
        return f"{prompt}\n\n{instruction}"
    return [*prompt[:-1], prompt[-1] | {"content": instructed(prompt[-1]["content"], instruction)}]
