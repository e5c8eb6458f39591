"""Rewards bound to their parameters and run on rows: one grader for training, sampling and evaluation."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from r1lab import lookup
from r1lab.errors import UserError


@dataclass
class Graded:
    """What a grader says of a batch.

    Attributes:
        completions: The assistant turns as graded, a prefilled tag put back.
        values: For each reward, one value a completion; None where it does not apply or failed.
        reasons: For each reward, one reason a completion; empty where the reward gives none.
        totals: The weighted sum of each completion's values.
        right: Whether the first reward gave at least 1.
    """

    completions: list[str]
    values: dict[str, list[float | None]]
    reasons: dict[str, list[str]]
    totals: list[float]
    right: list[bool]

    def records(self, rows: list[dict], *, step: int) -> list[dict]:
        """One record a completion, for `samples/`."""
        return [
            {
                "step": step,
                "task": row.get("task"),
                "prompt": row["prompt"],
                "completion": self.completions[i],
                "answer": row.get("answer"),
                "rewards": {name: values[i] for name, values in self.values.items()},
                "reasons": {name: reasons[i] for name, reasons in self.reasons.items()},
                "reward": self.totals[i],
                "right": self.right[i],
            }
            for i, row in enumerate(rows)
        ]


@dataclass
class Grader:
    """Reward functions with their names and weights, and the start of the turn that the prompt holds already."""

    names: list[str]
    functions: list[Callable]
    weights: list[float]
    prefill: str = ""

    def grade(self, completions: list[str], rows: list[dict], *, completion_ids=None) -> Graded:
        """Score completions against their rows (one row a completion, repeated for the samples of a prompt)."""
        turns = [self.prefill + completion for completion in completions]
        values, reasons = {}, {}
        for name, function in zip(self.names, self.functions):
            scores = _scores(name, function, turns, rows, completion_ids)
            values[name] = [None if score is None else float(score) for score in scores]
            reasons[name] = [_reason(score) for score in scores]
            for i, score in enumerate(scores):
                if isinstance(score, _Failed):
                    values[name][i] = None
        totals = [
            sum(weight * (values[name][i] or 0.0) for name, weight in zip(self.names, self.weights))
            for i in range(len(turns))
        ]
        first = values[self.names[0]]
        return Graded(turns, values, reasons, totals, [value is not None and value >= 1 for value in first])


def build(specs: list[dict], *, base_dir=None, prefill: str = "") -> Grader:
    """A grader from a recipe's `rewards`: `{name, weight, and the reward's own parameters}` each.

    The same reward may stand there twice with other parameters: its second value is named `NAME_2`.
    """
    names: list[str] = []
    functions, weights = [], []
    for spec in specs:
        spec = dict(spec)
        name, weight = spec.pop("name"), spec.pop("weight", 1.0)
        function = lookup.function("rewards", name, base_dir)
        short = name.rpartition(":")[2].rpartition(".")[2].removesuffix("_reward")
        twins = sum(other == short or other.startswith(f"{short}_") for other in names)
        names.append(f"{short}_{twins + 1}" if short in names else short)
        functions.append(partial(function, **spec) if spec else function)
        weights.append(weight)
    return Grader(names, functions, weights, prefill)


class _Failed(float):
    """What stands for the value of a row on which the reward raised."""

    def __new__(cls, error: Exception):
        failed = super().__new__(cls, math.nan)
        failed.reason = f"error: {type(error).__name__}: {error}"
        return failed


def _scores(name: str, function: Callable, turns: list[str], rows: list[dict], completion_ids) -> list:
    def call(at: slice):
        columns = _columns(function, rows[at], completion_ids[at] if completion_ids else None)
        scores = function(turns[at], **columns)
        if scores is None or len(scores) != len(turns[at]):
            given = "nothing" if scores is None else f"{len(scores)} values"
            raise UserError(f"rewards: {name}: gave {given} for {len(turns[at])} completions; one each is needed", 1)
        return list(scores)

    try:
        return call(slice(None))
    except UserError:
        raise
    except Exception:  # a reward may be anybody's code: one bad row must not cost the run, so each row is tried alone
        scores = []
        for i in range(len(turns)):
            try:
                scores += call(slice(i, i + 1))
            except UserError:
                raise
            except Exception as error:
                scores.append(_Failed(error))
        return scores


def _columns(function: Callable, rows: list[dict], completion_ids) -> dict[str, list]:
    """The columns that a reward asks for by name, or all of them if it takes `**columns`."""
    signature = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    bound = function.keywords if isinstance(function, partial) else {}
    available = {key for row in rows for key in row} | {"prompts", "completion_ids"}
    wanted = (available if takes_all else available & signature.keys()) - bound.keys()
    columns = {key: [row.get(key) for row in rows] for key in wanted - {"prompts", "completion_ids"}}
    if "prompts" in wanted:
        columns["prompts"] = [row["prompt"] for row in rows]
    if "completion_ids" in wanted and completion_ids is not None:
        columns["completion_ids"] = completion_ids
    return {key: value for key, value in columns.items() if key != "completions"}


def _reason(score) -> str:
    if score is None:
        return "does not apply"
    return getattr(score, "reason", "")
