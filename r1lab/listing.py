"""The output of `r1lab ls`: recipes, rewards, builders, environments and runs, one line each, and one's reference.

The lists import nothing heavy. The reference of a function or of a recipe's keys imports what it describes.
"""

import fcntl
import inspect
import os
import re
import textwrap
import time
from collections.abc import Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from r1lab import lookup
from r1lab.errors import UserError
from r1lab.recipe import yaml_source
from r1lab.text import did_you_mean, percent

SECTIONS = ("recipes", "rewards", "data", "environments", "runs")

RECORDS = ("config.yaml", "manifest.json", "metrics.jsonl", "log.txt", "error.txt", "result.json")  # not its reports

READABLE = 60  # the width of a terminal from which a long last column is wrapped below its row, not truncated

Row = tuple[str, ...]


def shown(what: str | None, name: str | None, *, runs_dir: Path, color: bool = False, width: int | None = None) -> str:
    """What `r1lab ls` prints: all sections, one of them, or the reference of one of its entries.

    Raises:
        UserError: There is no such section, or nothing in it has that name.
    """
    known = (*SECTIONS, "keys")
    if what not in (None, *known):
        hint = did_you_mean(what, known, otherwise=f"; available: {', '.join(known)}")
        raise UserError(f"r1lab ls: {what}: no such list{hint}")
    if what is not None and (name or what == "keys"):
        return reference(what, name or "")
    return page([what] if what else SECTIONS, runs_dir=runs_dir, color=color, width=width)


def page(what: Sequence[str], *, runs_dir: Path, color: bool = False, width: int | None = None) -> str:
    """The requested sections as columns.

    Args:
        what: Names in `SECTIONS`.
        runs_dir: The folder of run directories.
        color: Whether names are in color.
        width: The width to which lines are truncated; None for no limit.
    """
    parts = []
    for section in what:
        rows = runs(runs_dir) if section == "runs" else recipes() if section == "recipes" else functions(section)
        lines = columns(rows, color=color, width=width)
        if section == "recipes":
            lines.append("--tiny: run here only scaled down; `run --tiny` runs any of them on one device or none")
        if not rows:
            lines = [f"none in {runs_dir}/" if section == "runs" else "none"]
        if len(what) > 1:
            head = f"\033[1m{section}\033[0m" if color else section
            lines = [head, *(f"  {line}" for line in lines)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def reference(section: str, name: str) -> str:
    """The reference of one reward, builder, environment or recipe, or of a kind's keys (`section` is `"keys"`).

    Raises:
        UserError: Nothing has that name.
    """
    if section == "keys":
        return _keys(name)
    if section == "recipes":
        source = yaml_source.find(name).read_text(encoding="utf-8")
        head = re.match(r"\s*((?:#.*\n)*)", source)
        lines = [line.lstrip("#").strip() for line in head[1].splitlines()] if head else []
        return (
            "\n".join([*lines, "", f"r1lab show {name} prints it with all defaults, r1lab cp {name} copies it."])
            + "\n"
        )
    if section == "runs":
        raise UserError(f"r1lab ls runs: {name}: unexpected argument; `r1lab report runs/{name}` reports one run")
    return _function(section, name)


def _function(section: str, name: str) -> str:
    """A reward, builder or environment: its docstring, its parameters with their defaults, and an example."""
    function = lookup.function(section, name)
    parameters = lookup.parameters(function)
    rows = [(key, _default(p.default), _annotation(p.annotation)) for key, p in parameters.items()]
    given = "".join(f", {key}: ..." for key, p in parameters.items() if p.default is p.empty)
    parts = [
        f"{name}: {function.__module__}.{function.__name__}",
        "",
        inspect.getdoc(function) or "(no docstring)",
        "",
    ]
    if rows:
        parts += ["Parameters in a recipe (name, default, type):", "", *(f"  {line}" for line in columns(rows)), ""]
    if section == "environments":
        parts += _of_environment(function)
        example = f"environment: {{name: {name}{given}}}"
    elif section == "rewards":
        needed = lookup.columns(function)
        parts += [f"Columns that each row needs: {', '.join(needed)}", ""] if needed else []
        example = f"rewards:\n  - {{name: {name}{given}}}"
    else:
        example = f"data: {{builder: {name}{given}}}"
    return "\n".join([*parts, example]) + "\n"


def _of_environment(environment: Any) -> list[str]:
    """The tools of an environment, and the columns that its rows need."""
    from r1lab.environments import toolset
    from r1lab.recipe.environments import columns as needed

    tools = []
    for name in toolset.tool_names(environment):
        function = getattr(environment, name)
        about = (inspect.getdoc(function) or "").partition("\n")[0]
        tools.append((f"{name}({', '.join(list(inspect.signature(function).parameters)[1:])})", about))
    parts = ["Tools:", "", *(f"  {line}" for line in columns(tools)), ""] if tools else []
    required = needed(environment)
    return parts + ([f"Columns that each row needs: {', '.join(required)}", ""] if required else [])


def _keys(name: str) -> str:
    """The keys of a kind of stage (`grpo`) or of one of its sections (`grpo.rollout`); all kinds for an empty name."""
    from r1lab.recipe import schema, trl_fields

    kind, *path = name.split(".")
    schema.find_kinds({"stage": kind})
    if not kind:
        lines = columns(
            [(key, (inspect.getdoc(stage) or "").partition("\n")[0]) for key, stage in schema.STAGES.items()]
        )
        return "\n".join([*lines, "", "`r1lab ls keys KIND` prints the keys of one."]) + "\n"
    if kind not in schema.STAGES:
        owner = next((key for key, stage in schema.STAGES.items() if kind in stage.model_fields), None)
        if owner:
            raise UserError(f"r1lab ls keys: {name}: no kind of stage given: write `r1lab ls keys {owner}.{name}`")
        hint = did_you_mean(kind, schema.STAGES, otherwise=f"; available: {', '.join(schema.STAGES)}")
        raise UserError(f"r1lab ls keys: {kind}: no such kind of stage{hint}")
    model: Any = schema.STAGES[kind]
    if path == ["train"] and model.trl:
        fields = sorted(trl_fields.FIELDS[model.trl].items())
        rows = _fields(model.own, name) + [
            (key, _default(default), _annotation(type_)) for key, (type_, default) in fields
        ]
        about = f"r1lab's own fields, then those of TRL's {model.trl}:"
        return "\n".join([inspect.getdoc(model.own) or "", "", about, "", *columns(rows)]) + "\n"
    for place, key in enumerate(path, 1):
        if key not in model.model_fields:
            hint = did_you_mean(key, model.model_fields, otherwise=f"; available: {', '.join(model.model_fields)}")
            raise UserError(f"r1lab ls keys: {name}: {'.'.join([kind, *path[: place - 1]])} has no key {key}{hint}")
        field = model.model_fields[key]
        model = _section(field.annotation)
        if model is None:
            if place < len(path):
                raise UserError(f"r1lab ls keys: {name}: {'.'.join([kind, *path[:place]])} has no keys of its own")
            return f"{name}: {_annotation(field.annotation)}, default: {_model_default(field)}\n"
    return "\n".join([inspect.getdoc(model) or "", "", *columns(_fields(model, name))]) + "\n"


def _fields(model: Any, name: str) -> list[Row]:
    """Key, default and type of each field of a pydantic model, and how to list the keys of a field that has some."""
    rows = []
    for key, field in model.model_fields.items():
        more = _section(field.annotation) or (key == "train" and getattr(model, "trl", None))
        keys = f"  keys: r1lab ls keys {name}.{key}" if more else ""
        rows.append((key, _model_default(field), f"{_annotation(field.annotation)}{keys}"))
    return rows


def _section(annotation: Any) -> Any:
    """The section class in an annotation such as `Curriculum | None` or `list[Reward]`; None for a plain value."""
    annotation = _without_metadata(annotation)
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section(part))), None)


