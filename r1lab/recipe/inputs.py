"""Checks of a recipe that read files: model folders, data files and their rows, the user's own functions.

Only a user's own advantage or loss imports torch.
"""

import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from r1lab import engines, lookup
from r1lab.data.rows import Columns
from r1lab.engines import options as engine_options
from r1lab.episodes.record import sampled_ids
from r1lab.errors import UserError
from r1lab.grading.grader import applies
from r1lab.models import gguf, loading, scratch
from r1lab.models.folders import folder_problems, quantized_by
from r1lab.recipe import environments, trial
from r1lab.recipe.acting import environment_of
from r1lab.recipe.calls import part_parameters
from r1lab.recipe.schema import DistillRecipe, EvalRecipe, GrpoRecipe, StageRecipe
from r1lab.recipe.sections import Data, EvalData, Reward, Rollout, Task
from r1lab.recipe.training import ADVANTAGES
from r1lab.recipe.values import Problems
from r1lab.recipe.yaml_source import COMMAND_LINE, Keys
from r1lab.rewards.facts import facts_of
from r1lab.text import did_you_mean, did_you_mean_path

_COLUMNS = re.compile(r"write `columns: (\{.*\})` next to `path`$")  # the fix of `r1lab.data.rows.no_column`
SHOWN = 5  # problems with rows of one file that are listed; the rest are counted


def input_problems(recipe: StageRecipe, skip: set[str]) -> Problems:
    """What is wrong with a stage's inputs, without the sections in `skip`, which are already known to be wrong."""
    found: Problems = []
    rollout: Rollout | None = None if "rollout" in skip else getattr(recipe, "rollout", None)
    if "model" not in skip and not (rollout and rollout.engine == "server"):  # a server loads the model itself
        found += [(("model", "path"), message) for message in model_problems(recipe.model.path)]
        if (
            not found
            and rollout
            and engines.choose(rollout.engine) == "vllm"
            and loading.is_adapter(recipe.model.path)
        ):
            fix = "set rollout.engine: transformers, or train the adapter with model.lora.merge: true"
            found.append((("model", "path"), f"is a LoRA adapter, but vLLM needs a full model: {fix}"))
        found += [] if found else [(("model", "path"), message) for message in _quantized(recipe, rollout)]
    if "teacher" not in skip and isinstance(recipe, DistillRecipe):
        wrong = model_problems(recipe.teacher.path)
        later = recipe.teacher.path.startswith("@") or recipe.model.path.startswith("@")
        if recipe.teacher.share_base and not (found or wrong or later):
            why = loading.unshared(recipe.teacher.path, recipe.model.path, recipe.model.revision)
            wrong = [f"{recipe.teacher.path}: {why}"] if why else []
        found += [(("teacher", "path"), message) for message in wrong]
    if rollout:
        wrong = engine_options.problems(rollout.engine, rollout.options)
        found += [(("rollout", "options", option), message) for option, message in wrong]
    if "train" not in skip and isinstance(recipe, GrpoRecipe):
        for key in ("advantage", "loss"):
            name = recipe.train.get(key)
            if name and name not in ADVANTAGES and (wrong := trial.problem(key, name)):
                found.append((("train", key), wrong))
    rewards: list[Reward] = [] if "rewards" in skip else getattr(recipe, "rewards", [])
    for index, reward in enumerate(rewards):
        known = facts_of(reward.name)
        if known and known.compares and known.looks_for == "answer" and _evaluates(recipe):
            what = "reads no gold answer, so an evaluation by it measures agreement, not correctness"
            found.append((("rewards", index), f"{reward.name} {what}: use accuracy, or a reward like it"))
        for key in known.needs if known else ():
            if not reward.parameters.get(key):
                found.append((("rewards", index), f"{reward.name} needs the parameter `{key}`"))
    found += environments.unplayed(recipe) if not {"environment", "tools"} & skip else []
    required = [] if {"rewards", "environment"} & skip else required_columns(recipe)
    for keys, section, given in _sources(recipe, skip):
        problems = data_problems(recipe, section, given, required)
        found += [((*keys, *below), _as_typed(recipe, keys, message)) for below, message in problems]
    return found


def _evaluates(recipe: StageRecipe) -> bool:
    return isinstance(recipe, EvalRecipe) or (
        isinstance(recipe, GrpoRecipe) and bool(recipe.eval and recipe.eval.every)
    )


