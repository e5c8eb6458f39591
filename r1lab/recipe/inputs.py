"""Checks of a recipe that touch files: model folders, data files and their rows, functions of the user's own.

torch is imported for an advantage or a loss of the user's own alone.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from r1lab import engines, lookup
from r1lab.data.rows import Columns
from r1lab.engines import options as engine_options
from r1lab.errors import UserError
from r1lab.grading.grader import applies
from r1lab.models import loading, scratch
from r1lab.models.folders import folder_problems, quantized_by
from r1lab.recipe import trial
from r1lab.recipe.calls import part_parameters
from r1lab.recipe.schema import EvalRecipe, GrpoRecipe, StageRecipe
from r1lab.recipe.sections import ADVANTAGES, Data, EvalData, Reward, Rollout, Task
from r1lab.recipe.values import Problems
from r1lab.recipe.yaml_source import Keys
from r1lab.rewards.facts import facts_of
from r1lab.text import did_you_mean

SHOWN = 5  # rows of one file that are named; more are counted


def input_problems(recipe: StageRecipe, skip: set[str]) -> Problems:
    """What is wrong with a stage's inputs, leaving out the sections in `skip`, which are wrong already."""
    found: Problems = []
    rollout: Rollout | None = None if "rollout" in skip else getattr(recipe, "rollout", None)
    if "model" not in skip and not (rollout and rollout.engine == "server"):  # where the model lies is its business
        found += [(("model", "path"), message) for message in model_problems(recipe.model.path)]
        if (
            not found
            and rollout
            and engines.choose(rollout.engine) == "vllm"
            and loading.is_adapter(recipe.model.path)
        ):
            ways = "set rollout.engine: transformers, or model.lora.merge: true where it was trained"
            found.append((("model", "path"), f"is a LoRA adapter, and vLLM starts from whole models: {ways}"))
        found += [] if found else [(("model", "path"), message) for message in _quantized(recipe, rollout)]
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
        for key in known.needs if known else ():
            if not reward.parameters.get(key):
                found.append((("rewards", index), f"{reward.name} needs the parameter `{key}`"))
    wanted = [] if "rewards" in skip else wanted_columns(recipe)
    for keys, section, given in _sources(recipe, skip):
        found += [((*keys, *below), message) for below, message in data_problems(recipe, section, given, wanted)]
    return found


def _quantized(recipe: StageRecipe, rollout: Rollout | None) -> list[str]:
    """Whether a model whose weights are quantized already is one that this stage can use."""
    method = quantized_by(loading.local_folder(recipe.model.path))
    if method is None or method == "bitsandbytes":
        return []
    what = f"{recipe.model.path}: its weights are quantized by {method}"
    if hasattr(recipe, "train"):
        return [f"{what}, which cannot be trained: name the model that it was made from"]
    by_vllm = rollout is not None and engines.choose(rollout.engine) == "vllm"
    if method in ("gptq", "awq") and not by_vllm and not find_spec("gptqmodel"):
        return [f"{what}, which transformers reads by gptqmodel: pip install gptqmodel, or name the whole model"]
    return []


def model_problems(path: str) -> list[str]:
    """What is wrong with a model's path. A Hub id is taken as it is; it is found missing when it is loaded."""
    if path.startswith("@"):
        return []
    if path.startswith("scratch:"):
        name = path.removeprefix("scratch:")
        known = sorted(scratch.SCRATCH)
        hint = did_you_mean(name, known, otherwise=f" (there are: {', '.join(known)})")
        return [] if name in scratch.SCRATCH else [f"{path}: no such architecture{hint}"]
    if path.startswith("embedded:"):
        return embedded_problems(path.removeprefix("embedded:"))
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder_problems(folder)
    if folder.is_file():
        return [f"{path}: is a file; a model is a folder with config.json and weights"]
    looks_local = path.startswith((".", "/", "~")) or path.endswith("/") or path.count("/") > 1
    return [f"{path}: no such folder"] if looks_local else []


def embedded_problems(name: str) -> list[str]:
    """What is wrong with the name of a model that r1lab carries."""
    if name == "smollm2-135m":
        from r1lab.models.smollm2 import converted, find_gguf

        if (converted() / "config.json").is_file():
            return []
        try:
            find_gguf()
        except UserError as error:
            return [problem.removeprefix("model.path: ") for problem in error.problems]
        return []
    folder = loading.EMBEDDED / name
    if name and folder.is_dir():
        return folder_problems(folder, f"embedded:{name}")
    have = sorted(path.name for path in loading.EMBEDDED.glob("*/")) + ["smollm2-135m"]
    hint = did_you_mean(name, have)
    return [f"embedded:{name}: no such embedded model{hint}; there are: {', '.join(have)}"]


