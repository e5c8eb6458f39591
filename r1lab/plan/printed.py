"""A plan as text and as JSON."""

from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from r1lab.plan.gpus import GIB, gib
from r1lab.plan.layouts import Layout, fastest
from r1lab.plan.lengths import SHORT, WRITTEN
from r1lab.plan.memory import Memory
from r1lab.plan.stages import StagePlan
from r1lab.text import counted, rough_duration

if TYPE_CHECKING:
    from r1lab.plan import Planned

TITLES = {"kv_cache": "KV cache"}
MOMENTS = {
    "loss": "when the backward pass begins",
    "backward": "in the backward pass",
    "update": "at the update",
    "save": "when the model is saved",
    "generate": "while it generates",
    "evaluate": "while it is evaluated",
}


def as_text(planned: "Planned", *, width: int | None = None, color: bool = False) -> str:
    """The tables of memory and work, the verdict, and what to type if the recipe does not fit.

    Args:
        width: The width of the terminal; None for a file. Columns that are empty for all stages are not shown.
        color: Whether to color the verdict.
    """
    device = f"{planned.devices} x {planned.device.name}" if planned.devices > 1 else planned.device.name
    lines = [f"{planned.name} on {device}, {gib(planned.device.memory)} GiB{' each' * (planned.devices > 1)}", ""]
    title = "memory at its peak, GiB" + " per device" * (planned.devices > 1)
    lines += _indented(_memory(planned.stages), title)
    lines += ["", *_indented(_work(planned), "work, time and disk (estimates)"), ""]
    lines = [_shortened(line, width) for line in lines]  # lines to type are never shortened
    for verdict, line in _verdict(planned):
        lines.append(_painted(line, verdict) if color else line)
    for name, found in planned.layouts.items():
        lines += _fastest(name, found, planned.devices)
    return "\n".join([*lines, *(f"assumed: {line}" for line in _assumed(planned))])


def _memory(stages: tuple[StagePlan, ...]) -> list[list[str]]:
    parts = [f.name for f in fields(Memory) if any(getattr(stage.peak, f.name) for stage in stages)]
    rows = [["stage", "total", *(TITLES.get(part, part) for part in parts), "at"]]
    for stage in stages:
        figures = [gib(getattr(stage.peak, part)) if getattr(stage.peak, part) else "-" for part in parts]
        rows.append([stage.name, gib(stage.peak.total), *figures, stage.moment])
    return rows


def _work(planned: "Planned") -> list[list[str]]:
    rows = [["stage", "kind", "steps", "tokens", "FLOPs", "time", "texts", "loading", "disk", ""]]
    for stage in planned.stages:
        figures = (stage.steps, stage.tokens, stage.flops, stage.seconds, stage.host, stage.loading, stage.disk)
        rows.append(_row(stage.name, stage.stage, *figures))
    if len(planned.stages) > 1:
        rows.append(_row("all", "", None, planned.tokens, planned.flops, planned.seconds, 0, 0, planned.disk))
    return rows


def _row(
    name: str,
    kind: str,
    steps: int | None,
    tokens: float | None,
    flops: float | None,
    seconds: float | None,
    host: int,
    loading: int,
    disk: int,
) -> list[str]:
    known = [f"{steps:,}" if steps else "-", _count(tokens), f"{flops:.1e}" if flops else "?", rough_duration(seconds)]
    return [name, kind, *known, *(f"{gib(size)} GiB" if size else "-" for size in (host, loading, disk)), ""]


def _count(number: float | None) -> str:
    """A number of tokens.

    >>> _count(1_234_567), _count(950), _count(None)
    ('1.2M', '950', '?')
    """
    if number is None:
        return "?"
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"