def _as_typed(recipe: StageRecipe, keys: Keys, message: str) -> str:
    """A message whose fix is a setting to add, if the data was named on the command line and not in a file."""
    document = recipe._document
    section = document.origin((*recipe._keys, *keys))
    if document.places.get((*section, "path")) != COMMAND_LINE:
        return message
    return _COLUMNS.sub(lambda fix: f"add '{document.label(section)}.columns={fix[1]}'", message)


def _quantized(recipe: StageRecipe, rollout: Rollout | None) -> list[str]:
    """Whether the stage can use a model with quantized weights."""
    method = quantized_by(loading.local_folder(recipe.model.path))
    if method is None or method == "bitsandbytes":
        return []
    what = f"{recipe.model.path}: its weights are quantized by {method}"
    if hasattr(recipe, "train"):
        return [f"{what} and cannot be trained: use the model before quantization"]
    by_vllm = rollout is not None and engines.choose(rollout.engine) == "vllm"
    if method in ("gptq", "awq") and not by_vllm and not find_spec("gptqmodel"):
        return [f"{what}, which transformers loads with gptqmodel: pip install gptqmodel, or use the original model"]
    return []


def model_problems(path: str) -> list[str]:
    """What is wrong with a model's path. A Hub id is not checked here."""
    if path.startswith("@"):
        return []
    if path.startswith("scratch:"):
        name = path.removeprefix("scratch:")
        known = sorted(scratch.SCRATCH)
        hint = did_you_mean(name, known, otherwise=f"; available: {', '.join(known)}")
        return [] if name in scratch.SCRATCH else [f"{path}: no such architecture{hint}"]
    if path.startswith("embedded:"):
        return embedded_problems(path.removeprefix("embedded:"))
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder_problems(folder)
    if gguf.is_gguf(path):
        return [why] if (why := gguf.problem(folder)) else []
    if folder.is_file():
        return [f"{path}: this is a file: give a model's folder, with config.json and weights"]
    looks_local = path.startswith((".", "/", "~")) or path.endswith("/") or path.count("/") > 1
    return [f"{path}: no such folder{did_you_mean_path(path)}"] if looks_local else []


def embedded_problems(name: str) -> list[str]:
    """What is wrong with the name of an embedded model."""
    from r1lab.models import smollm2

    if name in smollm2.LAYERS:
        if any((smollm2.converted(one) / "config.json").is_file() for one in (name, smollm2.NAME)):
            return []
        try:
            smollm2.find_gguf()
        except UserError as error:
            return [problem.removeprefix("model.path: ") for problem in error.problems]
        return []
    folder = loading.EMBEDDED / name
    if name and folder.is_dir():
        return folder_problems(folder, f"embedded:{name}")
    have = sorted(path.name for path in loading.EMBEDDED.glob("*/")) + [*smollm2.LAYERS]
    hint = did_you_mean(name, have)
    return [f"embedded:{name}: no such embedded model{hint}; available: {', '.join(have)}"]


Required = list[tuple[str, str, list[str] | None]]
"""Columns that rows need: the column, what needs it, and the tasks of the rows that need it (None: all rows)."""

Source = tuple[Keys, Data | Task, dict]
"""A call of a builder: the keys that lead to it, its section, and its parameters."""


def required_columns(recipe: StageRecipe) -> Required:
    """The columns that rows need, what needs each, and which rows need it."""
    article = "an" if recipe.stage == "sft" else "a"
    required: Required = [(c, f"{article} {recipe.stage} stage, which is trained on it", None) for c in recipe.learns]
    rewards: list[Reward] = getattr(recipe, "rewards", [])
    for reward in rewards:
        function = lookup.function("rewards", reward.name)
        required += [(column, f"the reward {reward.name}", reward.tasks) for column in lookup.columns(function)]
    section = environment_of(recipe)
    if section is not None and section.name is not None:
        environment = lookup.function("environments", section.name)
        required += [(column, f"the environment {section.name}", None) for column in environments.columns(environment)]
    return required


def _sources(recipe: StageRecipe, skip: set[str]) -> Iterator[Source]:
    """The builders that a stage calls."""
    tasks: list[str | Task] = []
    if "eval" not in skip and isinstance(recipe, EvalRecipe):
        tasks = recipe.eval.tasks
    elif "eval" not in skip and isinstance(recipe, GrpoRecipe) and recipe.eval and recipe.eval.every:
        tasks = recipe.eval.tasks
    data: Data | None = getattr(recipe, "data", None)
    if data and "data" not in skip and (recipe.stage != "eval" or not tasks or data.builder in tasks):
        yield from _parts(("data",), data)
    for index, task in enumerate(tasks):
        keys = ("eval", "tasks", index)
        if not isinstance(task, str):
            yield from _parts(keys, task)
        elif data is None or task != data.builder:
            yield keys, EvalData(builder=task), {}


