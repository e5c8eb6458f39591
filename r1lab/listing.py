"""What `r1lab ls` prints: recipes, rewards, builders and runs, each in one line. Nothing is imported to read them."""

import fcntl
import os
import re
import time
from pathlib import Path

from r1lab import lookup
from r1lab.recipe import yaml_source

SECTIONS = ("recipes", "rewards", "data", "runs")

Row = tuple[str, ...]


def page(what: list[str], *, runs_dir: Path, color: bool = False, width: int | None = None) -> str:
    """The sections asked for, as columns.

    Args:
        what: Names in `SECTIONS`.
        runs_dir: Where run directories lie.
        color: Whether names are set in bold.
        width: Where lines are cut; None for nowhere.
    """
    parts = []
    for section in what:
        rows = runs(runs_dir) if section == "runs" else recipes() if section == "recipes" else functions(section)
        lines = columns(rows, color=color, width=width)
        if not rows:
            lines = [f"none in {runs_dir}/" if section == "runs" else "none"]
        if len(what) > 1:
            head = f"\033[1m{section}\033[0m" if color else section
            lines = [head, *(f"  {line}" for line in lines)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def columns(rows: list[Row], *, color: bool = False, width: int | None = None) -> list[str]:
    """Rows as lines of aligned columns, the last one as long as it is.

    >>> columns([("quickstart", "R1-Zero on a CPU"), ("a", "b")])
    ['quickstart  R1-Zero on a CPU', 'a           b']
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)] if rows else []
    lines = []
    for row in rows:
        line = "  ".join([*(f"{cell:{w}}" for cell, w in zip(row, widths)), row[-1]]).rstrip()
        if width and len(line) > width - 2:
            line = f"{line[: width - 3]}…"
        if color:
            line = f"\033[36m{line[: len(row[0])]}\033[0m{line[len(row[0]) :]}"
        lines.append(line)
    return lines


def recipes() -> list[Row]:
    """Name, stage, and first comment line of each packaged recipe."""
    rows = []
    for name, path in yaml_source.packaged_recipes().items():
        source = path.read_text(encoding="utf-8")
        comment = re.search(r"\A(?:\s*\n)*#+ *(.*)", source)
        stage = re.search(r"^stage: *(\w+)", source, re.MULTILINE)
        rows.append((name, stage[1] if stage else "pipeline", comment[1].strip() if comment else ""))
    return rows


def functions(kind: str) -> list[Row]:
    """Name and first docstring line of each reward or builder."""
    return list(lookup.summaries(kind).items())


def runs(runs_dir: Path) -> list[Row]:
    """Name, state, time of the last change, and headline of each run, the latest last."""
    found = [path for path in runs_dir.glob("*/") if (path / "config.yaml").is_file()] if runs_dir.is_dir() else []
    latest = {
        path: max(file.stat().st_mtime for file in [path, *path.glob("*"), *path.glob("*/metrics.jsonl")])
        for path in found
    }
    rows = []
    for path in sorted(found, key=lambda path: latest[path]):
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(latest[path]))
        try:
            rows.append((path.name, state(path), when, headline(path)))
        except (ValueError, KeyError, TypeError) as error:  # written by another version, or by hand
            rows.append((path.name, "unreadable", when, f"{type(error).__name__}: {error}"))
    return rows


def state(path: Path) -> str:
    """`running`, `finished`, `failed`, `interrupted`, or `unfinished` where a run left no word about its end."""
    from r1lab.rundir import directory, storage

    if _locked(path):
        return "running"
    if directory.result(path) is not None:
        return "finished"
    ends = [row["status"] for row in storage.read_jsonl(path / "metrics.jsonl") if row.get("phase") == "stage"]
    if ends and ends[-1]:
        return "interrupted" if ends[-1] == 130 else "failed"
    return "failed" if (path / "error.txt").is_file() else "unfinished"


def _locked(path: Path) -> bool:
    """Whether a run holds the directory, as `r1lab.rundir.directory.locked` does."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system that cannot lock
        return False
    finally:
        os.close(handle)
    return False


def headline(path: Path) -> str:
    """What a run came to, or how far it got."""
    from r1lab.rundir import directory, storage

    result = directory.result(path)
    if result is None:
        return _progress(path)
    if result.get("compare"):
        row = next((row for row in result["compare"] if row["metric"] == "avg"), result["compare"][0])
        low, high = (100 * bound for bound in row["ci95"])
        before, after = 100 * row["before_value"], 100 * row["after_value"]
        return f"{row['task']} {before:.1f} → {after:.1f} % ({100 * row['diff']:+.1f} [{low:+.1f}, {high:+.1f}])"
    evaluated = [result, *result.get("stages", {}).values()]
    if tasks := next((one["tasks"] for one in reversed(evaluated) if one and one.get("tasks")), None):
        return _accuracy(tasks)
    if "kept" in result:
        return f"{result['kept']} of {result['sampled']} samples kept"
    rows = [row for row in storage.read_jsonl(path / "metrics.jsonl") if row.get("phase") == "train"]
    last = rows[-1] if rows else {}
    measured = next((f", {key} {last[key]:.3g}" for key in ("reward", "loss") if last.get(key) is not None), "")
    return f"{result['steps']} steps{measured}" if "steps" in result else ""


def _accuracy(tasks: dict[str, dict]) -> str:
    """The figure of an evaluation's first task."""
    task, figures = next(iter(tasks.items()))
    low, high = (100 * bound for bound in figures["ci95"])
    return f"{task} {100 * figures['avg']:.1f} % [{low:.1f}, {high:.1f}]"


def _progress(path: Path) -> str:
    """The stage that a run has come to, its step, and the last figure that it has measured."""
    from r1lab.rundir import directory, storage

    stages = sorted(path.glob("[0-9][0-9]-*/"))
    folder = stages[-1] if stages else path
    name = f"{folder.name[3:]} ({int(folder.name[:2])})" if stages else ""
    rows = [row for row in storage.read_jsonl(folder / "metrics.jsonl") if "total" in row]
    if not rows:
        return name
    done = rows[-1].get("done", rows[-1].get("step"))
    so_far = f"{name}: {done} of {rows[-1]['total']}".removeprefix(": ")
    figures = [f"{key} {rows[-1][key]:.3g}" for key in ("reward", "loss") if rows[-1].get(key) is not None][:1]
    measured = [row["tasks"] for row in rows if row.get("tasks")]
    results = [directory.result(stage) for stage in reversed(stages[:-1])]
    measured += [found["tasks"] for found in results if found and found.get("tasks")][:1] if not measured else []
    return ", ".join([so_far, *figures, *(_accuracy(tasks) for tasks in measured[-1:])])