def _annotation(annotation: Any) -> str:
    """A type as it is printed: without module names and metadata, and with choices separated by `|`.

    >>> _annotation(dict[str, int]), _annotation(int | None), _annotation(inspect.Parameter.empty)
    ('dict[str, int]', 'int | None', '')
    >>> from typing import Annotated
    >>> _annotation(list[Annotated[Annotated[int, "a"] | str, "b"]])
    'list[int | str]'
    """
    if annotation is inspect.Parameter.empty:
        return ""
    annotation = _without_metadata(annotation)
    text = annotation.__name__ if isinstance(annotation, type) and "[" not in str(annotation) else str(annotation)
    text = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=\w)", "", text).replace("NoneType", "None")
    text = re.sub(r"Literal\[([^]]*)\]", lambda choices: choices[1].replace(", ", " | "), text)
    return re.sub(r"^Optional\[(.*)\]$", r"\1 | None", text)


def _without_metadata(annotation: Any) -> Any:
    """A type in which `Annotated[X, ...]` is X."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _without_metadata(args[0])
    plain = tuple(map(_without_metadata, args))
    if plain == args:
        return annotation
    return reduce(or_, plain) if origin in (Union, UnionType) else origin[plain]


def _default(default: Any) -> str:
    """A default as YAML writes it.

    >>> _default(True), _default(1.0), _default(None), _default("auto")
    ('true', '1.0', 'null', 'auto')
    """
    if default is inspect.Parameter.empty:
        return "(required)"
    return "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _model_default(field: Any) -> str:
    if field.is_required():
        return "(required)"
    default = field.get_default(call_default_factory=True)
    return "(its keys)" if hasattr(type(default), "model_fields") else _default(default)


def columns(rows: list[Row], *, color: bool = False, width: int | None = None) -> list[str]:
    """Rows as lines of aligned columns; the last column is not padded, and lies below its row where it is too long.

    >>> columns([("quickstart", "R1-Zero on a CPU"), ("a", "b")])
    ['quickstart  R1-Zero on a CPU', 'a           b']
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)] if rows else []
    lines = []
    for row in rows:
        head = "".join(f"{cell:{w}}  " for cell, w in zip(row, widths))
        line, below = f"{head}{row[-1]}".rstrip(), []
        if width and len(line) > width - 2 and width >= READABLE:
            line, below = head.rstrip(), textwrap.wrap(row[-1], width - 6)
        if width and len(line) > width - 2:
            line = f"{line[: width - 3]}…"
        if color:
            line = f"\033[36m{line[: len(row[0])]}\033[0m{line[len(row[0]) :]}"
        lines += [line, *(f"    {text}" for text in below)]
    return lines


