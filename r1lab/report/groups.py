"""Groups of runs that differ only in their seeds, and unique names of runs."""

import itertools
import json
import os
import re
from dataclasses import dataclass, replace

from r1lab.report import read
from r1lab.report.read import Run, clean, items

# The stage that a model or samples come from: in the recipe of a stage this is an absolute path.
_FROM_STAGE = re.compile(r"(?:.*/\d{2,}-|@)([^/]+)/(model|samples)", re.DOTALL)


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in their seeds."""

    label: str
    runs: list[Run]


def named(runs: list[Run]) -> list[Run]:
    """The runs under unique names: `PARENT/NAME` if folders have the same name, with a number if necessary."""
    names = [run.name for run in runs]
    unique: list[str] = []
    for run in runs:
        name = f"{run.path.resolve().parent.name}/{run.name}" if names.count(run.name) > 1 else run.name
        numbered = itertools.chain([name], (f"{name}-{place}" for place in itertools.count(2)))
        unique.append(next(name for name in numbered if name not in unique))
    return [replace(run, name=name) for run, name in zip(runs, unique)]


def groups(runs: list[Run]) -> list[RunGroup]:
    """The runs, grouped by recipes that are the same except for the seeds."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps(_without_seeds(_recipes(run)), sort_keys=True, default=str) if run.config else run.name
        found.setdefault(key, []).append(run)
    labels = [_label(some) for some in found.values()]
    return [
        RunGroup(label if labels.count(label) == 1 else f"{some[0].name} and {len(some) - 1} more", some)
        for label, some in zip(labels, found.values())
    ]


def _recipes(run: Run) -> list[dict]:
    """A run's recipe; for a single stage's folder also those of the stages before it, on which its model depends."""
    folder = run.path.resolve()
    if not (found := read.STAGE_FOLDER.fullmatch(folder.name)) or not (folder.parent / "config.yaml").is_file():
        return [run.config]
    above = read.yaml(folder.parent / "config.yaml", [])
    stages = [stage for stage in items(above.get("stages")) if isinstance(stage, dict)]
    before = itertools.takewhile(lambda stage: clean(stage.get("name")) != found[1], stages)
    return [run.config, *before]


def _without_seeds(value: object, depth: int = 0) -> object:
    if isinstance(value, dict):  # a recipe's name is not a setting; those of a pipeline's stages identify them
        left = {str(k): v for k, v in value.items() if k != "seed" and not (depth == 1 and k == "name")}
        return {key: _without_seeds(item, depth + 1) for key, item in left.items()}
    if isinstance(value, list):
        return [_without_seeds(item, depth + 1) for item in value]
    found = _FROM_STAGE.fullmatch(value) if isinstance(value, str) else None
    return f"@{found[1]}/{found[2]}" if found else value


def _label(runs: list[Run]) -> str:
    if len(runs) == 1:
        return runs[0].name
    last = {run.name.rpartition("/")[2] for run in runs}
    shared = os.path.commonprefix([run.name for run in runs]).rstrip("-_ ").removesuffix("-seed")
    return f"{last.pop() if len(last) == 1 else shared or runs[0].name} ({len(runs)} runs)"
