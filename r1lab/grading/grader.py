"""Rewards bound to their parameters and run on rows: one grader for training, sampling and evaluation."""

import inspect
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from r1lab import lookup
from r1lab.errors import MachineError, UserError
from r1lab.rundir import storage
from r1lab.text import did_you_mean

MACHINE = f"error: {MachineError.__name__}: "  # the reason of a completion that could not be graded on this machine


@dataclass
class Graded:
    """What a grader says of a batch.

    Attributes:
        completions: The assistant turns as graded, a prefilled tag put back.
        values: For each reward, one value a completion; None where it does not apply or failed.
        reasons: For each reward, one reason a completion; empty where the reward gives none, `does not apply` or
            `error: ...` where it failed.
        totals: The weighted sum of each completion's values, a None counting nothing.
        right: Whether the first reward that applies gave at least 1.
        failed: For each reward, on how many completions it failed.
        tokens: The tokens of each completion; empty where they are not known.
        fatal: The first failure as `(reward, index)` that ends a run, or None: that of a reward without
            `on_error: zero`, or one for the machine's sake, which is never a score.
    """

    completions: list[str]
    values: dict[str, list[float | None]]
    reasons: dict[str, list[str]]
    totals: list[float]
    right: list[bool]
    failed: dict[str, int]
    fatal: tuple[str, int] | None
    tokens: list[int] = field(default_factory=list)

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
            | ({"tokens": self.tokens[i]} if self.tokens else {})
            for i, row in enumerate(rows)
        ]

    def figures(self) -> dict[str, dict]:
        """For each reward its mean and standard deviation, the share of None, and how often each reason was given."""
        found = {}
        for name, values in self.values.items():
            given = [value for value in values if value is not None]
            codes = Counter(reason.partition(":")[0] for reason in self.reasons[name] if reason)
            found[name] = {
                "mean": statistics.fmean(given) if given else None,
                "std": statistics.pstdev(given) if given else None,
                "none": 1 - len(given) / len(values),
                "reasons": dict(codes.most_common()),
            }
        return found

    def stop_if_failed(self, rows: list[dict], path: Path) -> None:
        """End the run where a reward failed that may not, naming the completion, which is kept in `path`.

        Args:
            path: The samples file; written here unless it holds this batch already.

        Raises:
            UserError: Of status 1.
        """
        if self.fatal is None:
            return
        name, i = self.fatal
        if not path.exists():
            storage.write_jsonl(path, self.records(rows, step=0))
        error = self.reasons[name][i].removeprefix("error: ")
        if self.reasons[name][i].startswith(MACHINE):
            fix = "give this machine what it lacks, and go on with --resume"
        else:
            fix = "`on_error: zero` beside its name scores such rows 0 and goes on"
        raise UserError(
            f"rewards: {name}: failed on {self.failed[name]} of {len(rows)} completions, first on line {i + 1} of "
            f"{path}: {error}; {fix}",
            status=1,
        )


def merged(parts: list[Graded]) -> Graded:
    """Batches graded one by one as one batch."""
    fatal, before = None, 0
    for part in parts:
        if fatal is None and part.fatal is not None:
            fatal = part.fatal[0], before + part.fatal[1]
        before += len(part.completions)
    first = parts[0]
    return Graded(
        completions=[x for part in parts for x in part.completions],
        values={name: [x for part in parts for x in part.values[name]] for name in first.values},
        reasons={name: [x for part in parts for x in part.reasons[name]] for name in first.reasons},
        totals=[x for part in parts for x in part.totals],
        right=[x for part in parts for x in part.right],
        failed={name: sum(part.failed[name] for part in parts) for name in first.failed},
        fatal=fatal,
        tokens=[x for part in parts for x in part.tokens],
    )


