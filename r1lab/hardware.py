"""The cores, the memory and the GPUs of this machine that a process may use."""

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")  # in /dev: NVIDIA's, AMD's, and those of Windows' subsystem for Linux
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Cores that this process may run on, regardless of its quota."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allowed_cores() -> int:
    """Cores that this process may use, by affinity and quota."""
    return min(usable_cores(), max(1, round(cpu_quota() or usable_cores())))


def gpu_devices() -> bool:
    """Whether this machine has the device file of a GPU, which torch may or may not be able to use."""
    return any(any(Path("/dev").glob(name)) for name in _DEVICES)


@functools.cache
def gpus() -> int:
    """The GPUs that torch finds, which depends on its build, the driver and `CUDA_VISIBLE_DEVICES`.

    torch is asked in a process of its own, because importing it takes seconds and starts threads. On a machine without
    the device of a GPU it is not asked.
    """
    if not gpu_devices():
        return 0
    asked = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-P", "-c", asked], check=False, capture_output=True, text=True)
    words = done.stdout.split()  # a driver may print before it
    return int(words[-1]) if done.returncode == 0 and words and words[-1].isdigit() else 0


def nodes() -> int:
    """The nodes of the Slurm job in which this process runs on the first one, 1 if there is none."""
    return int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) if "SLURMD_NODENAME" in os.environ else 1


def busy() -> bool:
    """Whether more processes than there are cores were ready to run, over the last minute."""
    return os.getloadavg()[0] > 1.5 * allowed_cores()


def cpu_quota() -> float | None:
    """Cores that the control group allows, None for no limit."""
    quotas = []
    for text in cgroup("cpu", "cpu.max", "cpu.cfs_quota_us"):
        quota, *period = text.split()
        if quota.isdigit():  # neither max nor -1
            quotas.append(int(quota) / (int(period[0]) if period else 100_000))  # version 1: the kernel's default
    return min(quotas, default=None)


class MemoryOfMachine(NamedTuple):
    """Bytes that a process may use, bytes that are free, and bytes that the machine has."""

    allowed: int
    free: int
    total: int


def memory() -> MemoryOfMachine:
    """Memory of this machine, no more than the control groups of this process allow."""
    kib = dict(re.findall(r"^(\w+): +(\d+) kB", _read("/proc/meminfo"), re.MULTILINE))
    total = int(kib["MemTotal"]) * 1024 if kib else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [int(text) for text in cgroup("memory", "memory.max", "memory.limit_in_bytes") if text.isdigit()]
    allowed = min([total, *limits])
    free = int(kib["MemAvailable"]) * 1024 if "MemAvailable" in kib else total
    return MemoryOfMachine(allowed, min(free, allowed), total)


def cgroup(controller: str, name: str, old_name: str) -> Iterator[str]:
    """The content of a file in each control group of this process, from its own to the root.

    Args:
        controller: The controller, `cpu` or `memory`.
        name: The name of the file in version 2.
        old_name: Its name in version 1.
    """
    for line in _read(OWN_CGROUP).splitlines():
        _, controllers, path = line.split(":", 2)
        root, file = CGROUPS, name
        if controllers:
            if controller not in controllers.split(","):
                continue
            root, file = root / controller, old_name
        folder = root / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(root) and (text := _read(place / file)):
                yield text.strip()


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # not Linux, or not visible in this container
        return ""
