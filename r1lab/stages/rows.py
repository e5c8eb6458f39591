"""The rows that a stage reads: built, put in shape, filtered and mixed as its recipe says."""

from pathlib import Path

from r1lab import lookup
from r1lab.data import operations
from r1lab.data.calls import rows_of
from r1lab.errors import UserError
from r1lab.evaluation import forms
from r1lab.models.prompts import wording
from r1lab.recipe.schema import EvalRecipe, GrpoRecipe
from r1lab.recipe.sections import TASKS_OWN, Data, Eval, EvalData, Task
from r1lab.rundir import storage
from r1lab.stages.common import doing, logger, note

Evaluated = GrpoRecipe | EvalRecipe
"""A stage that evaluates, while it trains or alone."""


def build_rows(
    data: Data,
    *,
    seed: int,
    size: int | None = None,
    run_dir: Path | None = None,
    tokenizer=None,
) -> list[dict]:
    """The rows that a recipe's `data` section (or an eval task) asks for.

    Args:
        run_dir: Where the operations of `data` report what they left out: `data.jsonl` has a row for each that
            decontamination took.
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
        raise UserError(f"data: {data.builder} gave no rows for split {given['split']}")
    if size is None and data.size and len(rows) < data.size:  # the size of an evaluation is a limit
        where = parameters.get("path", data.builder)
        logger.warning("%s: data.size: %d rows asked for, all %d are taken", where, data.size, len(rows))
    return _operated(rows, data, seed, run_dir, tokenizer)


def _operated(rows: list[dict], data: Data, seed: int, run_dir: Path | None, tokenizer) -> list[dict]:
    """The rows after the operations of a `data` section, each of which tells how many it left out."""

    def tell(kept: list[dict], why: str) -> list[dict]:
        if len(kept) < len(rows) and run_dir:
            note(run_dir, f"data: {len(rows) - len(kept):,} of {len(rows):,} rows left out: {why}")
        if not kept:
            raise UserError(f"data: none of {len(rows):,} rows is left: {why}")
        return kept

    if data.deduplicate:
        near = None if data.deduplicate is True else data.deduplicate
        rows = tell(operations.deduplicate(rows, near=near), "the same as another (deduplicate)")
    if data.decontaminate:
        kept, report = operations.decontaminate(
            rows, _evaluation_sets(data.decontaminate.against, seed), n=data.decontaminate.n
        )
        if run_dir and report:
            storage.write_jsonl(run_dir / "data.jsonl", report)
        rows = tell(kept, "shared with an evaluation set (decontaminate; listed in data.jsonl)")
    if data.max_tokens and tokenizer is None:
        raise UserError("data.max_tokens: counts a model's tokens, which an evaluation and a server do not: remove it")
    if data.max_tokens:
        kept, _ = operations.by_length(rows, lambda row: _tokens(row, tokenizer), max_tokens=data.max_tokens)
        rows = tell(kept, f"longer than {data.max_tokens} tokens (max_tokens)")
    if data.pass_rate:
        samples = lookup.function("data", "rows")(path=data.pass_rate.path)
        bounds = {"lowest": data.pass_rate.lowest, "highest": data.pass_rate.highest}
        kept, _ = operations.by_pass_rate(rows, samples, **bounds)
        rows = tell(kept, f"not sampled, or right in a share not within {list(bounds.values())} (pass_rate)")
    return operations.ordered(rows, by=data.order) if data.order else rows


def _evaluation_sets(tasks: list[str | Task], seed: int) -> list[dict]:
    sections = [_as_data(task) for task in tasks]
    return [row for section in sections for row in build_rows(section, seed=seed)]


def _as_data(task: str | Task) -> EvalData:
    """An evaluation's task as a `data` section."""
    if isinstance(task, str):
        return EvalData(builder=task)
    return EvalData(**task.model_dump(exclude=set(TASKS_OWN), exclude_none=True))


def _tokens(row: dict, tokenizer) -> int:
    texts = [row["prompt"], row.get("completion") or ""]
    plain = [t if isinstance(t, str) else "\n".join(message["content"] for message in t) for t in texts]
    return sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in plain)


def task_name(task) -> str:
    """What a task of `eval.tasks` is called in results."""
    return task if isinstance(task, str) else task.name or task.builder


def eval_of(recipe: Evaluated) -> Eval:
    """How a stage evaluates."""
    assert recipe.eval is not None  # a grpo stage without `eval` evaluates nothing
    return recipe.eval


def samples_of(recipe: Evaluated, name: str) -> int:
    """How many answers a question of a task gets."""
    settings = eval_of(recipe)
    own = [task for task in settings.tasks if not isinstance(task, str) and task_name(task) == name]
    return (own[0].num_samples if own else None) or settings.num_samples


def task_sections(recipe: Evaluated) -> dict[str, Data]:
    """The `data` section of each task, by the task's name. Without `eval.tasks` the recipe's own `data` is the task.

    Their sizes are those of tasks: `data.size` is that of the training, in a pipeline that shares its `data`.
    """
    own, found = recipe.data, {}
    tasks = recipe.eval.tasks if recipe.eval else []
    # Never the rows that a grpo stage trains on; an eval stage may name a split.
    change = {"size": None} | ({"split": "test"} if recipe.stage == "grpo" or tasks else {})
    for task in tasks or ([own.builder] if own else []):
        named = own if own and task == own.builder else None
        found[task_name(task)] = named.model_copy(update=change) if named else _as_data(task)
    return found


def eval_tasks(recipe: Evaluated, sections: dict[str, Data] | None = None) -> dict[str, list[dict]]:
    """The rows of each task, by its name; `eval.size` of them where the task has no size of its own.

    Args:
        sections: Those of `task_sections`, in place of all of them.
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
    """A question with an instruction below it; of chat messages, below the last.

    >>> instructed("2+2?", "Answer in a box.")
    '2+2?\\n\\nAnswer in a box.'
    """
    if isinstance(prompt, str):
        return f"{prompt}\n\n{instruction}"
    return [*prompt[:-1], prompt[-1] | {"content": instructed(prompt[-1]["content"], instruction)}]
