"""Reads run directories, also half-written, damaged or incomplete ones, and lists what is missing."""

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from r1lab.errors import UserError
from r1lab.evaluation import comparison
from r1lab.rundir import directory
from r1lab.text import did_you_mean_path

STAGE_FOLDER = re.compile(r"\d{2,}-(.+)")
# Control characters are invisible in a page, and null bytes and half surrogates are invalid in one.
_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {13: None, 127: 0x2421}
_CONTROL |= dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)


@dataclass(frozen=True)
class Stage:
    """A stage, as far as its files are readable.

    Attributes:
        name, kind, path: The kind is `?` if no file has it.
        config, result: Empty if missing; `result` is written last, so the stage has not finished if it is empty.
        rows: Training metrics, one row per step.
        evals: Evaluations during the training, one row per step.
        answered: The number of questions that an evaluation has answered, and their total.
        messages: Warnings and notes, as rows of `phase`, `message` and perhaps `step` and `alarm`.
        seconds: Its time including the start of its process, if the run recorded it.
        error: The content of `error.txt`.
        damaged: Whether there is a `result.json` that cannot be read.
    """

    name: str
    kind: str
    path: Path
    config: dict = field(default_factory=dict)
    result: dict = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)
    evals: list[dict] = field(default_factory=list)
    answered: tuple[int, int] | None = None
    messages: list[dict] = field(default_factory=list)
    seconds: float | None = None
    error: str = ""
    damaged: bool = False

    @property
    def tasks(self) -> dict[str, dict]:
        """The scores of an evaluation by task."""
        tasks = self.result.get("tasks")
        return {k: v for k, v in tasks.items() if isinstance(v, dict)} if isinstance(tasks, dict) else {}


@dataclass(frozen=True)
class Run:
    """A run, as far as its files are readable; a recipe of one stage has one stage, in the same folder.

    Attributes:
        seconds: The time of the whole run: all attempts at all stages, with the start of their processes. None for a
            run that has not finished.
    """

    name: str
    path: Path
    config: dict
    recipe: str
    manifest: dict
    result: dict
    stages: list[Stage]
    compare: list[dict]
    problems: list[str]
    seconds: float | None = None

    @property
    def pipeline(self) -> bool:
        """Whether its stages have folders of their own."""
        return any(stage.path != self.path for stage in self.stages)


def read(path: str | Path) -> Run:
    """A run directory, without its completions.

    Raises:
        UserError: It does not exist, contains no files of a run, or was written by a newer r1lab.
    """
    path = Path(path)
    if not path.is_dir():
        hint = did_you_mean_path(path, lambda folder: os.path.isfile(folder / "config.yaml"))
        raise UserError(f"{path}: no such run directory{hint}: `r1lab ls runs` lists the existing ones")
    if why := directory.newer(path):
        raise UserError(f"{path}: {why}")
    problems: list[str] = []
    folders = sorted(f for f in path.iterdir() if f.is_dir() and STAGE_FOLDER.fullmatch(f.name))
    config = yaml(path / "config.yaml", problems)
    staged = [stage for stage in items(config.get("stages")) if isinstance(stage, dict)]
    if not (folders or config or any((path / name).exists() for name in ("metrics.jsonl", "samples", "result.json"))):
        raise UserError(f"{path}: contains no run: name a folder that `r1lab run` wrote, as in runs/quickstart")
    result = _json(path / "result.json", problems, why="the run has not finished")
    metrics = list(rows(path / "metrics.jsonl", problems))
    ended = [row for row in metrics if row.get("phase") == "stage"]
    attempts = [(clean(row.get("stage")), as_number(row.get("seconds"))) for row in ended]
    seconds = dict(attempts)
    if folders or staged:
        # Folders are named after their stages; stages that have not started have no folder.
        names = [name[1] for folder in folders if (name := STAGE_FOLDER.fullmatch(folder.name))]
        known = {clean(stage.get("name")): stage for stage in staged}  # a pipeline's config contains its stages
        stages = [_stage(n, folder, problems, known.get(n), seconds.get(n)) for n, folder in zip(names, folders)]
        later = [stage for stage in staged if clean(stage.get("name")) not in names]
        stages += [
            Stage(clean(s.get("name")), clean(s.get("stage")), path / clean(s.get("name")), config=s) for s in later
        ]
        if later:
            left = ", ".join(clean(stage.get("name")) for stage in later)
            have = "has" if len(later) == 1 else "have"
            problems.append(f"{path.name}: {len(later)} of {len(staged)} stages {have} not started: {left}")
    else:
        name = clean(config.get("name")) or path.resolve().name
        stages = [_stage(name, path, problems, config, seconds.get(name), result)]
    return Run(
        name=path.resolve().name,
        path=path,
        config=config,
        recipe=_text(path / "recipe.yaml") if (path / "recipe.yaml").is_file() else "",
        manifest=_json(_of_run(path, "manifest.json"), problems),
        result=result,
        stages=stages,
        compare=_compare(result, config, stages, problems),
        problems=problems,
        seconds=_seconds(result, [took or 0 for _, took in attempts]),
    )


