"""The work of a stage over several workers, and the files in which it is kept until the stage has finished.

Workers are the ranks of a stage (`r1lab.ranks`) that share no model: each loads its own and generates for every n-th
chunk of the prompts. Each appends what it has to a file of its own, `samples/partial.jsonl` or `partial.R.jsonl`, and
reads those of all others, so that any number of workers can resume what any other number has begun. The first worker
waits until the files hold everything. A worker that fails is noticed by the process that started it.
"""

import os
from pathlib import Path

from r1lab import ranks
from r1lab.errors import UserError
from r1lab.rundir import directory, storage

POLL = 0.5
"""Seconds between two looks at the files of other workers."""


class Parts:
    """The rows that the workers of a stage have written: those of this worker, and those of all others."""

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        self.own = run_dir / "samples" / (f"partial.{ranks.rank()}.jsonl" if ranks.rank() else "partial.jsonl")
        self._offsets: dict[Path, int] = {}

    def append(self, row: dict) -> None:
        """Writes a row of this worker."""
        storage.append_jsonl(self.own, row)
        self._offsets[self.own] = self.own.stat().st_size

    def read(self) -> list[dict]:
        """Returns the rows that were written since the last call, without those of `append`."""
        found = []
        for file in directory.partial_files(self.run_dir):
            rows, self._offsets[file] = storage.follow_jsonl(file, self._offsets.get(file, 0))
            found += rows
        return found

    def delete(self) -> None:
        """Deletes the files of all workers."""
        for file in directory.partial_files(self.run_dir):
            file.unlink(missing_ok=True)


def of_others(total: int, size: int, first: int = 0) -> set[int]:
    """Returns the indices of the prompts that the other workers generate for.

    Args:
        total: The number of prompts.
        size: The number of prompts in a chunk.
        first: The number of the first chunk, so that the next prompts continue with the next worker.
    """
    return {i for i in range(total) if (first + i // size) % ranks.world_size() != ranks.rank()}


def own_devices(count: int = 1) -> None:
    """Hides the GPUs of the other ranks from this process, which must not have imported torch yet.

    It is for ranks that load a model each, and not for training, where torch itself selects a device by `LOCAL_RANK`.

    Args:
        count: The number of GPUs of each rank.

    Raises:
        UserError: `CUDA_VISIBLE_DEVICES` has too few GPUs for this rank.
    """
    if ranks.world_size() == 1:
        return
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = int(os.environ.get("LOCAL_RANK", "0")) * count
    if given is None:
        own = [str(device) for device in range(first, first + count)]
    elif given.strip() in ("", "-1"):  # no GPUs, as on a machine without them
        return
    else:
        own = given.split(",")[first : first + count]
    if len(own) < count:
        what = (
            f"rank {ranks.rank()} needs {count} of the GPUs in CUDA_VISIBLE_DEVICES={given}, after the first {first}"
        )
        raise UserError(f"launch.gpus: {what}: set a lower launch.gpus, or list more GPUs")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    os.environ["LOCAL_RANK"] = "0"  # among the visible ones
