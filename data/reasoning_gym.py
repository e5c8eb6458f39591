"""Reasoning Gym's procedural datasets, for the reward of the same name."""

import dataclasses
import importlib.util
import json
from typing import Literal

from r1lab.data.generate import split_of
from r1lab.errors import UserError
from r1lab.text import did_you_mean

_ROUNDS = 20  # of seeds, each with twice as many entries as needed


def reasoning_gym(
    *, dataset: str, split: Literal["train", "test"] = "train", size: int | None = None, seed: int = 0, **config
) -> list[dict]:
    """Tasks of one of Reasoning Gym's datasets (arXiv:2505.24760), over a hundred of them with their own scorers.

    Reasoning Gym samples entry i of seed s with `Random(s + i)`, so consecutive seeds give almost the same entries.
    Here seeds are a million apart, and the split is a hash of the question: train and test never share one, regardless
    of seeds and sizes.

    Args:
        dataset: Its name, such as `leg_counting`.
        split: `"train"`, or `"test"`, one question in five.
        size: The number of rows. Default: 1,000; a smaller size gives the first of them.
        config: Further parameters are those of the dataset's own configuration.

    Returns:
        Rows with `prompt`, `answer` (the dataset's own; None if it has none), `task` (`reasoning_gym/leg_counting`)
            and `metadata` (as JSON). For the reward `reasoning_gym`.

    Raises:
        UserError: reasoning-gym is not installed, the dataset is unknown or does not support this configuration or
            size, or the scorer does not accept metadata in JSON (`arc_agi` and `rearc`).

    >>> reasoning_gym(dataset="leg_counting", split="valid")
    Traceback (most recent call last):
    r1lab.errors.UserError: reasoning_gym: split: 'valid' is not train or test
    """
    if split not in ("train", "test"):
        raise UserError(f"reasoning_gym: split: {split!r} is not train or test")
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError("data: reasoning_gym: reasoning-gym is not installed: pip install reasoning-gym")
    size = 1000 if size is None else size
    rows: dict[str, dict] = {}
    for number in range(_ROUNDS):
        entries = _entries(dataset, config, size=2 * size, seed=1_000_000 * seed + 2 * size * number)
        for entry in entries:
            if len(rows) == size:
                return list(rows.values())
            question = entry["question"]
            if not rows:
                _check_json(dataset, entries, entry)
            if question not in rows and split_of(question) == split:
                rows[question] = {
                    "prompt": question,
                    "answer": entry["answer"],
                    "task": f"reasoning_gym/{dataset}",
                    "metadata": _json(entry["metadata"], dataset),
                }
    raise UserError(
        f"reasoning_gym: {dataset}: {split}: {size} questions asked for, but only {len(rows)} were found; "
        "lower size (eval.size in an evaluation), or widen the dataset's configuration"
    )


def _entries(dataset: str, config: dict, *, size: int, seed: int):
    from reasoning_gym.factory import DATASETS, create_dataset  # pyright: ignore[reportMissingImports]  # optional

    if dataset not in DATASETS:
        hint = did_you_mean(dataset, DATASETS, otherwise=f"; there are: {', '.join(sorted(DATASETS))}")
        raise UserError(f"reasoning_gym: dataset: {dataset}: no such dataset{hint}")
    fields = [field.name for field in dataclasses.fields(DATASETS[dataset][1]) if field.name not in ("seed", "size")]
    for key in config:
        if key not in fields:
            hint = did_you_mean(key, fields, otherwise=f"; {dataset} has {', '.join(fields)}")
            raise UserError(f"reasoning_gym: {key}: unknown parameter{hint}")
    try:
        return create_dataset(dataset, size=size, seed=seed, **config)
    except (AssertionError, TypeError, ValueError) as error:  # how its configurations report an invalid value
        given = ", ".join(f"{key}: {value}" for key, value in config.items())
        raise UserError(f"reasoning_gym: {dataset}: {given}: {' '.join(str(error).split())}") from error


def _check_json(dataset: str, entries, entry: dict) -> None:
    """Rejects a dataset whose scorer rejects its own answer once JSON has turned the metadata's tuples into lists."""
    again = {**entry, "metadata": json.loads(_json(entry["metadata"], dataset))}
    if entries.score_answer(entry["answer"], again) < entries.score_answer(entry["answer"], entry):
        raise UserError(f"reasoning_gym: dataset: {dataset}: its scorer does not read its metadata back from JSON")


def _json(metadata: dict, dataset: str) -> str:
    try:
        return json.dumps(metadata, ensure_ascii=False)
    except TypeError as error:
        raise UserError(f"reasoning_gym: {dataset}: its metadata cannot be written as JSON: {error}") from error
