"""Rewards bound to their parameters and run on rows: one grader for training, sampling and evaluation."""

import inspect
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from r1lab import lookup
from r1lab.errors import MachineError, UserError
from r1lab.rundir import storage
from r1lab.text import did_you_mean

MACHINE = f"error: {MachineError.__name__}: "  # the reason of a completion that could not be graded on this machine


@dataclass
class Graded:
    """The result of grading a batch.

    Attributes:
        completions: The responses as graded, with a prefilled tag restored.
        values: For each reward, one value per completion; None if it does not apply or failed.
        reasons: For each reward, one reason per completion; empty if the reward gives none, `does not apply`, or
            `error: ...` if it failed.
        totals: The weighted sum of each completion's values; None adds nothing.
        right: Whether the first reward that applies gave at least 1.
        failed: For each reward, the number of completions on which it failed.
        tokens: The tokens of each completion that the model sampled; empty if they are unknown.
        episodes: The `r1lab.episodes.record.Episode` of each completion; empty if there are none.
        figures: For each reward, what else it says of each completion (`Score.figures`), which is not rewarded.
        fatal: The first failure that ends a run, as `(reward, index)`, or None: that of a reward without `on_error:
            zero`, or one caused by the machine, which is never a score.
    """

    completions: list[str]
    values: dict[str, list[float | None]]
    reasons: dict[str, list[str]]
    totals: list[float]
    right: list[bool]
    failed: dict[str, int]
    fatal: tuple[str, int] | None
    tokens: list[int] = field(default_factory=list)
    episodes: list[Any] = field(default_factory=list)
    figures: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def records(self, rows: list[dict], *, step: int) -> list[dict]:
        """One record per completion, for `samples/`."""
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
            | (self.episodes[i].summary(seconds=True) if self.episodes else {})
            for i, row in enumerate(rows)
        ]

    def statistics(self) -> dict[str, dict]:
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
        """Ends the run if a reward failed that must not fail, naming the completion, which is kept in `path`.

        Args:
            path: The samples file; written here unless it has this batch already.

        Raises:
            UserError: With status 1.
        """
        if self.fatal is None:
            return
        name, i = self.fatal
        if not path.exists():
            storage.write_jsonl(path, self.records(rows, step=0))
        error = self.reasons[name][i].removeprefix("error: ")
        if self.reasons[name][i].startswith(MACHINE):
            fix = "fix the machine, and continue with --resume"
        else:
            fix = "`on_error: zero` next to its name scores such rows 0 and continues"
        raise UserError(
            f"rewards: {name}: failed on {self.failed[name]} of {len(rows)} completions, first on line {i + 1} of "
            f"{path}: {error}; {fix}",
            status=1,
        )


def merged(parts: list[Graded]) -> Graded:
    """Separately graded batches as one batch."""
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
        episodes=[x for part in parts for x in part.episodes],
        figures={name: [x for part in parts for x in part.figures[name]] for name in first.figures},
    )


