"""References of a stage to the output of an earlier one: `@STAGE/model` and `@STAGE/samples` in a pipeline."""

import re
from collections.abc import Iterator
from pathlib import Path

from r1lab.recipe.schema import STAGES, DistillRecipe, Pipeline, StageRecipe
from r1lab.recipe.values import Problems
from r1lab.recipe.yaml_source import Keys
from r1lab.text import did_you_mean

REFERENCE = re.compile(r"@([a-z0-9_-]+)/(model|samples|adapter)")


def stages(config: dict) -> set[str]:
    """The names of the stages that a stage's recipe refers to.

    >>> stages({"model": {"path": "@base/model"}, "data": {"path": "rows.jsonl"}})
    {'base'}
    """
    values = [value for value in _flat(config).values() if isinstance(value, str)]
    return {match[1] for value in values if (match := REFERENCE.fullmatch(value))}


def with_folders(config: dict, folders: dict[str, Path]) -> dict:
    """A recipe with its references replaced by absolute paths; `folders` has the folder of each stage by name."""
    return {key: _with_folders(value, folders) for key, value in config.items()}


def _with_folders(value: object, folders: dict[str, Path]) -> object:
    if isinstance(value, dict):
        return with_folders(value, folders)
    if isinstance(value, list):
        return [_with_folders(item, folders) for item in value]
    reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if reference and reference[1] in folders:
        return str((folders[reference[1]] / reference[2]).resolve())
    return value


def changes(old: dict, new: dict, folders: dict[str, str]) -> list[str]:
    """The keys in which a stage's resolved recipe differs from that of an earlier run, each with both values.

    A reference such as `@base/model` equals any path to that folder, because a run directory may be moved.

    >>> changes({"train": {"beta": 0.1}}, {"train": {"beta": 0.2}, "rollout": {"options": {}}}, {})
    ['train.beta: was 0.1, now 0.2']
    """
    before, after = _flat(old), _flat(new)
    changed = []
    for key in dict.fromkeys([*before, *after]):
        was, now = before.get(key), after.get(key)
        reference = REFERENCE.fullmatch(now) if isinstance(now, str) else None
        if reference and reference[1] in folders and isinstance(was, str):
            if Path(was).parts[-2:] == (folders[reference[1]], reference[2]):
                continue
        if was != now and not (was in _NOTHING and now in _NOTHING):  # a key that an earlier version did not have
            changed.append(f"{key}: was {_short(was)}, now {_short(now)}")
    return changed


_NOTHING = (None, {}, [])


def _short(value: object) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and value:
        items = enumerate(value)
    else:
        return {prefix: value}
    flat = {}
    for key, item in items:
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def pipeline_problems(recipe: Pipeline) -> Problems:
    """Whether the names of stages are unique, references are to earlier stages, and `compare` names evaluations."""
    found: Problems = []
    earlier: dict[str, str] = {}
    for index, stage in enumerate(recipe.stages):
        keys = ("stages", index)
        if stage.name in earlier:
            found.append(((*keys, "name"), f"{stage.name}: another stage has the same name: choose a different one"))
        for below, value in references(stage):
            expected = _expected(stage, below)
            found += [((*keys, *below), m) for m in _reference_problems(value, below, expected, earlier, recipe)]
        earlier[stage.name] = stage.stage
    evals = [stage.name for stage in recipe.stages if stage.stage == "eval"]
    for index, pair in enumerate(recipe.compare or []):
        if len(pair) != 2 or pair[0] == pair[1]:
            found.append((("compare", index), "should be a pair of two eval stages, [before, after]"))
        for name in pair:
            if name not in evals:
                known = f"; available: {', '.join(evals)}" if evals else "; this pipeline has none"
                hint = did_you_mean(name, evals, otherwise=known)
                found.append((("compare", index), f"{name}: no such eval stage{hint}"))
    return found


def references(stage: StageRecipe) -> Iterator[tuple[Keys, str]]:
    """The values of a stage that refer to another one, or look like a reference."""
    if stage.model.path.startswith("@"):
        yield ("model", "path"), stage.model.path
    sections = stage.model_dump(include={"data", "eval", "rewards", "teacher"})
    for keys, value in _leaves(sections, ()):
        if isinstance(value, str) and value.startswith("@") and keys[-1] in ("path", "model"):
            yield keys, value


def _leaves(value: object, keys: Keys) -> Iterator[tuple[Keys, object]]:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, (*keys, key))
    else:
        yield keys, value


def _expected(stage: StageRecipe, keys: Keys) -> str:
    """The output of an earlier stage that a value of a stage should name."""
    if keys[0] == "teacher" and isinstance(stage, DistillRecipe) and stage.teacher.share_base:
        return "adapter"
    return "model" if keys[0] in ("model", "teacher") or keys[-1] == "model" else "samples"


def _reference_problems(value: str, keys: Keys, expected: str, earlier: dict[str, str], recipe: Pipeline) -> list[str]:
    match = REFERENCE.fullmatch(value)
    if not match or match[2] != expected:
        return [f"{value}: should be @STAGE/{expected}, where STAGE is the name of an earlier stage"]
    name, makes = match[1], "model" if expected == "adapter" else expected
    if name not in earlier:
        if any(stage.name == name for stage in recipe.stages):
            return [f"{value}: {name} does not come before this stage: move it up"]
        able = [stage for stage, kind in earlier.items() if STAGES[kind].makes == makes]
        return [f"{value}: no such stage{did_you_mean(name, able)}"]
    kind = earlier[name]
    if STAGES[kind].makes != makes:
        output = "a model" if makes == "model" else "samples"
        return [f"{value}: {name} is a stage of kind {kind}, which does not produce {output}"]
    if makes == "model" and (kind == "reward") != (keys[0] == "rewards"):
        does = "scores text and does not generate it" if kind == "reward" else "generates text and does not score it"
        fix = "name a stage that trains a policy" if kind == "reward" else "name a reward stage"
        return [f"{value}: {name} is a stage of kind {kind}, whose model {does}: {fix}"]
    of = next(stage for stage in recipe.stages if stage.name == name)
    if expected == "adapter" and getattr(of.model, "lora", None) is None:
        return [f"{value}: {name} trains all weights and has no adapter: set model.lora there, or remove share_base"]
    return []