def recipes() -> list[Row]:
    """Name, stage, whether it has been run in full, hardware, and title of each packaged recipe, those run first.

    All are from the first three lines of the file: `# TITLE`, `# Hardware: HARDWARE · COMMAND`, `# Run here: ...`.
    """
    rows = []
    for name, path in yaml_source.packaged_recipes().items():
        source = path.read_text(encoding="utf-8")
        title, hardware, here = (line.removeprefix("# ") for line in source.splitlines()[:3])
        stage = re.search(r"^stage: *(\w+)", source, re.MULTILINE)
        ran = "run here" if here.startswith("Run here: in full") else "--tiny"
        needs = hardware.removeprefix("Hardware: ").partition(" · ")[0]
        rows.append((name, stage[1] if stage else "pipeline", ran, needs, title))
    return sorted(rows, key=lambda row: row[2] != "run here")


def functions(kind: str) -> list[Row]:
    """Name and first docstring line of each reward, builder or environment."""
    return list(lookup.summaries(kind).items())


def runs(runs_dir: Path) -> list[Row]:
    """Name, state, time of the last record, and headline of each run, the most recent last."""
    found = [path for path in runs_dir.glob("*/") if (path / "config.yaml").is_file()] if runs_dir.is_dir() else []
    if not found:
        return []
    from r1lab.rundir import directory

    latest = {path: _last_record(path) for path in found}
    rows = []
    for path in sorted(found, key=lambda path: latest[path]):
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(latest[path]))
        if why := directory.newer(path):
            rows.append((path.name, "unreadable", when, why))
            continue
        try:
            rows.append((path.name, state(path), when, headline(path)))
        except (ValueError, KeyError, TypeError) as error:  # written by another version, or by hand
            rows.append((path.name, "unreadable", when, f"{type(error).__name__}: {error}"))
    return rows


def _last_record(path: Path) -> float:
    """When a run or one of its stages last wrote into its records, in seconds since the epoch."""
    files = [file for folder in (path, *_stages(path)) for name in RECORDS if (file := folder / name).is_file()]
    return max(file.stat().st_mtime for file in files)


def _stages(path: Path) -> list[Path]:
    """The folders of a pipeline's stages, in their order."""
    return sorted(path.glob("[0-9][0-9]-*/"))


def state(path: Path) -> str:
    """`running`, `finished`, `failed`, `interrupted`, or `unfinished` if nothing records how a run ended."""
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
    """Whether a run has locked the directory, as `r1lab.rundir.directory.locked` does."""
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
    """The main result of a run, or its progress."""
    from r1lab.rundir import directory, storage

    result = directory.result(path)
    if result is None:
        return _progress(path)
    if result.get("compare"):
        row = next((row for row in result["compare"] if row["metric"] == "avg"), result["compare"][0])
        before, after = 100 * row["before_value"], 100 * row["after_value"]
        gain = percent(row["diff"], row["ci95"], signed=True)
        return f"{row['task']} {before:.1f} → {after:.1f} % ({gain})"
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
    """The accuracy on an evaluation's first task."""
    task, scores = next(iter(tasks.items()))
    low, high = (100 * bound for bound in scores["ci95"])
    return f"{task} {100 * scores['avg']:.1f} % [{low:.1f}, {high:.1f}]"


def _progress(path: Path) -> str:
    """The current stage of a run, its step, and its last metrics."""
    from r1lab.rundir import directory, storage

    stages = _stages(path)
    # A stage has a folder before it begins, so the current one is the first without a result.
    at = next((at for at, stage in enumerate(stages) if directory.result(stage) is None), len(stages) - 1)
    folder = stages[at] if stages else path
    name = f"{folder.name[3:]} ({int(folder.name[:2])})" if stages else ""
    rows = [row for row in storage.read_jsonl(folder / "metrics.jsonl") if "total" in row]
    if not rows:
        return name
    done = rows[-1].get("done", rows[-1].get("step"))
    so_far = f"{name}: {done} of {rows[-1]['total']}".removeprefix(": ")
    metrics = [f"{key} {rows[-1][key]:.3g}" for key in ("reward", "loss") if rows[-1].get(key) is not None][:1]
    measured = [row["tasks"] for row in rows if row.get("tasks")]
    results = [directory.result(stage) for stage in reversed(stages[: max(at, 0)])]
    measured += [found["tasks"] for found in results if found and found.get("tasks")][:1] if not measured else []
    return ", ".join([so_far, *metrics, *(_accuracy(tasks) for tasks in measured[-1:])])