@dataclass
class Grader:
    """Reward functions with their names and weights, and the prefilled start of the response.

    Attributes:
        tasks: For each reward the tasks that it applies to, None for all. `knights_knaves` also means
            `knights_knaves/2ppl`.
        on_error: For each reward `fail` or `zero`: how a completion on which it fails is handled. A failure for lack
            of memory or processes on this machine (`MachineError`) says nothing about a completion, and ends the run.
        failed: For each reward, the number of completions on which it has failed so far.
    """

    names: list[str]
    functions: list[Callable]
    weights: list[float]
    tasks: list[list[str] | None]
    on_error: list[str]
    prefill: str = ""
    failed: Counter = field(default_factory=Counter)

    def grade(
        self,
        completions: list[str],
        rows: list[dict],
        completion_ids: list[list[int]] | None = None,
        episodes: list[Any] | None = None,
        groups: list[int] | None = None,
    ) -> Graded:
        """Scores completions against their rows (one row per completion, repeated for the samples of a prompt).

        Rewards get an episode as `episode`, and the texts of its turns as `turns`, with the prefilled start. An
        episode that says nothing about the model, because its environment failed, has no value of any reward.

        Args:
            completions: Of an episode, the last turn.
            completion_ids: The tokens of each completion. If one has text and no tokens, as from a server that does
                not send them, they are unknown for all.
            groups: For each completion the number of its group; None if completions of equal prompts are a group.

        Raises:
            UserError: A reward needs a column that does not exist, or returns another number of values than there are
                completions.
        """
        if any(text and not ids for text, ids in zip(completions, completion_ids or ())):
            completion_ids = None
        if episodes:
            rows = [
                row | {"episode": episode, "turns": [self.prefill + turn.text for turn in episode.turns]}
                for row, episode in zip(rows, episodes, strict=True)
            ]
        turns = [self.prefill + completion for completion in completions]
        if groups is None:  # a prompt may be a list of messages, which cannot be a key
            numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(repr(row.get("prompt")) for row in rows))}
            groups = [numbers[repr(row.get("prompt"))] for row in rows]
        rows = [row | {"groups": group} for row, group in zip(rows, groups, strict=True)]
        values, reasons, figures, failed, fatal = {}, {}, {}, {}, None
        right: list[bool | None] = [None] * len(turns)
        for name, function, tasks, on_error in zip(self.names, self.functions, self.tasks, self.on_error):
            places = [i for i, row in enumerate(rows) if applies(tasks, row.get("task"))]
            if episodes:
                places = [i for i in places if episodes[i].counted]
            some = [rows[i] for i in places]
            ids = None if completion_ids is None else [completion_ids[i] for i in places]
            known = [bool(right[i]) for i in places] if values else None
            scores: list[tuple] = [(None, "does not apply", {})] * len(turns)
            for i, episode in enumerate(episodes or ()):
                if not episode.counted:
                    scores[i] = (None, f"not counted: {episode.end}", {})
            for i, score in zip(places, _scores(name, function, [turns[i] for i in places], some, ids, known)):
                scores[i] = score
            errors = [i for i, (_, reason, _) in enumerate(scores) if reason.startswith("error: ")]
            forgiven = [i for i in errors if on_error == "zero" and not scores[i][1].startswith(MACHINE)]
            if len(forgiven) < len(errors):
                fatal = fatal or (name, next(i for i in errors if i not in forgiven))
            for i in forgiven:
                scores[i] = (0.0, *scores[i][1:])
            values[name], reasons[name], figures[name] = (list(of) for of in zip(*scores)) if scores else ([], [], [])
            failed[name] = len(errors)
            right = [r if r is not None or v is None else v >= 1 for r, v in zip(right, values[name])]
        self.failed.update(failed)
        totals = [
            sum((weight * (values[name][i] or 0.0) for name, weight in zip(self.names, self.weights)), 0.0)
            for i in range(len(turns))
        ]
        if episodes:
            tokens = [episode.own_tokens for episode in episodes]
        else:
            tokens = [len(ids) for ids in completion_ids or ()]
        verdicts, played = [bool(r) for r in right], list(episodes or ())
        return Graded(turns, values, reasons, totals, verdicts, failed, fatal, tokens, played, figures)

    def gold_problems(self, rows: list[dict]) -> list[str]:
        """Problems with the rows themselves, whatever the model generates: one line for each reward with problems.

        Each of r1lab's own rewards that uses the rows grades an empty completion for each distinct row, which shows an
        unparsable gold answer. For a user's reward this is unknown.
        """
        found = []
        for name, function, tasks in zip(self.names, self.functions, self.tasks):
            columns = lookup.columns(function) if is_own(function) else []
            graded_rows = [(i, row) for i, row in enumerate(rows) if columns and applies(tasks, row.get("task"))]
            distinct = {repr([row.get(column) for column in columns]): row for _, row in graded_rows}
            some, n = list(distinct.values()), len(distinct)
            scores = _scores(name, function, [""] * n, some, [[]] * n, [False] * n)
            graded = {key: reason for key, (_, reason, _) in zip(distinct, scores)}
            bad = {key: reason for key, reason in graded.items() if reason.startswith(("gold_", "error: "))}
            numbers = [i + 1 for i, row in graded_rows if repr([row.get(column) for column in columns]) in bad]
            if numbers:
                some = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
                reason = next(iter(bad.values())).removeprefix("error: ")
                found.append(f"data: {name} cannot grade {len(numbers)} of {len(rows)} rows ({reason}): rows {some}")
        return found