def _seconds(result: dict, attempts: list[float]) -> float | None:
    """The result of a pipeline includes its attempts; that of a single stage has only the seconds of its work."""
    single = attempts and result.get("stage") != "pipeline"
    return sum(attempts) if result and single else as_number(result.get("seconds"))


def _of_run(path: Path, name: str) -> Path:
    """A file of the run; for a single stage's folder it is in the folder above."""
    above = path.resolve().parent / name
    return above if above.is_file() and not (path / name).is_file() else path / name


def _stage(
    name: str, path: Path, problems: list[str], config: dict | None, seconds: float | None, result: dict | None = None
) -> Stage:
    if config is None:
        config = yaml(path / "config.yaml", problems)
    if result is None:
        result = _json(path / "result.json", problems, why="the stage has not finished")
    metrics = list(rows(path / "metrics.jsonl", problems, needed=True))
    train = [row for row in metrics if row.get("phase") == "train" and _is_step(row)]
    of_evals = [row for row in metrics if row.get("phase") == "eval" and _is_step(row)]
    evals = [row for row in of_evals if _dicts(row.get("tasks"))]
    counted = [row for row in of_evals if type(row.get("done")) is int and type(row.get("total")) is int]
    answered = [(row["done"], row["total"]) for row in counted if "tasks" not in row]
    kind = clean(config.get("stage") or result.get("stage"))
    if not kind:
        kind = "grpo" if any("reward" in row for row in train) else "eval" if result.get("tasks") or answered else "?"
    if kind in ("grpo", "distill", "eval", "sample") and not (path / "samples").is_dir():
        problems.append(f"{path.name}: no samples/, so there are no completions to show")
    return Stage(
        name=clean(name),
        kind=kind,
        path=path,
        config=config,
        result=result,
        rows=_by_step(train),
        evals=_by_step(evals),
        answered=answered[-1] if answered else None,
        messages=[row for row in metrics if row.get("phase") in ("warning", "note") and row.get("message")],
        seconds=seconds,
        error=clean(_text(path / "error.txt")).strip() if (path / "error.txt").is_file() else "",
        damaged=not result and (path / "result.json").is_file(),
    )


def _by_step(found: list[dict]) -> list[dict]:
    """One row per step, in order, the last one written: a resumed run repeats the steps after its last checkpoint."""
    return [row for _, row in sorted({row["step"]: row for row in found}.items())]


def _is_step(row: dict) -> bool:
    return type(row.get("step")) is int and row["step"] >= 0


def _dicts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, dict) for item in value.values())