Wanted = list[tuple[str, str, list[str] | None]]
"""Columns that rows need: the column, who asks for it, and for rows of which tasks (None: of all)."""

Source = tuple[Keys, Data | Task, dict]
"""A call of a builder: the keys where it stands, its section, and the parameters given."""


def wanted_columns(recipe: StageRecipe) -> Wanted:
    """The columns that each row needs, who asks for it, and of which rows."""
    article = "an" if recipe.stage == "sft" else "a"
    wanted: Wanted = [(c, f"{article} {recipe.stage} stage, which is trained on it", None) for c in recipe.learns]
    rewards: list[Reward] = getattr(recipe, "rewards", [])
    for reward in rewards:
        function = lookup.function("rewards", reward.name)
        wanted += [(column, f"the reward {reward.name}", reward.tasks) for column in lookup.columns(function)]
    return wanted


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
    """A builder, or each of a mixture's."""
    if section.builder != "mix":
        yield keys, section, section.parameters
        return
    for index, part in enumerate(section.parameters["parts"]):
        own = {key: part[key] for key in ("builder", "split", "seed") if key in part}
        yield (*keys, "parts", index), section.model_copy(update={"builder": "rows", **own}), part_parameters(part)


def data_problems(recipe: StageRecipe, section: Data | Task, given: dict, wanted: Wanted) -> Problems:
    """Whether the data is there and each row has what is asked of it.

    The rows of files are all read; of r1lab's builders one row is made; a builder of the user's own is not called, nor
    is one that would read a data set of the Hub.
    """
    name, path = section.builder, given.get("path")
    keys = ("path",) if "path" in given else ("builder",)
    if name not in lookup.names("data") or (isinstance(path, str) and path.startswith("@")):
        return []
    try:
        if name == "rows":
            split, columns = getattr(section, "split", "test"), given.get("columns")
            return [(keys, message) for message in row_problems(given["path"], split, wanted, columns)]
        builder = lookup.function("data", name)
        reads = lookup.parameters(builder).get("path")
        place = path if path is not None else getattr(reads, "default", None)
        if isinstance(place, str) and not _is_local(place):
            return []
        rows = _one_row(recipe, section, given, builder)
    except UserError as error:
        return [(keys, problem) for problem in error.problems]
    lacking = {column: who for row in rows[:1] for column, who in _lacking(row, wanted)}
    has = ", ".join(column for row in rows for column, value in row.items() if value is not None)
    return [
        (("builder",), f"{name} gives no `{column}`, for {who}; it gives {has}") for column, who in lacking.items()
    ]


def _is_local(path: str) -> bool:
    from r1lab.data.rows import is_local

    return is_local(path)


def _lacking(row: dict, wanted: Wanted) -> list[tuple[str, str]]:
    """The columns that a row lacks, each with who asks for it."""
    return [
        (column, who)
        for column, who, tasks in wanted
        if applies(tasks, row.get("task")) and row.get(column) in (None, "", [])
    ]


def row_problems(path: str, split: str, wanted: Wanted, columns: Columns | None = None) -> list[str]:
    """Rows that lack a required column. A dataset on the Hub is not checked: that might need a download.

    Raises:
        UserError: The rows cannot be read, or have no prompt.
    """
    from r1lab.data.rows import no_column, numbered_rows

    if not _is_local(path):
        return []
    others = tuple(dict.fromkeys(column for column, _, _ in wanted if column != "prompt"))
    rows = numbered_rows(path, split, columns, needed=others)
    if not rows:
        return [f"{path}: no rows in it"]
    lacking: dict[tuple[str, str], list[str]] = {}
    for place, row in rows:
        for missing in _lacking(row, wanted):
            lacking.setdefault(missing, []).append(place)
    found = []
    for (column, who), places in lacking.items():
        if len(places) == len(rows) and not any(column in row for _, row in rows):
            found.append(f"{path}: {no_column(column, [row for _, row in rows], f', for {who}', given=columns)}")
            continue
        found += [f"{place}: no `{column}` in this row, for {who}" for place in places[:SHOWN]]
        if len(places) > SHOWN:
            found.append(f"{path}: {len(places) - SHOWN} more of {len(rows)} rows have no `{column}`")
    return found


def _one_row(recipe: StageRecipe, section: Data | Task, given: dict, builder: Callable) -> list[dict]:
    """What a builder gives when asked for one row."""
    takes = lookup.parameters(builder)
    seed = recipe.seed if section.seed is None else section.seed
    settings = {"split": getattr(section, "split", "test"), "size": 1, "seed": seed}
    return builder(**given, **{key: value for key, value in settings.items() if key in takes})