def _indented(rows: list[list[str]], title: str) -> list[str]:
    """A title and a table below it: the first column aligned left, numbers right, the last column as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [title]
    for name, *middle, last in rows:
        cells = [f"{cell:>{w}}" for cell, w in zip(middle, widths[1:-1], strict=True)]
        lines.append(f"  {'  '.join([f'{name:<{widths[0]}}', *cells, last])}".rstrip())
    return lines


def _verdict(planned: "Planned") -> list[tuple[str, str]]:
    """Lines with their verdict: `ok`, `error`, or empty."""
    most = max(planned.stages, key=lambda stage: stage.peak.total / stage.budget)
    if planned.fits:
        return [("ok", f"fits: largest stage {most.name}, {gib(most.peak.total)} of {gib(most.budget)} GiB")]
    lines: list[tuple[str, str]] = []
    for stage in planned.stages:
        if stage.fits:
            continue
        room = gib(stage.budget)
        why = stage.short or f"{stage.name} needs {gib(stage.peak.total)} of {room} GiB {MOMENTS[stage.moment]}"
        lines.append(("error", f"does not fit: {f'{stage.name}: ' if stage.short else ''}{why}"))
        found = planned.changes.get(stage.name, ())
        if not found:
            lines.append(
                ("", "  no change that was tried makes it fit: choose a larger --gpu, more --gpus, or a smaller model")
            )
        for change in found:
            lines += [("", f"  {' '.join(change.words)}"), ("", f"      {change.price}")]
    return lines


def _fastest(name: str, found: list[Layout], devices: int) -> list[str]:
    """Which layout of a stage takes the least time, and what to type for it; nothing if there is no other."""
    best = fastest(found) if len(found) > 1 else None
    if best is None or (devices == 1 and not best.words):
        return []
    if not best.words:
        return [f"fastest layout: {name}: that of the recipe, of {len(found)} that fit"]
    times = f"{rough_duration(best.seconds)} instead of {rough_duration(found[0].seconds)}"
    ahead = f", trains on completions up to {counted(best.staleness, 'update')} old" if best.staleness else ""
    return [f"fastest layout: {name}: {times}{ahead}", f"  {' '.join(best.words)}"]


def _assumed(planned: "Planned") -> list[str]:
    stages: dict[str, list[str]] = {}
    for stage in planned.stages:
        for line in stage.assumed:
            stages.setdefault(line, []).append(stage.name)
    own = [f"{', '.join(names)}: {line}" for line, names in stages.items()]
    shared = (
        f"completions of {WRITTEN:.0%} of their maximum length on average, or {SHORT} tokens if that is more; "
        f"rates {planned.device.source}"
    )
    return [*own, shared]


def _painted(line: str, verdict: str) -> str:
    code = {"ok": "32", "error": "31"}.get(verdict)
    return f"\033[{code}m{line}\033[0m" if code else line


def _shortened(line: str, width: int | None) -> str:
    return f"{line[: width - 1]}…" if width and len(line) > width else line


def as_json(planned: "Planned") -> dict:
    """The whole plan as plain data: sizes in bytes, times in seconds."""
    stages = []
    for stage in planned.stages:
        stages.append(
            {
                "name": stage.name,
                "stage": stage.stage,
                "fits": stage.fits,
                "peak_bytes": stage.peak.total,
                "peak_at": stage.moment,
                "phases": {phase: asdict(parts) | {"total": parts.total} for phase, parts in stage.phases.items()},
                **{key: getattr(stage, key) for key in ("steps", "tokens", "flops", "seconds", "short")},
                "host_bytes": stage.host,
                "loading_bytes": stage.loading,
                "disk_bytes": stage.disk,
                "assumed": list(stage.assumed),
                "changes": [asdict(change) for change in planned.changes.get(stage.name, ())],
                "layouts": [asdict(layout) for layout in planned.layouts.get(stage.name, ())],
            }
        )
    return {
        "name": planned.name,
        "device": planned.device.name,
        "devices": planned.devices,
        "memory_bytes": planned.device.memory,
        "memory_gib": round(planned.device.memory / GIB, 2),
        "fits": planned.fits,
        "seconds": planned.seconds,
        "flops": planned.flops,
        "disk_bytes": planned.disk,
        "stages": stages,
    }
