"""This process among the ranks of a stage, by the environment variables that every launcher of torch sets.

`r1lab run` starts a rank per device with `RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR` and
`MASTER_PORT`; torchrun and a Slurm script set the same. Without them a process is the only rank. Only the functions
that communicate import torch; all ranks have to call such a function at the same place.
"""

import datetime
import itertools
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

RESTART = 75
"""The exit status of all ranks after a rollback: start all of them again with the same command, and they continue from
the checkpoint. An only rank restarts itself."""


def rank() -> int:
    """The number of this process among all ranks of all nodes, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of ranks over all nodes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """The number of this process among the ranks of its node, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def node() -> int:
    """The number of this node among those of the stage, from 0."""
    return rank() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is rank 0, the one that writes metrics, messages and results."""
    return rank() == 0


def folder(run_dir: Path) -> Path:
    """The folder of a stage's run directory with a log, a sign of life and, after a fault, the stacks of each rank."""
    return run_dir / "ranks"


def beat(run_dir: Path) -> None:
    """Touches this rank's sign of life, by which `launch.timeout` tells a rank that works from one that hangs.

    Does nothing for an only rank.
    """
    if world_size() > 1:
        folder(run_dir).mkdir(parents=True, exist_ok=True)
        (folder(run_dir) / f"{rank()}.beat").touch()


def log_file(run_dir: Path) -> Path:
    """The file for all output of this rank."""
    return run_dir / "log.txt" if is_main() else folder(run_dir) / f"{rank()}.log"


def error_file(run_dir: Path) -> Path:
    """The file for the user's mistakes that ended this rank, one per line."""
    return run_dir / "error.txt" if is_main() else folder(run_dir) / f"{rank()}.error"


def any_rank(flag: bool) -> bool:
    """Whether `flag` is true on any rank, so that all ranks decide alike."""
    if world_size() == 1:
        return flag
    import torch
    from accelerate import PartialState

    found = torch.tensor([int(flag)], device=PartialState().device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return bool(found.item())


def from_main(make: Callable[[], T]) -> T:
    """Returns what `make` returns on rank 0, which alone calls it; the others wait for it, however long it takes."""
    if world_size() == 1:
        return make()
    from torch.distributed import distributed_c10d

    # Through the store of the process group, because waiting in a collective would end after the group's timeout. The
    # store is a part of rank 0: the others do not wait for one that has ended.
    store, key = distributed_c10d._get_default_store(), f"r1lab/from_main/{next(_CALLS)}"
    if is_main():
        value = make()
        store.set(key, pickle.dumps(value))  # pyright: ignore[reportArgumentType]  it takes bytes as well
        return value
    store.wait([key], datetime.timedelta(days=30))
    return pickle.loads(store.get(key))


_CALLS = itertools.count()
"""Numbers the calls of `from_main`, the same on every rank."""
