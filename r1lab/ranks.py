"""This process among the ranks of a stage, by the environment variables that every launcher of torch sets.

`r1lab run` starts a rank per device with `RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR` and
`MASTER_PORT`; torchrun and a Slurm script set the same. Without them a process is the only rank. Imports no torch.
"""

import os
from pathlib import Path

RESTART = 75
"""The exit status of a rank that asks for a new start of all ranks, as after a rollback."""


def rank() -> int:
    """The number of this process among all ranks of all nodes, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of ranks over all nodes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


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
        folder(run_dir).mkdir(exist_ok=True)
        (folder(run_dir) / f"{rank()}.beat").touch()
