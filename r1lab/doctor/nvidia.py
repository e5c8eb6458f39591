"""Checks GPUs and their driver with `nvidia-smi`, without importing torch."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from r1lab.findings import Finding

FREE = 0.9
"""The share of a GPU's memory that should be free: what vLLM uses by default."""

# The oldest Linux driver for each major version of CUDA: NVIDIA, CUDA Compatibility, table 1.
_DRIVERS = {11: 450, 12: 525, 13: 580}
_QUERY = "index,uuid,name,driver_version,memory.total,memory.free,compute_cap"


@dataclass(frozen=True)
class Gpu:
    """A GPU as `nvidia-smi` shows it; memory in MiB, None if unknown."""

    index: int
    uuid: str
    name: str
    driver: str
    total: int | None
    free: int | None
    capability: float | None


def gpus(cuda: str | None, *, vllm: bool) -> tuple[list[Gpu], list[Finding]]:
    """The GPUs that a run may use, and findings about them, their driver, and the installed torch.

    Args:
        cuda: The CUDA version that torch is built for; None for a build without CUDA.
        vllm: Whether vLLM for CUDA is installed.
    """
    cards, problem = _query()
    if problem:
        return [], [
            Finding("error" if cuda else "warning", "gpu", f"nvidia-smi: {problem}", "reboot, or reinstall the driver")
        ]
    if not cards:
        if not cuda:
            return [], [Finding("ok", "gpu", "none, and torch is built without CUDA")]
        driver = " (but there is /proc/driver/nvidia)" if Path("/proc/driver/nvidia").exists() else ""
        seen = f"there is no nvidia-smi{driver}, but torch is built for CUDA {cuda}"
        fix = "docker run --gpus all, or make install R1LAB_DEVICE=cpu"
        return [], [Finding("error" if vllm else "warning", "gpu", seen, fix)]
    found = [*_driver(cards[0].driver, cuda)]
    visible = _visible(cards)
    if not visible:
        seen = f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} hides all {len(cards)}"
        found.append(Finding("warning", "gpu", seen, "unset CUDA_VISIBLE_DEVICES"))
    users = _users()
    return visible, found + [_memory(card, users.get(card.uuid, [])) for card in visible] + _old(visible)


def _driver(driver: str, cuda: str | None) -> list[Finding]:
    if cuda is None:
        seen = f"there is a GPU (driver {driver}), but torch is built without CUDA"
        return [Finding("warning", "driver", seen, "make install R1LAB_DEVICE=cuda")]
    needed = _DRIVERS.get(int(cuda.partition(".")[0]))
    if needed and int(driver.partition(".")[0]) < needed:
        seen = f"{driver} is too old for torch's CUDA {cuda}, which needs {needed} or later"
        return [Finding("error", "driver", seen, f"apt-get install nvidia-driver-{needed}, then reboot")]
    return [Finding("ok", "driver", f"{driver}, torch is built for CUDA {cuda}")]


def _memory(card: Gpu, users: list[str]) -> Finding:
    seen = f"{card.index}: {card.name}"
    if card.total is None or card.free is None:  # memory shared by CPU and GPU, or MIG
        return Finding("ok", "gpu", seen)
    seen += f", {card.free / 1024:.1f} of {card.total / 1024:.1f} GiB free"
    if card.free >= FREE * card.total:
        return Finding("ok", "gpu", seen)
    seen += f", used by {', '.join(users)}" if users else ", used by processes that nvidia-smi does not show"
    return Finding("warning", "gpu", seen, "end them, or set CUDA_VISIBLE_DEVICES to another GPU")


def _old(cards: list[Gpu]) -> list[Finding]:
    """Before compute capability 8.0 (Ampere) bfloat16 is only emulated: `model.dtype: auto` is float32 there."""
    old = [card for card in cards if card.capability and card.capability < 8]
    seen = f"{', '.join(str(card.index) for card in old)}: compute capability {old[0].capability if old else ''}"
    return [Finding("warning", "gpu", f"{seen}, without bfloat16", "model.dtype=float32")] if old else []


def _visible(cards: list[Gpu]) -> list[Gpu]:
    """The GPUs in `CUDA_VISIBLE_DEVICES`: CUDA reads its list up to the first that does not exist."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return cards
    visible = []
    for word in value.split(","):
        hit = [c for c in cards if word.strip() == str(c.index) or (word and c.uuid.startswith(word.strip()))]
        if not hit and word.strip().startswith("MIG-"):
            hit = cards[:1]  # a part of a GPU; nvidia-smi's table does not say which one
        if not hit:
            break
        visible += hit[:1]
    return visible


def _query() -> tuple[list[Gpu], str]:
    """The GPUs, and the error of `nvidia-smi`, if any."""
    done = _smi(f"--query-gpu={_QUERY}")
    if done is None:
        return [], ""
    if done.returncode:
        return [], " ".join((done.stdout + done.stderr).split())[:200] or f"exit status {done.returncode}"
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 6]
    return [
        Gpu(int(index), uuid, name, driver, _number(total), _number(free), _number(capability, float))
        for index, uuid, name, driver, total, free, capability in rows
    ], ""


def _users() -> dict[str, list[str]]:
    """The processes on each GPU, by UUID."""
    done = _smi("--query-compute-apps=gpu_uuid,pid,process_name")
    users: dict[str, list[str]] = {}
    for line in done.stdout.splitlines() if done and not done.returncode else []:
        uuid, pid, name = (*(cell.strip() for cell in line.split(",", 2)), "", "")[:3]
        users.setdefault(uuid, []).append(f"{Path(name).name} (pid {pid})")
    return users


def _smi(query: str) -> subprocess.CompletedProcess | None:
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired) as error:  # a file that cannot be executed; a driver that hangs
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _number(text: str, kind: type = int):
    """A number; None for values that `nvidia-smi` prints as [N/A]."""
    return kind(text) if re.fullmatch(r"[\d.]+", text) else None
