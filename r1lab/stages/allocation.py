"""How a training stage's process allocates memory on a CPU.

Each step of training allocates and frees the same large tensors. By default the C library returns much of this memory
to the system at once, which then fills its pages with zeros before they are used again: a third of the CPU time of SFT
on a tiny model, and a tenth to a quarter of the training time of a GRPO step (docs/results/benchmarks.md).

With a GPU nothing is changed: the large tensors are there, and the memory of the host should shrink after a model is
loaded.
"""

import ctypes
import os
import sys

from r1lab import hardware

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


def use_huge_pages() -> None:
    """Has torch ask for pages of 2 MiB; call it before torch is imported.

    For rollouts, whose micro-batches are of similar sizes. Those of SFT are not, and huge pages make the unused space
    between their tensors larger: 1.9 instead of 1.4 GiB with a tiny model, and no gain in time.
    """
    if not hardware.gpu_devices():
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> None:
    """Keeps the memory of tensors that are freed from now on for the next ones.

    With rollouts from the start of the process, which is a little faster; for other training when the model is loaded,
    because blocks that loading frees would remain in pieces. Does nothing with another C library than glibc.
    `MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_MAX_` in the environment have priority.
    """
    if sys.platform != "linux" or hardware.gpu_devices():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for name, option, value in (
        ("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, -1),
        ("MALLOC_MMAP_MAX_", _M_MMAP_MAX, 0),
    ):
        if name not in os.environ:
            mallopt(option, value)
