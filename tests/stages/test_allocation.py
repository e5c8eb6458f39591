"""The memory of freed tensors is kept for the next ones."""

import os
import subprocess
import sys

import pytest

from r1lab import hardware

FAULTS = """
import resource
from r1lab.stages.allocation import keep_freed_memory, use_huge_pages
import torch
KEEP
for step in range(40):
    if step == 20:  # the first ones find their places
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24 + 1)  # 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: str, **more: str) -> int:
    """The pages that the system had to provide for twenty tensors, one after another."""
    own = ("THP_MEM_ALLOC_ENABLE", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
    env = {name: value for name, value in os.environ.items() if name not in own} | {"OMP_NUM_THREADS": "1"} | more
    command = [sys.executable, "-P", "-c", FAULTS.replace("KEEP", keep)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout)


@pytest.mark.skipif(sys.platform != "linux" or hardware.gpu_devices(), reason="settings of glibc, for CPUs")
def test_the_pages_of_a_freed_tensor_are_used_again():
    given = 20 * 2**26 // os.sysconf("SC_PAGE_SIZE")
    assert faults("") > 0.9 * given
    assert faults("keep_freed_memory()") < 0.1 * given


@pytest.mark.skipif(sys.platform != "linux" or hardware.gpu_devices(), reason="settings of glibc, for CPUs")
def test_the_environment_has_priority():
    given = 20 * 2**26 // os.sysconf("SC_PAGE_SIZE")
    settings = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072", "THP_MEM_ALLOC_ENABLE": "0"}
    assert faults("keep_freed_memory()", **settings) > 0.9 * given


def test_nothing_is_changed_with_a_gpu(monkeypatch):
    from r1lab.stages import allocation

    monkeypatch.setattr(hardware, "gpu_devices", lambda: True)
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    allocation.use_huge_pages()
    assert "THP_MEM_ALLOC_ENABLE" not in os.environ
