"""The curves of a report, as SVG that follows the page's theme, and as PNG."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r1lab.evaluation import reflection
from r1lab.report import read, samples
from r1lab.report.learning_curve import running_mean, set_ranges
from r1lab.report.samples import SampledCompletion
from r1lab.text import number

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Okabe and Ito's palette for color-blind readers (jfly.uni-koeln.de/color); black is the page's text.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), (0, (8, 2)), (0, (1, 2)))
INK = "#010203"  # replaced by the page's own text color
WORDS = 5
POINTS = 400  # maximum of a line

TITLES = {
    "reward": ("Rewards", "mean of each reward; the total is the weighted sum"),
    "correct": ("Correct answers", "share of the completions of a step; evaluations are of held-out questions"),
    "length": ("Length", "mean tokens of all, correct and wrong completions, and of those at the limit"),
    "truncated": ("Truncated completions", "share that reached the token limit, or another limit of an episode"),
    "episodes": ("Turns and calls", "mean of an episode"),
    "call_errors": ("Errors", "share of the replies that are errors, such as of calls that failed"),
    "ends": ("Ends", "how episodes end, share of each"),
    "no_signal": ("Groups without a signal", "share whose completions all got the same reward"),
    "entropy": ("Entropy", "mean, nats per token"),
    "teacher": ("Distance from the teacher", "reverse KL of the sampled tokens by position, nats per token"),
    "kl": ("KL divergence", "from the reference model, nats per token"),
    "importance_ratio": ("Importance ratio", "policy over engine, mean over tokens; 1 is on policy"),
    "drift": ("Engine and policy", "mean difference of their log-probabilities, nats"),
    "loss": ("Loss", ""),
    "accuracy": ("Token accuracy", "share of tokens, or of pairs, predicted correctly"),
    "margin": ("Margin", "reward of the chosen minus that of the rejected response"),
    "grad_norm": ("Gradient norm", "before clipping"),
    "tokens_per_second": ("Speed", "tokens per second"),
    "seconds": ("Time", "seconds per step and their breakdown; grading may overlap generation"),
    "words": ("Reflection words", "occurrences per completion"),
}
WIDTH = 4.0  # inches of every chart: at the 358 pixels of a phone, text of 8 points is 10 pixels high
OF_EPISODES = ("episodes", "call_errors", "ends")
PERCENT = ("correct", "truncated", "no_signal", "call_errors", "ends")


@dataclass(frozen=True)
class Line:
    """One line: a value at each step, of one run or of several."""

    label: str
    runs: list[dict[int, float]]


@dataclass(frozen=True)
class Chart:
    """A chart: its key, title, caption and lines."""

    key: str
    title: str
    caption: str
    lines: list[Line]

    @property
    def description(self) -> str:
        """The chart as a text, for readers who do not see it."""
        return f"{self.title}. " + "; ".join(_description(line) for line in self.lines)


def _description(line: Line) -> str:
    steps, mean, *_ = _band(line.runs)
    of = f"mean of {len(line.runs)} runs " if len(line.runs) > 1 else ""
    tenth = max(1, len(mean) // 10)
    first, last = float(np.mean(mean[:tenth])), float(np.mean(mean[-tenth:]))
    return f"{line.label}: {of}from {number(first)} to {number(last)}, steps {steps[0]} to {steps[-1]}"


def charts(groups: dict[str, list[tuple[read.Stage, list[SampledCompletion]]]]) -> list[Chart]:
    """The charts of a training stage.

    Args:
        groups: By label, its runs that differ only in their seeds. Charts of one group have a line for each reward,
            kind or word; charts of several groups have a line for each group.
    """
    found: dict[str, dict[str, dict[str, list]]] = {}
    for group, members in groups.items():
        for stage, completions in members:
            for key, lines in series(stage, completions).items():
                for label, values in lines.items():
                    found.setdefault(key, {}).setdefault(label, {}).setdefault(group, []).append(values)
    made = []
    for key, (title, caption) in TITLES.items():
        lines = found.get(key, {})
        if len(groups) == 1:
            if lines:
                whole = [Line(label, next(iter(by_group.values()))) for label, by_group in lines.items()]
                made.append(Chart(key, title, caption, whole))
            continue
        for label, by_group in lines.items():
            name = title if len(lines) == 1 else f"{title}: {label}"
            made.append(Chart(key, name, caption, [Line(group, runs) for group, runs in by_group.items()]))
    return made


def series(stage: read.Stage, completions: list[SampledCompletion]) -> dict[str, dict[str, dict[int, float]]]:
    """The measurements of a stage: by chart and line, the value at each step."""
    found: dict[str, dict[str, dict[int, float]]] = {}

    def add(key: str, label: str, step: int, value: object) -> None:
        if (value := read.as_number(value)) is not None:
            found.setdefault(key, {}).setdefault(label, {})[step] = value

    ends = list(dict.fromkeys(end for row in stage.rows for end in read.section(_episodes(row), "ends")))
    for row in stage.rows:
        step, rewards = row["step"], read.section(row, "rewards")
        for name, value in rewards.items():
            add("reward", read.clean(name), step, value)
        if len(rewards) != 1 or row.get("reward") != next(iter(rewards.values())):
            add("reward", "total", step, row.get("reward"))
        for key in TITLES.keys() - {"reward", "correct", "teacher", "words", *OF_EPISODES}:
            add(key, {"length": "all", "seconds": "whole step"}.get(key, "mean"), step, row.get(key))
        teacher = read.section(row, "teacher")
        add("teacher", "all", step, teacher.get("kl"))
        for first, value in read.section(teacher, "kl_by_position").items():
            add("teacher", f"from token {read.clean(first)}", step, value)
        for key, label, value in _of_episodes(row, ends):
            add(key, label, step, value)
        keys = ("seconds", "seconds_generating", "seconds_grading")
        whole, generating, grading = (read.as_number(row.get(key)) for key in keys)
        if whole is not None and generating is not None and grading is not None:
            add("seconds", "generation", step, generating)
            add("seconds", "grading", step, grading)
            add("seconds", "update and the rest", step, whole - (generating + grading))
    for row in stage.evals:
        for task, scores in row["tasks"].items():
            if "/" not in task:
                add("correct", f"{read.clean(task)}, held-out", row["step"], scores.get("avg"))
    steps = samples.completions_by_step(completions)
    for step, some in steps.items():
        add("correct", "in training", step, samples.share_correct(some))
        kinds = {
            "correct": [c for c in some if c.correct and not c.truncated],
            "wrong": [c for c in some if c.correct is False and not c.truncated],
            "at the limit": [c for c in some if c.truncated],
        }
        for label, own in kinds.items():
            if own:
                add("length", label, step, sum(c.length for c in own) / len(own))
    if "length" in found:  # a first step without correct ones does not put them last
        labels = ("all", "correct", "wrong", "at the limit", "replies")
        order = [label for label in labels if label in found["length"]]
        found["length"] = {label: found["length"][label] for label in order}
    if _is_share_correct(found.get("reward", {}), found.get("correct", {}).get("in training", {})):
        del found["reward"]
    return found | _words(steps)


def _episodes(row: dict) -> dict:
    return read.section(row, "episodes")


def _of_episodes(row: dict, ends: list[str]) -> Iterator[tuple[str, str, object]]:
    """Chart, line and value of what a step measured of its episodes; `ends` are those of all steps."""
    found = _episodes(row)
    if not found:
        return
    yield "episodes", "turns", found.get("turns")
    if found.get("calls"):
        yield "episodes", "calls", found["calls"]
    yield "call_errors", "mean", found.get("call_errors")
    yield "length", "replies", found.get("reply_tokens")
    for end in ends:
        yield "ends", read.clean(end), read.section(found, "ends").get(end, 0.0)


def _is_share_correct(rewards: dict[str, dict[int, float]], share: dict[int, float]) -> bool:
    """Whether the only reward is 1 for correct answers and 0 for others, so that its curve is that of their share."""
    return len(rewards) == 1 and all(
        values.keys() == share.keys() and all(abs(value - share[step]) < 1e-3 for step, value in values.items())
        for values in rewards.values()
    )


def _words(steps: dict[int, list[SampledCompletion]]) -> dict[str, dict[str, dict[int, float]]]:
    means = {step: reflection.per_completion(c.text for c in some) for step, some in steps.items()}
    total = {word: sum(mean[word] for mean in means.values()) for word in reflection.WORDS}
    most = sorted((word for word in total if total[word]), key=lambda word: -total[word])[:WORDS]
    return {"words": {w: {step: mean[w] for step, mean in means.items()} for w in most}} if most else {}


def _band(runs: list[dict[int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, and for each the mean, the lowest and the highest value of the runs that have it."""
    steps = np.array(sorted(set().union(*runs)))
    at = [[run[step] for run in runs if step in run] for step in steps]
    mean, low, high = (np.array([f(values) for values in at]) for f in (np.mean, np.min, np.max))
    return steps, mean, low, high