@dataclass
class Grader:
    """Reward functions with their names and weights, and the start of the turn that the prompt holds already.

    Attributes:
        tasks: For each reward the tasks that it applies to, None for all. `knights_knaves` is also
            `knights_knaves/2ppl`.
        on_error: For each reward `fail` or `zero`: what a completion that it fails on means. What fails for lack of
            memory or processes on this machine (`MachineError`) says nothing of a completion, and ends the run.
        failed: For each reward, on how many completions it has failed so far.
    """

    names: list[str]
    functions: list[Callable]
    weights: list[float]
    tasks: list[list[str] | None]
    on_error: list[str]
    prefill: str = ""
    failed: Counter = field(default_factory=Counter)

    def grade(self, completions: list[str], rows: list[dict], completion_ids: list[list[int]] | None = None) -> Graded:
        """Score completions against their rows (one row a completion, repeated for the samples of a prompt).

        Args:
            completion_ids: The tokens of each completion. Where one has text and no tokens, as from a server that does
                not send them, they are known of none.

        Raises:
            UserError: A reward asks for a column that there is not, or gives another number of values than there are
                completions.
        """
        if any(text and not ids for text, ids in zip(completions, completion_ids or ())):
            completion_ids = None
        turns = [self.prefill + completion for completion in completions]
        values, reasons, failed, fatal = {}, {}, {}, None
        right: list[bool | None] = [None] * len(turns)
        for name, function, tasks, on_error in zip(self.names, self.functions, self.tasks, self.on_error):
            places = [i for i, row in enumerate(rows) if applies(tasks, row.get("task"))]
            some = [rows[i] for i in places]
            ids = None if completion_ids is None else [completion_ids[i] for i in places]
            known = [bool(right[i]) for i in places] if values else None
            scores: list[tuple] = [(None, "does not apply")] * len(turns)
            for i, score in zip(places, _scores(name, function, [turns[i] for i in places], some, ids, known)):
                scores[i] = score
            errors = [i for i, (_, reason) in enumerate(scores) if reason.startswith("error: ")]
            forgiven = [i for i in errors if on_error == "zero" and not scores[i][1].startswith(MACHINE)]
            if len(forgiven) < len(errors):
                fatal = fatal or (name, next(i for i in errors if i not in forgiven))
            for i in forgiven:
                scores[i] = (0.0, scores[i][1])
            values[name], reasons[name] = [value for value, _ in scores], [reason for _, reason in scores]
            failed[name] = len(errors)
            right = [r if r is not None or v is None else v >= 1 for r, v in zip(right, values[name])]
        self.failed.update(failed)
        totals = [
            sum((weight * (values[name][i] or 0.0) for name, weight in zip(self.names, self.weights)), 0.0)
            for i in range(len(turns))
        ]
        tokens = [len(ids) for ids in completion_ids or ()]
        return Graded(turns, values, reasons, totals, [bool(r) for r in right], failed, fatal, tokens)

    def gold_problems(self, rows: list[dict]) -> list[str]:
        """What is wrong with the rows themselves, whatever the model writes: one line for each reward with problems.

        Each of r1lab's own rewards that reads the rows grades an empty completion for each distinct one, which shows
        an unparsable gold. What a user's reward would make of that is not known.
        """
        found = []
        for name, function, tasks in zip(self.names, self.functions, self.tasks):
            columns = lookup.columns(function) if is_own(function) else []
            graded_rows = [(i, row) for i, row in enumerate(rows) if columns and applies(tasks, row.get("task"))]
            distinct = {repr([row.get(column) for column in columns]): row for _, row in graded_rows}
            some, n = list(distinct.values()), len(distinct)
            scores = _scores(name, function, [""] * n, some, [[]] * n, [False] * n)
            graded = {key: reason for key, (_, reason) in zip(distinct, scores)}
            bad = {key: reason for key, reason in graded.items() if reason.startswith(("gold_", "error: "))}
            numbers = [i + 1 for i, row in graded_rows if repr([row.get(column) for column in columns]) in bad]
            if numbers:
                some = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
                reason = next(iter(bad.values())).removeprefix("error: ")
                found.append(f"data: {name} cannot grade {len(numbers)} of {len(rows)} rows ({reason}): rows {some}")
        return found


def build(reward_specs: list[dict], base_dir=None, prefill: str = "") -> Grader:
    """A grader from a recipe's `rewards`: `{name, weight, tasks, on_error, and the reward's own parameters}` each.

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
    functions, weights, tasks, on_error = [], [], [], []
    for spec in reward_specs:
        parameters = dict(spec)
        name, weight = parameters.pop("name"), parameters.pop("weight", 1.0)
        tasks.append(parameters.pop("tasks", None))
        on_error.append(parameters.pop("on_error", "fail"))
        function = lookup.function("rewards", name, base_dir)
        takes = lookup.parameters(function)
        for key in parameters.keys() - takes.keys():  # **columns would swallow it
            hint = did_you_mean(key, takes, otherwise=f"; it has {', '.join(takes) or 'none'}")
            raise UserError(f"rewards: {name}: {key}: unknown parameter{hint}")
        functions.append(partial(function, **parameters) if parameters else function)
        weights.append(weight)
    names = lookup.reward_names([spec["name"] for spec in reward_specs])
    return Grader(names, functions, weights, tasks, on_error, prefill)


def is_own(function: Callable) -> bool:
    """Whether a reward is one of r1lab's: safe in any thread, with deadlines of its own."""
    return (function.func if isinstance(function, partial) else function).__module__.startswith("r1lab.rewards.")