def build(reward_specs: list[dict], base_dir=None, prefill: str = "") -> Grader:
    """A grader from a recipe's `rewards`: each is `{name, weight, tasks, on_error, and the reward's own parameters}`.

    The same reward may occur twice with different parameters: its second value is named `NAME_2`.

    Args:
        base_dir: The folder that `./file.py:function` is relative to. Default: the current folder.
        prefill: The part of the response that is in the prompt (`<think>`); it is restored before grading.

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
        for key in parameters.keys() - takes.keys():  # **columns would accept it silently
            hint = did_you_mean(key, takes, otherwise=f"; it has {', '.join(takes) or 'none'}")
            raise UserError(f"rewards: {name}: {key}: unknown parameter{hint}")
        functions.append(partial(function, **parameters) if parameters else function)
        weights.append(weight)
    names = lookup.reward_names([spec["name"] for spec in reward_specs])
    return Grader(names, functions, weights, tasks, on_error, prefill)


def is_own(function: Callable) -> bool:
    """Whether a reward is one of r1lab's own: safe in any thread, with its own deadlines."""
    return (function.func if isinstance(function, partial) else function).__module__.startswith("r1lab.rewards.")


def applies(tasks: list[str] | None, task: str | None) -> bool:
    """Whether a reward for `tasks` (None: all) is for rows of a task: `countdown` is also `countdown/3`."""
    return tasks is None or any(task == listed or str(task).startswith(f"{listed}/") for listed in tasks)


def _scores(name: str, function: Callable, turns: list[str], rows: list[dict], completion_ids, right) -> list[tuple]:
    """A value, a reason and the figures for each response."""
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
    ):  # user code may raise anything: one bad row must not end the run, so each is tried alone, or with its group
        scores: list[tuple] = [()] * len(turns)
        for places in _groups(rows) if _compares(function) else [[i] for i in range(len(turns))]:
            some = {key: [column[i] for i in places] for key, column in columns.items()}
            try:
                found = _call(name, function, [turns[i] for i in places], some)
            except UserError:
                raise
            except (Exception, SystemExit) as error:
                found = [(None, f"error: {type(error).__name__}: {error}{_hint(error)}", {})] * len(places)
            for i, score in zip(places, found):
                scores[i] = score
        return scores


def _compares(function: Callable) -> bool:
    """Whether `r1lab.rewards.facts` of a reward says that it compares completions of a group."""
    return getattr(getattr(getattr(function, "func", function), "facts", None), "compares", False)


def _groups(rows: list[dict]) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        found.setdefault(row["groups"], []).append(i)
    return list(found.values())


def _hint(error: BaseException) -> str:
    """The fix for a reward that treats a completion as chat messages, as TRL's conversational rewards do."""
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


def _value(score, reason: str = "") -> tuple[float | None, str, dict[str, float]]:
    if score is None:
        return None, reason or "does not apply", {}
    value = float(score)
    if not math.isfinite(value):
        return None, f"error: not a finite number: {value}", {}
    return value, str(getattr(score, "reason", "")), getattr(score, "figures", {})


def _columns(name: str, function: Callable, rows: list[dict], completion_ids, right) -> dict[str, list]:
    """The columns that a reward needs by name, or all of them if it takes `**columns`.

    A parameter with a default is a setting, which a column of the same name does not change; one that is None by
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
    named, takes_all, used = set(), False, set()
    for i, (key, parameter) in enumerate(inspect.signature(function).parameters.items()):
        named.add(key)
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_all = True
        elif key in bound or key == "completions" or (i == 0 and not _by_name(function)):
            continue
        elif parameter.default is parameter.empty and key not in columns:
            if key == "right":
                raise UserError(
                    f"rewards: {name}: needs to know which completions are correct: "
                    "put it after a reward that decides this"
                )
            if key in ("episode", "turns"):
                raise UserError(f"rewards: {name}: needs episodes of several turns: add `environment:` or `tools:`")
            if key == "completion_ids":
                raise UserError(f"rewards: {name}: needs token counts, which the server does not send: remove it here")
            raise UserError(f"rewards: {name}: needs the column {key}; available: {', '.join(columns)}")
        elif parameter.default is parameter.empty or parameter.default is None:
            used.add(key)
    if takes_all:
        used |= columns.keys() - named - {"completions"}
    return {key: column for key, column in columns.items() if key in used}


def _by_name(function: Callable) -> bool:
    return "completions" in inspect.signature(function).parameters
