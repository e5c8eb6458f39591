"""The progress display of a running stage: a panel on a terminal, or periodic lines in a file.

Everything shown comes from the stage's `metrics.jsonl`, which the stage writes and this module follows.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from r1lab.recipe.schema import trains
from r1lab.rundir import storage
from r1lab.rundir.logs import last_line
from r1lab.text import duration, number, sparkline

LINE_EVERY = 10.0  # seconds between lines in a file during the first ten minutes
LATER_LINE_EVERY = 60.0  # and after that
REDRAW_EVERY = 1.0  # seconds between updates of the panel
_SPARK_ROWS = 1000  # a sparkline of more steps uses only every n-th step


@dataclass
class Progress:
    """The progress of a stage, according to its metrics.

    Attributes:
        position: Steps or questions done; None before the first.
        total: Total steps or questions.
        left: Seconds left, None if still unknown.
        last: The newest row of the stage's own phase.
        history: All rows of the stage's own phase, one per step.
        evals: The evaluations during training, oldest first.
        doing: What the stage does if it is not in its own phase, else None.
    """

    position: int | None = None
    total: int | None = None
    left: float | None = None
    last: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    evals: list[dict] = field(default_factory=list)
    doing: str | None = None


class MetricsHistory:
    """The metrics of one stage. The cost of adding a row does not grow with the number of rows.

    Args:
        kind: The kind of the stage.
        started: The start of this attempt in unix seconds; the pace is measured on later rows only.
    """

    def __init__(self, kind: str, started: float):
        self.phase, self.started = "train" if trains(kind) else kind, started
        self.history: list[dict] = []
        self.evals: list[dict] = []
        self.count = 0  # rows seen
        self._last: dict = {}  # the newest row of the stage's own phase
        self._fresh: tuple[dict, dict] | None = None  # the first and the newest such row of this attempt and round
        self._newest: dict | None = None  # the newest row of this attempt, of any phase
        self._starting: str | None = None  # what this attempt does before its first measurement

    def add(self, rows: list[dict]) -> None:
        """Adds rows of `metrics.jsonl` in the order of the file, including those of earlier attempts."""
        self.count += len(rows)
        for row in rows:
            fresh = row.get("time", 0) >= self.started
            if fresh:
                self._newest = row
                if row.get("phase") == "load":
                    self._starting = row.get("message")
                elif row.get("phase") in (self.phase, "eval"):
                    self._starting = None
            if row.get("phase") == self.phase and _position(row) is not None:
                _insert(self.history, row)
                self._last = row
                if fresh:
                    same = self._fresh and self._fresh[0].get("answers") == row.get("answers")
                    self._fresh = (self._fresh[0] if self._fresh and same else row, row)
            elif row.get("phase") == "eval" and "tasks" in row:
                _insert(self.evals, row)

    def state(self, *, doing: str, now: float) -> Progress:
        """The progress of the stage.

        Args:
            doing: What the stage does before its first row.
            now: The time, in unix seconds.
        """
        state = Progress(history=self.history, evals=self.evals if self.phase == "train" else [])
        if self.history:
            # An evaluation counts the questions of each task from 0, so its newest row may not have the highest count.
            state.last = self.history[-1] if self.phase == "train" else self._last
            state.position, state.total = _position(state.last), state.last.get("total")
        if self._fresh:
            state.left = _time_left(*self._fresh, state.total, now)
        newest = self._newest or {}
        if self._starting or self._newest is None:
            state.doing = self._starting or doing
        elif self.phase == "train" and newest.get("phase") == "eval" and "tasks" not in newest:
            answers = f" {newest['answers']}" if "answers" in newest else ""
            counted = f", {newest['done']}/{newest['total']}" if "done" in newest else ""
            state.doing = f"evaluating{answers}{counted}"
        return state


def rows_by_step(rows: list[dict]) -> list[dict]:
    """One row per step, in order; if a resumed run writes a step again, its newer row replaces the old one."""
    ordered: list[dict] = []
    for row in rows:
        _insert(ordered, row)
    return ordered


def _insert(rows: list[dict], row: dict) -> None:
    """Inserts a row into rows sorted by step; rows nearly always arrive in this order."""
    place, at = len(rows), _done(row)
    if rows and _done(rows[-1]) >= at:
        place = bisect_left(rows, at, key=_done)
    if place < len(rows) and _done(rows[place]) == at:
        rows[place] = row
    else:
        rows.insert(place, row)


def _position(row: dict) -> int | None:
    return row.get("done", row.get("step"))


def _done(row: dict) -> int:
    """The position of a row that is known to have one."""
    return row["done"] if "done" in row else row["step"]


def _time_left(first: dict, last: dict, total: int | None, now: float) -> float | None:
    if not total:
        return None
    moved = _done(last) - _done(first)
    if moved > 0:
        pace = (last["time"] - first["time"]) / moved
    elif last.get("seconds"):
        pace = last["seconds"]
    else:
        return None
    return max(0.0, (total - _done(last)) * pace - (now - last["time"]))


def metrics(state: Progress) -> list[tuple[str, str, str, str]]:
    """The metrics of the newest row: name, value, unit, sparkline."""
    row, found = state.last, []
    history = state.history[:: 1 + len(state.history) // _SPARK_ROWS]

    def add(name: str, value: str, unit: str = "", pick: Callable[[dict], float | None] = lambda past: None) -> None:
        values = [pick(past) for past in history]
        found.append((name, value, unit, sparkline([v for v in values if v is not None], 28)))

    if "answers" in row:  # of an evaluation, which counts the questions again for each task, and for greedy answers
        add("answering", row["answers"])
    if "reward" in row:
        add("reward", number(row["reward"]), pick=lambda past: past.get("reward"))
    rewards = row.get("rewards", {})
    if len(rewards) > 1 or any(value != row.get("reward") for value in rewards.values()):
        for name, value in rewards.items():
            add(f"  {name}", number(value), pick=lambda past, name=name: past.get("rewards", {}).get(name))
    if reasons := next(iter(row.get("reasons", {}).values()), {}):  # of the reward that decides correctness
        total = sum(reasons.values())
        most = sorted(reasons.items(), key=lambda item: -item[1])[:3]
        add("reasons", "", ", ".join(f"{reason} {count / total:.0%}" for reason, count in most))
    if "reward" not in row and "loss" in row:
        add("loss", number(row["loss"]), pick=lambda past: past.get("loss"))
        if row.get("learning_rate") is not None:
            add("learning rate", f"{row['learning_rate']:.1e}")
    if row.get("length") is not None:
        add("length", f"{row['length']:.0f}", "tokens", lambda past: past.get("length"))
    if row.get("no_signal") is not None:
        add("equal rewards", f"{row['no_signal']:.0%} of groups", pick=lambda past: past.get("no_signal"))
    if teacher := row.get("teacher"):
        add("KL to teacher", number(teacher["kl"]), "nats", lambda past: past.get("teacher", {}).get("kl"))
    for name, count in row.get("reward_errors", {}).items():
        add("reward errors", f"{count}", f"({name})")
    if row.get("tokens_per_second") is not None:
        add("speed", f"{row['tokens_per_second']:,.0f}", "tokens/s")
    return found


def held_out(state: Progress) -> list[str]:
    """One line per task: the first and the newest evaluation during training, in percent."""
    lines = []
    for task, newest in (state.evals[-1]["tasks"] if state.evals else {}).items():
        if "/" in task or newest.get("avg") is None:
            continue
        first = state.evals[0]["tasks"].get(task, {}).get("avg")
        change = f"{100 * first:.1f} → " if first is not None and len(state.evals) > 1 else ""
        bounds = newest.get("ci95")
        interval = f" [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else ""
        lines.append(f"{task} {change}{100 * newest['avg']:.1f} %{interval} (step {state.evals[-1]['step']})")
    return lines


def plain_line(name: str, state: Progress, now: float, started: float) -> str:
    """The progress in one line, for a file."""
    parts = [name]
    if state.position is not None:
        width = len(str(state.total or ""))
        parts.append(f"{state.position:{width}d}/{state.total}" if state.total else f"{state.position}")
    if state.doing:
        parts.append(f"{state.doing} ({duration(now - started)} since the stage started)")
        return "  ".join(parts)
    for label, value, _, _ in metrics(state):
        if not value:
            continue
        parts.append(f"{value} tok/s" if label == "speed" else f"{label.strip()} {value}")
    if state.left is not None and state.position != state.total:
        parts.append(f"{duration(state.left)} left")
    return "  ".join(parts)


class StageDisplay:
    """Follows one running stage. Call `update` often; it draws only if there is something new.

    Nothing runs in the background, because processes cannot be started safely with a second thread.

    Args:
        console: The output: a panel on a terminal, plain lines otherwise.
        path: The folder of the stage.
        name: The name of the stage.
        kind: The kind of the stage.
        doing: What the stage does before its first metrics, such as `starting`.
        place: The place of the stage in its pipeline, such as `stage 2 of 3`; empty for a run of one stage.
        clock: Returns the time in unix seconds.
    """

    def __init__(
        self,
        console: Console,
        path: Path,
        *,
        name: str,
        kind: str,
        doing: str,
        place: str = "",
        clock: Callable[[], float] = time.time,
    ):
        self.console, self.path, self.name, self.kind = console, path, name, kind
        self.doing, self.place, self.clock = doing, place, clock
        self._offset, self._seen, self._evals_shown = 0, -1, 0
        self._shown: set[str] = set()  # messages, because a file that is rewritten is read again
        self.started = self._line_at = clock()
        self._drawn_at = -math.inf
        self.metrics = MetricsHistory(kind, self.started)
        self._live = None
        self._log_from = (path / "log.txt").stat().st_size if (path / "log.txt").is_file() else 0

    def __enter__(self) -> Self:
        self.started = self._line_at = self.metrics.started = self.clock()
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True, redirect_stderr=False)
            self._live.start()
        else:
            place = f"{self.place}, " if self.place else ""
            self.say(f"{self.name}  {place}{self.kind}: {self.doing}; log in {self.path / 'log.txt'}")
        self.read()
        self._evals_shown = len(self.state().evals)
        self.update()
        return self

    def __exit__(self, *_: object) -> None:
        self.update(last=True)
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Prints one line, above the panel if there is one."""
        self.console.print(Text(text), soft_wrap=not self.console.is_terminal)

    def state(self) -> Progress:
        """The current progress of the stage."""
        return self.metrics.state(doing=self.doing, now=self.clock())

    def update(self, *, last: bool = False) -> None:
        """Reads new metrics and draws them."""
        self.read()
        if self._live is None:
            self._print_lines(last)
        elif last or self.clock() - self._drawn_at >= REDRAW_EVERY:
            self._drawn_at = self.clock()
            self._live.update(self.panel(), refresh=True)

    def read(self) -> None:
        """Reads new metrics without drawing them, and prints the messages among them."""
        rows, offset = storage.follow_jsonl(self.path / "metrics.jsonl", self._offset)
        if offset < self._offset:
            self.metrics = MetricsHistory(self.kind, self.started)
        self.metrics.add([row for row in rows if row.get("phase") not in ("warning", "note")])
        self._offset = offset
        for row in rows:
            is_message, message = row.get("phase") in ("warning", "note"), str(row.get("message"))
            if is_message and row["time"] >= self.started and message not in self._shown:
                self._shown.add(message)
                self.say(f"{self.name}  {'warning: ' if row['phase'] == 'warning' else ''}{message}")

    def _print_lines(self, last: bool) -> None:
        now, state = self.clock(), self.state()
        if len(state.evals) > self._evals_shown:
            self._evals_shown = len(state.evals)
            for line in held_out(state):
                self.say(f"{self.name}  held out: {line}")
        every = LINE_EVERY if now - self.started < 600 else LATER_LINE_EVERY
        if state.doing and not last:
            if now - self._line_at >= 3 * every:
                self._line_at = now
                self.say(plain_line(self.name, state, now, self.started))
        elif self.metrics.count > self._seen and not state.doing and (last or now - self._line_at >= every):
            self._line_at, self._seen = now, self.metrics.count
            self.say(plain_line(self.name, state, now, self.started))

    def panel(self) -> Panel:
        """The progress as a panel that fits 80 columns."""
        now, state = self.clock(), self.state()
        head = Table.grid(expand=True, padding=(0, 2, 0, 0))
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True, justify="right")
        past = duration(now - self.started)
        if state.position is None:
            head.add_row(Text(state.doing or self.doing, "bold"), "", past)
            parts = [head, Text(self._last_log_line(), "dim", no_wrap=True, overflow="ellipsis")]
        else:
            unit = "step " if trains(self.kind) else ""
            bar = ProgressBar(total=state.total or 1, completed=state.position)
            left = f"{past}, {duration(state.left)} left" if state.left is not None else past
            head.add_row(Text(f"{unit}{state.position}/{state.total or '?'}", "bold"), bar, left)
            body = Table.grid(padding=(0, 2, 0, 0))
            body.add_column(style="cyan", no_wrap=True, max_width=24)
            body.add_column(no_wrap=True)
            body.add_column(style="green", no_wrap=True, overflow="crop")
            for label, value, unit, spark in metrics(state):
                body.add_row(label, f"{value} {unit}", spark)
            parts = [head, body, *(Text.assemble(("held out  ", "cyan"), line) for line in held_out(state))]
            if state.doing:
                parts.append(Text(state.doing, "bold"))
        title = " · ".join(part for part in (self.name, self.kind, self.place) if part)
        log = Text(f"log: {self.path / 'log.txt'}", "dim")
        return Panel(Group(*parts), title=title, title_align="left", subtitle=log, subtitle_align="right")

    def _last_log_line(self) -> str:
        return last_line(self.path / "log.txt", self._log_from)