def _parts(keys: Keys, section: Data | Task) -> Iterator[Source]:
    """A builder, or each builder of a mixture."""
    if section.builder != "mix":
        yield keys, section, section.parameters
        return
    for index, part in enumerate(section.parameters["parts"]):
        own = {key: part[key] for key in ("builder", "split", "seed") if key in part}
        yield (*keys, "parts", index), section.model_copy(update={"builder": "rows", **own}), part_parameters(part)


def data_problems(recipe: StageRecipe, section: Data | Task, given: dict, required: Required) -> Problems:
    """Whether the data exists and each row has the required columns.

    All rows of files are read. r1lab's own builders make one row. A user's own builder is not called, and neither is
    one that would read a data set of the Hub.
    """
    name, path = section.builder, given.get("path")
    keys = ("path",) if "path" in given else ("builder",)
    if section.budget:  # it adds the column
        required = [one for one in required if one[0] != "budget"]
    if name not in lookup.names("data") or (isinstance(path, str) and path.startswith("@")):
        return []
    try:
        if name == "rows":
            split, columns = getattr(section, "split", "test"), given.get("columns")
            return [(keys, message) for message in row_problems(given["path"], split, required, columns)]
        builder = lookup.function("data", name)
        reads = lookup.parameters(builder).get("path")
        place = path if path is not None else getattr(reads, "default", None)
        if isinstance(place, str) and not _is_local(place):
            return []
        rows = _one_row(recipe, section, given, builder)
    except UserError as error:
        return [(keys, problem) for problem in error.problems]
    missing = {column: user for row in rows[:1] for column, user in _missing(row, required)}
    has = ", ".join(column for row in rows for column, value in row.items() if value is not None)
    return [
        (("builder",), f"{name} has no column `{column}`, for {user}; it has {has}")
        for column, user in missing.items()
    ]


def _is_local(path: str) -> bool:
    from r1lab.data.rows import is_local

    return is_local(path)


def _missing(row: dict, required: Required) -> list[tuple[str, str]]:
    """The columns that a row lacks, each with what needs it."""
    return [
        (column, user)
        for column, user, tasks in required
        if applies(tasks, row.get("task")) and row.get(column) in (None, "", []) and not _is_turn(row, column)
    ]


def _is_turn(row: dict, column: str) -> bool:
    """Whether a column is the last turn of an episode, which may be empty."""
    return column == "completion" and column in row and sampled_ids(row) is not None


def row_problems(path: str, split: str, required: Required, columns: Columns | None = None) -> list[str]:
    """Rows that lack a required column. A data set of the Hub is not read, because that might download it.

    Raises:
        UserError: The rows cannot be read, or have no prompt.
    """
    from r1lab.data.rows import no_column, numbered_rows

    if not _is_local(path):
        return []
    others = tuple(dict.fromkeys(column for column, _, _ in required if column != "prompt"))
    rows = numbered_rows(path, split, columns, needed=others)
    if not rows:
        return [f"{path}: has no rows"]
    missing: dict[tuple[str, str], list[str]] = {}
    for place, row in rows:
        for column_and_user in _missing(row, required):
            missing.setdefault(column_and_user, []).append(place)
    found = []
    for (column, user), places in missing.items():
        if len(places) == len(rows) and not any(column in row for _, row in rows):
            found.append(f"{path}: {no_column(column, [row for _, row in rows], f', for {user}', given=columns)}")
            continue
        found += [f"{place}: this row has no `{column}`, for {user}" for place in places[:SHOWN]]
        if len(places) > SHOWN:
            found.append(f"{path}: {len(places) - SHOWN} more of {len(rows)} rows have no `{column}`")
    return found


def _one_row(recipe: StageRecipe, section: Data | Task, given: dict, builder: Callable) -> list[dict]:
    """Builds one row."""
    accepted = lookup.parameters(builder)
    seed = recipe.seed if section.seed is None else section.seed
    settings = {"split": getattr(section, "split", "test"), "size": 1, "seed": seed}
    return builder(**given, **{key: value for key, value in settings.items() if key in accepted})
