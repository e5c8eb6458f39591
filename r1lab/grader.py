"""Rewards bound to their parameters and run on rows: one grader for training, sampling and evaluation."""

import inspect
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from r1lab import lookup
from r1lab.errors import UserError


@dataclass
class Graded:
    """What a grader says of a batch.

    Attributes:
        completions: The assistant turns as graded, a prefilled tag put back.
        values: For each reward, one value a completion; None where it does not apply or failed.
        reasons: For each reward, one reason a completion; empty where the reward gives none, `does not apply` or
            `error: ...` beside a None.
        totals: The weighted sum of each completion's values, a None counting nothing.
        right: Whether the first reward gave at least 1.
        failed: For each reward, on how many completions it failed.
    """

    completions: list[str]
    values: dict[str, list[float | None]]
    reasons: dict[str, list[str]]
    totals: list[float]
    right: list[bool]
    failed: dict[str, int]

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
    """Reward functions with their names and weights, and the start of the turn that the prompt holds already.

    Attributes:
        failed: For each reward, on how many completions it has failed so far.
    """

    names: list[str]
    functions: list[Callable]
    weights: list[float]
    prefill: str = ""
    failed: Counter = field(default_factory=Counter)
    _worked: set[str] = field(default_factory=set)

    def grade(self, completions: list[str], rows: list[dict], completion_ids: list[list[int]] | None = None) -> Graded:
        """Score completions against their rows (one row a completion, repeated for the samples of a prompt).

        Raises:
            UserError: A reward asks for a column that there is not, gives another number of values than there are
                completions, or fails on all of a first batch.
        """
        turns = [self.prefill + completion for completion in completions]
        values, reasons, failed = {}, {}, {}
        for name, function in zip(self.names, self.functions):
            scores = _scores(name, function, turns, rows, completion_ids)
            values[name] = [value for value, _ in scores]
            reasons[name] = [reason for _, reason in scores]
            errors = [reason for reason in reasons[name] if reason.startswith("error: ")]
            if len(errors) < len(turns):
                self._worked.add(name)
            elif len(turns) > 1 and name not in self._worked:  # broken code, not a bad row
                raise UserError(
                    f"rewards: {name}: failed on all {len(turns)} completions: {errors[0].removeprefix('error: ')}", 1
                )
            failed[name] = len(errors)
        self.failed.update(failed)
        totals = [
            sum((weight * (values[name][i] or 0.0) for name, weight in zip(self.names, self.weights)), 0.0)
            for i in range(len(turns))
        ]
        first = values[self.names[0]]
        right = [value is not None and value >= 1 for value in first]
        return Graded(turns, values, reasons, totals, right, failed)


def build(reward_specs: list[dict], base_dir=None, prefill: str = "") -> Grader:
    """A grader from a recipe's `rewards`: `{name, weight, and the reward's own parameters}` each.

    The same reward may stand there twice with other parameters: its second value is named `NAME_2`.

    Args:
        base_dir: The folder that `./file.py:function` is relative to. Default: the current one.
        prefill: What the prompt holds of the assistant's turn (`<think>`); it is put back before grading.

    >>> grader = build([{"name": "format", "weight": 0.5}, {"name": "format", "mode": "soft"}], prefill="<think>")
    >>> graded = grader.grade([" Two. </think> So: <answer> 2 </answer>"], [{"prompt": "1+1?"}])
    >>> graded.values, graded.totals, graded.reasons["format"]
    ({'format': [0.0], 'format_2': [1.0]}, [1.0], ['no_format: text between the blocks'])
    """
    if not reward_specs:
        raise UserError("rewards: there are none, so nothing can be graded")
    names: list[str] = []
    functions, weights = [], []
    for spec in reward_specs:
        parameters = dict(spec)
        name, weight = parameters.pop("name"), parameters.pop("weight", 1.0)
        function = lookup.function("rewards", name, base_dir)
        takes = lookup.parameters(function)
        for key in parameters.keys() - takes.keys():  # **columns would swallow it
            hint = lookup.did_you_mean(key, takes, otherwise=f"; it has {', '.join(takes) or 'none'}")
            raise UserError(f"rewards: {name}: {key}: unknown parameter{hint}")
        names.append(_unused(name.rpartition(":")[2].rpartition(".")[2].removesuffix("_reward"), names))
        functions.append(partial(function, **parameters) if parameters else function)
        weights.append(weight)
    return Grader(names, functions, weights, prefill)


def _unused(name: str, names: list[str]) -> str:
    count, unused = 1, name
    while unused in names:
        count += 1
        unused = f"{name}_{count}"
    return unused


def _scores(name: str, function: Callable, turns: list[str], rows: list[dict], completion_ids) -> list[tuple]:
    """A value and a reason for each turn."""
    columns = _columns(name, function, rows, completion_ids)
    try:
        return _call(name, function, turns, columns)
    except UserError:
        raise
    except Exception:  # a reward may be anybody's code: one bad row must not cost the run, so each row is tried alone
        scores = []
        for i, turn in enumerate(turns):
            try:
                scores += _call(name, function, [turn], {key: [column[i]] for key, column in columns.items()})
            except UserError:
                raise
            except Exception as error:
                scores.append((None, f"error: {type(error).__name__}: {error}"))
        return scores


def _call(name: str, function: Callable, turns: list[str], columns: dict[str, list]) -> list[tuple]:
    scores = function(completions=turns, **columns) if _by_name(function) else function(turns, **columns)
    given = list(scores) if hasattr(scores, "__iter__") else None
    if given is None or len(given) != len(turns):
        what = f"gave {type(scores).__name__}" if given is None else f"gave {len(given)} values"
        raise UserError(f"rewards: {name}: {what} for {len(turns)} completions; one value each is needed", 1)
    return [_value(score) for score in given]


def _value(score) -> tuple[float | None, str]:
    if score is None:
        return None, "does not apply"
    value = float(score)
    if not math.isfinite(value):
        return None, f"error: not a finite number: {value}"
    return value, str(getattr(score, "reason", ""))


def _columns(name: str, function: Callable, rows: list[dict], completion_ids) -> dict[str, list]:
    """The columns that a reward asks for by name, or all of them if it takes `**columns`.

    A parameter with a default is a setting, which a column of the same name does not touch; one that is None by
    default may be either.
    """
    bound = function.keywords if isinstance(function, partial) else {}
    keys = dict.fromkeys(key for row in rows for key in row)
    columns = {key: [row.get(key) for row in rows] for key in keys}
    columns["prompts"] = [row["prompt"] for row in rows]
    if completion_ids is not None:
        columns["completion_ids"] = list(completion_ids)
    named, takes_all, wanted = set(), False, set()
    for i, (key, parameter) in enumerate(inspect.signature(function).parameters.items()):
        named.add(key)
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_all = True
        elif key in bound or key == "completions" or (i == 0 and not _by_name(function)):
            continue
        elif parameter.default is parameter.empty and key not in columns:
            raise UserError(f"rewards: {name}: asks for {key}; there are {', '.join(columns)}")
        elif parameter.default is parameter.empty or parameter.default is None:
            wanted.add(key)
    if takes_all:
        wanted |= columns.keys() - named - {"completions"}
    return {key: column for key, column in columns.items() if key in wanted}


def _by_name(function: Callable) -> bool:
    return "completions" in inspect.signature(function).parameters
