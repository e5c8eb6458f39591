"""The learning curve as a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from r1lab.text import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#1f6f8b", "#d1495b", "#5b8e3e", "#8a5a9e", "#c98a1b")
CROWDED = 4  # up to this many names of stages are written horizontally above the picture


@dataclass(frozen=True)
class Segment:
    """One training stage: its name, the step at which it starts, and its metrics rows, one per step."""

    name: str
    start: int
    rows: list[dict]


@dataclass(frozen=True)
class Point:
    """One evaluation: accuracy in [0, 1] with its 95 % interval at a step, and the name of its line."""

    step: int
    series: str
    value: float
    low: float
    high: float


def learning_curve(
    path: str | Path, segments: list[Segment], lines: list[list[Point]], *, title: str = ""
) -> Path | None:
    """Draws accuracy, reward and length (for SFT: loss) against the step, each on its own axis.

    Faint lines show each step, strong ones a running mean.

    Args:
        path: The PNG to write.
        segments: The training stages in order.
        lines: Evaluations, each list from the start to the end of a model's training; a line joins those of a series,
            dashed if there is no evaluation between them.
        title: The heading of the picture.

    Returns:
        The path, or None if there is nothing to draw.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = [key for key in ("reward", "length") if _has(segments, key)]
    keys = keys or [key for key in ("loss",) if _has(segments, key)]
    panels = (["accuracy"] if any(lines) else []) + keys
    if not panels:
        return None
    figure, axes = pyplot.subplots(
        len(panels), 1, sharex=True, figsize=(8, 1.2 + 2.1 * len(panels)), squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        if panel == "accuracy":
            _draw_lines(axis, lines)
        else:
            _draw_rows(axis, panel, segments)
        set_ranges(axis, percent=panel == "accuracy")
        axis.grid(True, color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
        for segment in segments[1:]:
            axis.axvline(segment.start, color="0.6", linestyle=":", linewidth=1)
    if len(segments) > 1:
        slope = 60 if len(segments) > CROWDED else 0
        for segment in segments:
            axes[0, 0].annotate(
                segment.name, (segment.start, 1), xycoords=("data", "axes fraction"), xytext=(2 if slope else 4, 2),
                textcoords="offset points", fontsize=8, color="0.4", rotation=slope, rotation_mode="anchor",
            )  # fmt: skip
    axes[-1, 0].set_xlabel("step")
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return Path(path)


def headline(name: str, compare: list[dict]) -> str:
    """The name of a run with the result of its first comparison, which is its main one.

    >>> row = {"task": "kk", "before_value": 0.249, "after_value": 0.408, "diff": 0.159, "ci95": [0.121, 0.196]}
    >>> headline("quickstart", [row])
    'quickstart: held-out accuracy 24.9 → 40.8 % (+15.9 [+12.1, +19.6])'
    """
    main = next((row for row in compare if row.get("metric", "avg") == "avg"), None)
    if not main:
        return name
    task = f" on {main['task']}" if len({row["task"].split("/")[0] for row in compare}) > 1 else ""
    before, after = percent(main["before_value"]), percent(main["after_value"])
    gain = percent(main["diff"], main["ci95"], signed=True)
    return f"{name}: held-out accuracy{task} {before} → {after} % ({gain})"


def _has(segments: list[Segment], key: str) -> bool:
    return any(row.get(key) is not None for segment in segments for row in segment.rows)


def _draw_rows(axis: "Axes", key: str, segments: list[Segment]) -> None:
    for segment in segments:
        rows = [row for row in segment.rows if row.get(key) is not None]
        steps = np.array([segment.start + row["step"] for row in rows])
        values = np.array([row[key] for row in rows], dtype=float)
        window = max(1, len(values) // 15)
        axis.plot(steps, values, color=COLORS[0], alpha=0.3 if window > 1 else 1, linewidth=1)
        if window > 1:
            axis.plot(steps, running_mean(values, window), color=COLORS[0], linewidth=2)
    axis.set_ylabel("length (tokens)" if key == "length" else key)


def _draw_lines(axis: "Axes", lines: list[list[Point]]) -> None:
    for index, series in enumerate(dict.fromkeys(point.series for line in lines for point in line)):
        color = COLORS[index % len(COLORS)]
        own = [[point for point in line if point.series == series] for line in lines]
        for line in own:
            style = "--" if len(line) == 2 else "-"  # two points alone show no course between them
            values = [100 * point.value for point in line]
            axis.plot([point.step for point in line], values, color=color, linestyle=style, linewidth=1)
        points = list(dict.fromkeys(point for line in own for point in line))
        value = np.array([100 * point.value for point in points])
        # A bootstrap interval need not hold the mean itself; an error bar cannot be negative.
        spread = [
            np.maximum(0, value - [100 * point.low for point in points]),
            np.maximum(0, [100 * point.high for point in points] - value),
        ]
        axis.errorbar([point.step for point in points], value, spread, fmt="o", color=color, capsize=3, label=series)
    axis.set_ylabel("held-out accuracy (%)")
    axis.legend(fontsize=8, frameon=False, loc="best")


def set_ranges(axis: "Axes", *, percent: bool = False) -> None:
    """Makes the ticks of steps whole numbers, and those of values ones to read, also if all values are the same.

    Values that differ by less than a thousandth, or by a millionth, differ by rounding. Their axis is as long as they
    are large, from 0 to 1 for zeros, and from 0 to 100 for percentages.
    """
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axis.ticklabel_format(axis="y", useOffset=False)
    low, high = axis.dataLim.intervaly
    if not high - low <= max(1e-6, 1e-3 * max(abs(low), abs(high))):
        return
    middle = (low + high) / 2
    if percent:
        axis.set_ylim(-5, 105)
    elif abs(middle) < 1e-6:
        axis.set_ylim(-0.05, 1.05)
    else:
        axis.set_ylim(*sorted((0.5 * middle, 1.5 * middle)))


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the `window` nearest values, of fewer at the ends.

    >>> running_mean(np.array([0.0, 3.0, 0.0]), 3).tolist()
    [1.5, 1.0, 1.5]
    """
    kernel = np.ones(min(window, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
