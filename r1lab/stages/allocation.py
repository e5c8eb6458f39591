"""How a stage's process allocates memory on a CPU."""

import ctypes
import os
import sys

from r1lab import hardware

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> None:
    """Keeps the memory of freed tensors for the next ones, in pages of 2 MiB; call it before torch is imported.

    Each step of training allocates and frees the same large tensors. By default the C library returns each one to the
    system at once, which then fills the pages of the next one with zeros: about a fifth of the training time of a GRPO
    step on a CPU (docs/results/benchmarks.md).

    Does nothing on a machine with a GPU, where the large tensors are on the GPU and the host's memory should shrink
    again after a model is loaded, or with another C library than glibc. `MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_MAX_`
    and `THP_MEM_ALLOC_ENABLE` in the environment have priority.
    """
    if sys.platform != "linux" or hardware.gpu_devices():
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for name, option, value in (
        ("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, -1),
        ("MALLOC_MMAP_MAX_", _M_MMAP_MAX, 0),
    ):
        if name not in os.environ:
            mallopt(option, value)