def _compare(result: dict, config: dict, stages: list[Stage], problems: list[str]) -> list[dict]:
    """The comparisons that a pipeline wrote; for an unfinished one, those that are possible so far.

    If the recipe requests none, the first evaluation is compared with the last.
    """
    if result.get("compare"):
        return [row for row in items(result["compare"]) if _is_comparison(row)]
    folders = {stage.name: stage.path for stage in stages if stage.tasks}
    wanted = [pair for pair in items(config.get("compare")) if isinstance(pair, list) and len(pair) == 2]
    if not wanted and len(folders) > 1:
        wanted = [[next(iter(folders)), list(folders)[-1]]]
    found = []
    for before, after in (pair for pair in wanted if set(map(str, pair)) <= folders.keys()):
        try:
            found += comparison.compare(before, after, folders)
        except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:  # a damaged file
            problems.append(f"{before} and {after}: cannot be compared, their questions.jsonl is damaged ({error})")
    return [row for row in found if _is_comparison(row)]


def _is_comparison(row: object) -> bool:
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("task", "before", "after")):
        return False
    bounds = row.get("ci95")
    numbers = [row.get("diff"), row.get("before_value"), row.get("after_value"), *items(bounds)]
    return len(items(bounds)) == 2 and all(as_number(number) is not None for number in numbers)


# Files


def rows(path: Path, problems: list[str], *, needed: bool = False) -> Iterator[dict]:
    """The objects of a JSON Lines file; adds the number of other lines to `problems`."""
    if not path.is_file():
        if needed:
            problems.append(f"{_where(path)}: missing")
        return
    bad = replaced = 0
    with path.open("rb") as file:
        for line in file:
            try:
                text = line.decode()
            except UnicodeDecodeError:
                text, replaced = line.decode(errors="replace"), replaced + 1
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield row
            else:
                bad += 1
    if bad:
        what = "line is not a JSON object" if bad == 1 else "lines are not JSON objects"
        problems.append(f"{_where(path)}: {bad} {what}, skipped")
    if replaced:
        some = "1 line has" if replaced == 1 else f"{replaced} lines have"
        problems.append(f"{_where(path)}: {some} bytes that are not UTF-8, shown as \ufffd")


def _json(path: Path, problems: list[str], why: str = "") -> dict:
    if not path.is_file():
        problems.append(f"{_where(path)}: missing{f', {why}' if why else ''}")
        return {}
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        problems.append(f"{_where(path)}: cannot be read, it is not a JSON object")
        return {}
    return found


def yaml(path: Path, problems: list[str]) -> dict:
    """A YAML file, empty if it is missing or damaged, which is added to `problems`."""
    if not path.is_file():
        problems.append(f"{_where(path)}: missing")
        return {}
    try:
        found = YAML(typ="safe", pure=True).load(_text(path))
    except (YAMLError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        problems.append(f"{_where(path)}: cannot be read, it is not a YAML mapping")
        return {}
    return found


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace")


def _where(path: Path) -> str:
    return "/".join(path.parts[-3:] if path.parent.name == "samples" else path.parts[-2:])


# Values


def clean(value: object) -> str:
    """Any value as a text that a page can contain: control characters as symbols, no half surrogates.

    >>> clean("a\\x00b"), clean(None), clean([{"role": "user", "content": "Hi"}])
    ('a␀b', '', 'Hi')
    """
    if value is None:
        return ""
    if isinstance(value, list) and value and all(isinstance(m, dict) and "content" in m for m in value):
        value = "\n\n".join(clean(message["content"]) for message in value)  # a chat
    return str(value).translate(_CONTROL)


def as_number(value: object) -> float | None:
    """A finite number, else None.

    >>> as_number(1), as_number(True), as_number("1"), as_number(float("nan"))
    (1.0, None, None, None)
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) >= 1e300:
        return None
    return float(value) if math.isfinite(value) else None


def section(config: dict, name: str) -> dict:
    """A section of a recipe, empty if it is missing."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def items(value: object) -> list:
    """The value if it is a list, else an empty list."""
    return value if isinstance(value, list) else []