def applies(tasks: list[str] | None, task: str | None) -> bool:
    """Whether a reward for `tasks` (None: all) is for rows of a task: `countdown` is also `countdown/3`."""
    return tasks is None or any(task == wanted or str(task).startswith(f"{wanted}/") for wanted in tasks)


def _scores(name: str, function: Callable, turns: list[str], rows: list[dict], completion_ids, right) -> list[tuple]:
    """A value and a reason for each turn."""
    if not turns:
        return []
    columns = _columns(name, function, rows, completion_ids, right)
    try:
        return _call(name, function, turns, columns)
    except UserError:
        raise
    except (
        Exception,
        SystemExit,
    ):  # a reward may be anybody's code: one bad row must not cost the run, so each row is tried alone
        scores = []
        for i, turn in enumerate(turns):
            try:
                scores += _call(name, function, [turn], {key: [column[i]] for key, column in columns.items()})
            except UserError:
                raise
            except (Exception, SystemExit) as error:
                scores.append((None, f"error: {type(error).__name__}: {error}{_meant(error)}"))
        return scores


def _meant(error: BaseException) -> str:
    """What to type where a reward reads a completion as chat messages, as TRL's conversational rewards do."""
    of_messages = isinstance(error, TypeError) and str(error).startswith("string indices must be integers")
    of_messages |= isinstance(error, AttributeError) and str(error).startswith("'str' object has no attribute 'get'")
    if not of_messages:
        return ""
    return ': completions are strings here, not chat messages: write `completion` for `completion[0]["content"]`'


def _call(name: str, function: Callable, turns: list[str], columns: dict[str, list]) -> list[tuple]:
    scores = function(completions=turns, **columns) if _by_name(function) else function(turns, **columns)
    if inspect.iscoroutine(scores):
        scores.close()  # or Python warns that nobody awaited it
        raise UserError(f"rewards: {name}: is an `async def`: make it a plain `def`, with asyncio.run inside", 1)
    listed = hasattr(scores, "__iter__") and not isinstance(scores, Mapping | str)
    given = list(scores) if listed else None
    if given is None or len(given) != len(turns):
        what = f"gave a value of type {type(scores).__name__}" if given is None else f"gave {len(given)} values"
        raise UserError(f"rewards: {name}: {what} for {len(turns)} completions: return a list with one value each", 1)
    reasons = getattr(scores, "reasons", [""] * len(given))
    return [_value(score, reason) for score, reason in zip(given, reasons)]


def _value(score, reason: str = "") -> tuple[float | None, str]:
    if score is None:
        return None, reason or "does not apply"
    value = float(score)
    if not math.isfinite(value):
        return None, f"error: not a finite number: {value}"
    return value, str(getattr(score, "reason", ""))


def _columns(name: str, function: Callable, rows: list[dict], completion_ids, right) -> dict[str, list]:
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
    if right is not None:
        columns["right"] = right
    named, takes_all, wanted = set(), False, set()
    for i, (key, parameter) in enumerate(inspect.signature(function).parameters.items()):
        named.add(key)
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_all = True
        elif key in bound or key == "completions" or (i == 0 and not _by_name(function)):
            continue
        elif parameter.default is parameter.empty and key not in columns:
            if key == "right":
                raise UserError(f"rewards: {name}: asks what is right, so a reward that tells must stand before it")
            if key == "completion_ids":
                raise UserError(f"rewards: {name}: counts tokens, which the server does not send: leave it out here")
            raise UserError(f"rewards: {name}: asks for {key}; there are {', '.join(columns)}")
        elif parameter.default is parameter.empty or parameter.default is None:
            wanted.add(key)
    if takes_all:
        wanted |= columns.keys() - named - {"completions"}
    return {key: column for key, column in columns.items() if key in wanted}


def _by_name(function: Callable) -> bool:
    return "completions" in inspect.signature(function).parameters
