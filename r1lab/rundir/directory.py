"""Run directories: the recipe of a run, its environment, its metrics and its outputs.

`runs/NAME/` has `recipe.yaml` (as written), `config.yaml` (resolved, re-runnable), `manifest.json`, `metrics.jsonl`,
`samples/`, `checkpoints/`, `model/`, `log.txt` and `result.json`. `result.json` is written last, so its presence marks
a finished run. Each stage of a pipeline has such a folder, `runs/NAME/NN-STAGE/`.
"""

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from r1lab.errors import UserError
from r1lab.rundir.manifest import FORMAT
from r1lab.rundir.storage import read_jsonl, read_yaml, write_text_atomic, write_yaml

FINGERPRINTS = "fingerprints.json"  # the cache of `provenance.fingerprint`
_OUTPUTS = ("metrics.jsonl", "samples", "checkpoints", "model", "adapter", "rollback.json", "error.txt", "result.json")
_OUTPUTS += ("data.jsonl", "curve.png", "evaluation.json", "trackers.json", FINGERPRINTS)
_SAMPLES = re.compile(r"step_(\d+)(?:\.rank\d+)?\.jsonl")
_log = logging.getLogger(__name__)
_MARKS = ("config.yaml", "recipe.yaml", "manifest.json")


def trained_by(path: str) -> tuple[dict, str]:
    """What the recipe of the stage that trained a model says, and where it was found; empty if it is not known.

    Args:
        path: A model or a checkpoint in the directory of a run, a folder from elsewhere, a Hub id, or `embedded:NAME`.

    >>> trained_by("embedded:tiny-qwen2")
    ({'prompt': {'template': 'r1-zero'}}, 'as it was trained')
    """
    if path.startswith("embedded:tiny-"):
        return {"prompt": {"template": "r1-zero"}}, "as it was trained"
    stage = Path(path).expanduser().resolve().parent
    config = (stage.parent if stage.name == "checkpoints" else stage) / "config.yaml"
    return (read_yaml(config), f"as in {config.parent.name}/config.yaml") if config.is_file() else ({}, "")


def prepare(recipe_text: str, resolved: dict, path: str | Path, *, resume: bool, overwrite: bool) -> Path:
    """Prepares a run directory and writes the recipe, as written and resolved, into it.

    A directory with files in it is refused unless `resume` (it is kept) or `overwrite` (it is emptied first) is given.

    Returns:
        The run directory.

    Raises:
        UserError: The directory is in use, or is not a run directory. In this case nothing is written.
    """
    path = Path(path)
    refuse_used(path, resume=resume, overwrite=overwrite)
    if overwrite and is_used(path):
        empty(path)
    path.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path / "recipe.yaml", recipe_text)
    write_yaml(path / "config.yaml", resolved)
    return path


def refuse_used(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuses a directory that `prepare` would refuse; writes nothing.

    Raises:
        UserError: The directory is in use, or is not a run directory.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite: give only one: --resume continues, --overwrite starts again")
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: this is a file: choose another folder with --name or --runs-dir")
    if not is_used(path):
        return
    if not any((path / mark).is_file() for mark in _MARKS):
        raise UserError(f"{path}: has files but no run, so it is not touched: choose another folder with --name")
    if not (overwrite or resume):
        raise UserError(
            f"{path}: already has a run: add --resume to continue it, --overwrite to delete it and start again, or "
            "--name NEW to keep it"
        )
    if resume and (why := newer(path)):
        raise UserError(f"{path}: {why}, or start a new run with --name")


def is_used(path: Path) -> bool:
    """Whether a directory exists and is not empty."""
    return path.is_dir() and any(path.iterdir())


def empty(path: Path) -> None:
    """Deletes the contents of a directory, but not the directory, which may be locked or a link."""
    for child in path.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def drop_outputs(path: Path) -> None:
    """Deletes the metrics and outputs of a stage, but not its recipe, manifest and log."""
    for name in _OUTPUTS:
        child = path / name
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks a run directory, so that no second run writes into it; the system unlocks it when the process ends.

    Raises:
        UserError: Another process has locked it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path}: another r1lab runs in it: wait, or choose another folder with --name") from None
        except OSError as error:  # some network file systems cannot lock a directory
            _log.warning(
                "%s: the file system cannot lock it (%s), so nothing prevents a second run from writing into it",
                path,
                error.strerror,
            )
        yield
    finally:
        os.close(handle)


def home(run_dir: str | Path) -> Path:
    """The folder of the whole run; for a stage of a pipeline, the folder of the pipeline."""
    run_dir = Path(run_dir)
    return run_dir if (run_dir / "recipe.yaml").is_file() else run_dir.parent


def newer(run_dir: str | Path) -> str:
    """Why this version can neither resume nor read a run or stage; empty if it can.

    A run that was resumed has the format of the newest version that wrote into it.

    >>> newer("no/such-folder")
    ''
    """
    try:
        manifest = json.loads((home(run_dir) / "manifest.json").read_text(encoding="utf-8"))
        written = max(one.get("format", 0) for one in (manifest, *manifest.get("resumed", [])))
        is_newer = written > FORMAT
    except (OSError, ValueError, AttributeError, TypeError):  # missing or damaged, which is reported where it is read
        return ""
    return f"written by a newer r1lab (format {written}, this one has {FORMAT}): update r1lab" if is_newer else ""


def is_saved(file: str | Path) -> bool:
    """Whether a file is the resolved recipe of a run, or of one of its stages."""
    file = Path(file)
    return file.name == "config.yaml" and (home(file.parent) / "manifest.json").is_file()


def samples_by_step(path: str | Path) -> dict[int, list[Path]]:
    """The files of completions in a stage's `samples/`, by training step; one file per rank.

    >>> samples_by_step("no/such-folder")
    {}
    """
    found: dict[int, list[Path]] = {}
    for file in sorted((Path(path) / "samples").glob("step_*.jsonl")):
        if step := _SAMPLES.fullmatch(file.name):
            found.setdefault(int(step[1]), []).append(file)
    return dict(sorted(found.items()))


def partial_files(path: str | Path) -> list[Path]:
    """The files of a stage that is evaluating or sampling, or was interrupted in it: one per worker.

    >>> partial_files("no/such-folder")
    []
    """
    return sorted((Path(path) / "samples").glob("partial*.jsonl"))


def seconds(run_dir: str | Path) -> float:
    """The time that a run took: all attempts at its stages, each with the start of its processes.

    The `seconds` in a stage's own result are only those of its work.

    >>> seconds("no/such-folder")
    0
    """
    rows = read_jsonl(Path(run_dir) / "metrics.jsonl")
    return sum(row["seconds"] for row in rows if row.get("phase") == "stage")


def result(path: str | Path) -> dict | None:
    """The result of a run or stage, None if it has not finished."""
    return finished_result(path) if (Path(path) / "result.json").is_file() else None


def finished_result(path: str | Path) -> dict:
    """The result of a run or stage that has finished."""
    return json.loads((Path(path) / "result.json").read_text(encoding="utf-8"))
