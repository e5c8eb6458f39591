"""What a stage takes from an earlier one: `@STAGE/model` and `@STAGE/samples` in the recipe of a pipeline."""

import re
from pathlib import Path

REFERENCE = re.compile(r"@([a-z0-9_-]+)/(model|samples)")


def stages(config: dict) -> set[str]:
    """The names of the stages that a stage's recipe refers to.

    >>> stages({"model": {"path": "@base/model"}, "data": {"path": "rows.jsonl"}})
    {'base'}
    """
    values = [value for value in _flat(config).values() if isinstance(value, str)]
    return {match[1] for value in values if (match := REFERENCE.fullmatch(value))}


def with_folders(value: object, folders: dict[str, Path]) -> object:
    """A recipe with its references replaced by absolute paths into `folders`, those of the stages by name."""
    if isinstance(value, dict):
        return {key: with_folders(item, folders) for key, item in value.items()}
    if isinstance(value, list):
        return [with_folders(item, folders) for item in value]
    reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if reference and reference[1] in folders:
        return str((folders[reference[1]] / reference[2]).resolve())
    return value


def changes(old: dict, new: dict, folders: dict[str, str]) -> list[str]:
    """The keys in which a stage's resolved recipe differs from that of an earlier run, each with both values.

    A reference such as `@base/model` equals any path to that folder: a run directory may be moved.

    >>> changes({"train": {"beta": 0.1}}, {"train": {"beta": 0.2}}, {})
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
        if was != now:
            changed.append(f"{key}: was {_short(was)}, now {_short(now)}")
    return changed


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
