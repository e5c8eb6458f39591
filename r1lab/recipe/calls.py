"""Whether the rewards and builders that a recipe names exist and accept the parameters that it passes."""

import inspect
import typing
from collections.abc import Callable
from typing import Any

from r1lab import lookup
from r1lab.errors import UserError
from r1lab.recipe.acting import Environment
from r1lab.recipe.schema import EvalRecipe, GrpoRecipe
from r1lab.recipe.sections import Data, Eval, Task
from r1lab.recipe.values import Problems, value_problems
from r1lab.recipe.yaml_source import Keys
from r1lab.text import did_you_mean


def evaluation_problems(recipe: GrpoRecipe | EvalRecipe, evaluation: Eval) -> Problems:
    """Whether an evaluation has questions, and the builder of each task exists and accepts its parameters."""
    if not evaluation.tasks and recipe.data is None:
        fix = "set eval.tasks, as in `eval: {tasks: [math]}`, or data, as in `data: {builder: knights_knaves}`"
        return [(("data",), f"missing: an evaluation needs questions: {fix}")]
    found = tasks_problems(evaluation.tasks, ("eval", "tasks"), recipe.data)
    own = [getattr(task, "num_samples", None) or evaluation.num_samples for task in evaluation.tasks]
    most = max(own, default=evaluation.num_samples)
    if evaluation.temperature == 0 and most > 1:
        what = f"0: the {most} samples of a question are identical, which engines refuse"
        found.append((("eval", "temperature"), f"{what}: set num_samples: 1, or a temperature of 0.6"))
    return found + _budget_problems(recipe, evaluation)


def _budget_problems(recipe: GrpoRecipe | EvalRecipe, evaluation: Eval) -> Problems:
    """Whether the thinking budgets of an evaluation can be enforced."""
    budgets, keys = evaluation.budgets, ("eval", "budgets")
    if not budgets:
        return []
    if recipe.rollout.engine == "server":
        what = "a server does not continue tokens, so thinking cannot be stopped: set rollout.engine: auto"
        return [(keys, f"{what}, or remove budgets")]
    if recipe.environment or recipe.tools:
        return [(keys, "an episode has thinking in each of its turns: remove budgets")]
    most = evaluation.max_completion_length or recipe.rollout.max_completion_length
    if max(budgets) > most:
        what = f"{max(budgets)}: completions have at most {most} tokens, so it would change nothing"
        return [(keys, f"{what}: raise eval.max_completion_length, or remove it")]
    return []


def tasks_problems(tasks: list[str | Task], where: Keys, data: Data | None) -> Problems:
    """Whether the builders of tasks exist and accept the parameters of the tasks.

    Args:
        tasks: Names of builders, or builders with parameters.
        where: The keys that lead to the list.
        data: The section whose parameters a task gets that only names the same builder.
    """
    found: Problems = []
    for index, task in enumerate(tasks):
        keys = (*where, index)
        if isinstance(task, str):
            given = data.parameters if data and task == data.builder else {}
            found += [(keys, message) for _, message in call_problems("data", task, given, keys)]
        elif "split" in task.parameters:
            found.append(((*keys, "split"), "not set here: an evaluation always uses the test split: remove it"))
        else:
            found += call_problems("data", task.builder, task.parameters, keys, task)
    return found


def call_problems(kind: str, name: str, given: dict, keys: Keys, section: Data | Task | None = None) -> Problems:
    """Whether a reward, a builder or an environment exists and accepts the parameters `given`.

    Args:
        kind: A name in `lookup.KINDS`.
        name: The name of the function or class in the recipe.
        given: Its parameters.
        keys: The keys that lead to the section.
        section: For a builder, the section that has its `size` and `seed`.
    """
    named = (*keys, "builder" if kind == "data" else "name")
    try:
        function = lookup.function(kind, name)
    except UserError as error:
        return [(named, problem) for problem in error.problems]
    parameters = lookup.parameters(function)
    accepted = [key for key in parameters if kind != "data" or key not in ("split", "size", "seed")]
    variadic = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
    found, hints = [], _hints(function)
    for key, value in given.items():
        if key in parameters:
            found += value_problems(value, hints.get(key, Any), (*keys, key))
        elif kind == "rewards" or not variadic:
            own = {
                "rewards": ["name", "weight", "tasks", "on_error"],
                "data": ["builder", "split", "size", "seed"],
                "environments": list(Environment.model_fields),
            }
            has = f"; {name} has {', '.join(accepted) or 'none'}"
            hint = did_you_mean(key, [*accepted, *own[kind]], otherwise=has)
            found.append(((*keys, key), f"unknown parameter{hint}"))
    if kind == "data" and name == "mix":
        found += _parts_problems(given.get("parts"), (*keys, "parts"))
    for key in ("size", "seed") if section is not None else ():
        if getattr(section, key) is not None and key not in parameters and not variadic:
            found.append(((*keys, key), f"the builder {name} has no parameter {key}: remove it"))
    for key in accepted:
        if parameters[key].default is inspect.Parameter.empty and key not in given:
            found.append((named, f"{name} needs the parameter `{key}`"))
    return found


def _parts_problems(parts: object, keys: Keys) -> Problems:
    """Whether the builder of each part of a mixture exists and accepts its parameters."""
    found: Problems = []
    for index, part in enumerate(parts if isinstance(parts, list) else []):
        at = (*keys, index)
        if not isinstance(part, dict) or not isinstance(part.get("builder", "rows"), str):
            found.append((at, "should be a builder with its parameters, as in {builder: rows, path: FILE, weight: 2}"))
            continue
        found += call_problems("data", part.get("builder", "rows"), part_parameters(part), at)
    return found


def part_parameters(part: dict) -> dict:
    """The parameters that a part of a mixture passes to its builder."""
    return {key: value for key, value in part.items() if key not in ("builder", "weight", "split", "size", "seed")}


def _hints(function: Callable) -> dict[str, Any]:
    """The types of a function's or class's parameters; none if a user's annotations cannot be resolved."""
    try:
        return typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError):
        return {}