# Drawing


def draw(chart: Chart) -> object:
    """A matplotlib figure of a chart."""
    figure, axis = _empty(WIDTH, 2.4)
    scale = 100 if chart.key in PERCENT else 1
    few = len(chart.lines) * max(len(line.runs) for line in chart.lines) == 1
    for index, line in enumerate(chart.lines):
        color, dash = COLORS[index % len(COLORS)], DASHES[index % len(DASHES)]
        smooth = [_smoothed(run, scale) for run in line.runs]
        steps, mean, low, high = _band(smooth)
        if len(line.runs) > 1:
            axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        if few:
            own = _thinned(line.runs[0])
            axis.plot(list(own), [scale * v for v in own.values()], color=color, alpha=0.35, linewidth=0.8)
        marker = "o" if len(steps) < 10 else None
        axis.plot(steps, mean, color=color, linestyle=dash, linewidth=1.7, marker=marker, markersize=3.5,
                  label=line.label if len(line.label) < 30 else f"{line.label[:28]}…")  # fmt: skip
    axis.set_xlabel("step")
    set_ranges(axis, percent=chart.key in PERCENT)
    if chart.key in PERCENT:
        axis.set_ylabel("%")
    if len(chart.lines) > 1:
        columns = _legend(axis, [line.label for line in chart.lines])
        figure.subplots_adjust(top=0.97 - 0.075 * -(-len(chart.lines) // columns))
    return figure


def _legend(axis, labels: list[str], width: int = 54) -> int:
    """A legend above the axis, in as many columns as `width` characters hold; returns their number."""
    longest = max(len(label) for label in labels)
    columns = len(labels) if sum(len(label) + 7 for label in labels) <= width else max(1, width // (longest + 7))
    axis.legend(fontsize=8, frameon=False, ncols=columns, loc="lower left", bbox_to_anchor=(-0.1, 1.0),
                columnspacing=1.2, handlelength=2.2, borderaxespad=0.2, labelcolor=INK)  # fmt: skip
    return columns


def _smoothed(run: dict[int, float], scale: float) -> dict[int, float]:
    steps = sorted(run)
    values = scale * np.array([run[step] for step in steps])
    return _thinned(dict(zip(steps, running_mean(values, max(1, len(values) // 15)).tolist())))


def _thinned(run: dict[int, float]) -> dict[int, float]:
    steps = sorted(run)
    return {step: run[step] for step in steps[:: -(-len(steps) // POINTS)]}


def accuracies(rows: list[tuple[str, str, float, float, float]], series: list[str]) -> object:
    """A dot with its 95 % interval for each evaluation: rows are (evaluation, series, value, low, high), in [0, 1]."""
    names = list(dict.fromkeys(row[0] for row in rows))
    figure, axis = _rows(names, 0.2 + 0.13 * len(series), above=0.12 + 0.2 * (len(series) > 1))
    for index, label in enumerate(series):
        own = [row for row in rows if row[1] == label]
        places = [names.index(row[0]) + 0.6 * ((index + 0.5) / len(series) - 0.5) for row in own]
        values = np.array([100 * row[2] for row in own])
        # A bootstrap interval need not hold the mean itself; an error bar cannot be negative.
        spread = np.maximum(0, [values - [100 * row[3] for row in own], [100 * row[4] for row in own] - values])
        axis.errorbar(values, places, xerr=spread, fmt="osD^vP*"[index % 7], color=COLORS[index % len(COLORS)],
                      markersize=4.5, capsize=2.5, linewidth=1.3, label=label)  # fmt: skip
    axis.set_xlabel("% correct (bars: 95 % intervals)")
    if len(series) > 1:
        _legend(axis, series)
    return figure


def budget_curves(lines: dict) -> object:
    """Accuracy against mean thinking tokens: a line for each evaluation, `r1lab.report.budget_curves.Point`s.

    The point without a budget is larger.
    """
    figure, axis = _empty(WIDTH, 2.4)
    for index, (label, points) in enumerate(lines.items()):
        color, points = COLORS[index % len(COLORS)], sorted(points, key=lambda point: point.thinking)
        tokens, values = [p.thinking for p in points], np.array([100 * p.value for p in points])
        spread = np.maximum(0, [values - [100 * p.low for p in points], [100 * p.high for p in points] - values])
        axis.errorbar(tokens, values, yerr=spread, color=color, linestyle=DASHES[index % len(DASHES)], marker="o",
                      markersize=3.5, capsize=2.5, linewidth=1.3, label=label)  # fmt: skip
        free = [p for p in points if p.budget is None]
        axis.plot([p.thinking for p in free], [100 * p.value for p in free], "o", color=color, markersize=7)
    axis.set_xlabel("mean thinking tokens (bars: 95 % intervals; large dot: no budget)")
    axis.set_ylabel("% correct")
    axis.set_ylim(bottom=0)
    columns = _legend(axis, list(lines))
    figure.subplots_adjust(top=0.97 - 0.075 * -(-len(lines) // columns))
    return figure


def times(rows: list[tuple[str, float, float]]) -> object:
    """A bar for each stage: rows are (stage, seconds of work, seconds of starting and ending its process)."""
    figure, axis = _rows([name for name, *_ in rows], 0.2, above=0.3)
    work, start = (np.array(column, dtype=float) for column in list(zip(*rows))[1:])
    axis.barh(range(len(rows)), work, color=COLORS[0], height=0.7, label="stage")
    axis.barh(
        range(len(rows)),
        start,
        left=work,
        color=COLORS[4],
        height=0.7,
        hatch="///",
        label="start and end of its process",
    )
    axis.set_xlabel("seconds")
    _legend(axis, ["stage", "start and end of its process"])
    return figure


def _rows(names: list[str], height: float, *, above: float) -> tuple:
    """An empty figure with a row for each name, whose left margin is as wide as the longest name; sizes in inches."""
    shown = [name if len(name) < 24 else f"{name[:22]}…" for name in names]
    whole = above + 0.42 + height * len(names)
    figure, axis = _empty(WIDTH, whole)
    left = 0.15 + 0.068 * max(map(len, shown))
    figure.subplots_adjust(left=left / WIDTH, bottom=0.42 / whole, top=1 - above / whole)
    axis.set_yticks(range(len(names)), shown)
    axis.set_ylim(len(names) - 0.4, -0.6)
    return figure, axis


def _empty(width: float, height: float) -> tuple:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axis = figure.add_subplot()
    figure.subplots_adjust(left=0.13, right=0.97, bottom=0.18, top=0.95)
    axis.grid(True, color="#808080", alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#808080")
    axis.tick_params(labelsize=8, color="#808080", labelcolor=INK)
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(8)
    return figure, axis


_SETTINGS: "dict[RcKeyType, Any]" = {"svg.fonttype": "none", "text.parse_math": False, "font.family": "DejaVu Sans"}


def svg(make, description: str, salt: int) -> str:
    """The figure of `make()` as an SVG element in the page's text color; `salt` makes its ids unique."""
    import matplotlib

    settings: dict[RcKeyType, Any] = {**_SETTINGS, "svg.hashsalt": str(salt)}
    with matplotlib.rc_context(settings):
        file = io.StringIO()
        figure = make()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    width, height = (72 * size for size in figure.get_size_inches())
    inside = text[text.index(">", text.index("<svg")) + 1 :]
    inside = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", inside, flags=re.DOTALL)
    inside = re.sub(r'<g id="[^"]*"', "<g", inside)
    inside = inside.replace(INK, "currentColor").replace("font: 8px 'DejaVu Sans'", "font: 8px sans-serif")
    for place, color in enumerate(COLORS):
        inside = inside.replace(color.lower(), f"var(--c{place})")
    label = escape(description, quote=True)
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{label}"><title>{label}</title>{inside}'
    )


def png(make, path: Path, title: str) -> Path:
    """Writes the figure of `make()` as a PNG on white, with a title."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        figure = make()
        figure.suptitle(title, fontsize=9, x=0.02, y=1.08, ha="left")
        figure.savefig(path, dpi=150, facecolor="white", bbox_inches="tight")
    return path
