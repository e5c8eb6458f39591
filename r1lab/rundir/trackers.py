"""Sends the rows of `metrics.jsonl` to TensorBoard, trackio or Weights & Biases under the same names."""

import json
import math
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from r1lab.rundir import directory, storage

NAMES = ("tensorboard", "trackio", "wandb")
PROJECT = "r1lab"  # unless WANDB_PROJECT or TRACKIO_PROJECT is set

Tracker = tuple[Callable[[dict[str, float], int], None], Callable[[], None]]
"""A function that writes the metrics of a step, and one that ends the run."""


def own(report_to: str | list[str] | None) -> list[str]:
    """The trackers of `train.report_to` that r1lab writes to; transformers handles the others.

    >>> own(["wandb", "mlflow"]), own("trackio"), own("none")
    (['wandb'], ['trackio'], [])
    """
    given = [report_to] if isinstance(report_to, str) else report_to or []
    return [name for name in given if name in NAMES]


def flat(row: dict, prefix: str = "") -> dict[str, float]:
    """The numbers of a row by flat names, without step and time.

    >>> flat({"step": 3, "time": 1.0, "reward": 0.5, "rewards": {"format": 1}, "phase": "train"})
    {'reward': 0.5, 'rewards/format': 1.0}
    """
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            if prefix or key not in ("step", "total", "time"):
                found[f"{prefix}{key}"] = float(value)
    return found


def start(name: str, run_dir: Path, config: dict, step: int = 0) -> Tracker:
    """Starts a run of a tracker, named after the run directory, or continues the one that this directory started.

    Args:
        name: One of `NAMES`, whose package is installed.
        run_dir: The run directory, for `trackers.json`, which has the id of each tracker's run, and `tensorboard/`. A
            stage of a pipeline is named `RUN-STAGE`.
        config: The stage's resolved recipe.
        step: The number of steps done; a resumed run replaces what was written of later steps.
    """
    home = directory.home(run_dir)
    called = run_dir.name if home == run_dir else f"{home.name}-{run_dir.name}"
    file = run_dir / "trackers.json"
    runs = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    begun = name in runs
    identity = runs.setdefault(name, uuid.uuid4().hex)
    if not begun:
        storage.write_json_atomic(file, runs)
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(run_dir / "tensorboard", purge_step=(step + 1 if step else 0) if begun else None)

        def write(metrics: dict[str, float], step: int) -> None:
            for key, value in metrics.items():
                writer.add_scalar(key, value, step)
            writer.flush()

        return write, writer.close
    if name == "trackio":
        import trackio  # pyright: ignore[reportMissingImports]  # an extra, [trackers]

        project, resume = os.environ.get("TRACKIO_PROJECT", PROJECT), "allow" if begun else "never"  # by its name
        trackio.init(project=project, name=called, config=config, resume=resume)
        return lambda metrics, step: trackio.log(metrics, step=step), trackio.finish
    import wandb  # pyright: ignore[reportMissingImports]  # an extra, [trackers]

    project = os.environ.get("WANDB_PROJECT", PROJECT)
    run = wandb.init(
        project=project,
        name=called,
        dir=run_dir,
        config=config,
        reinit="finish_previous",
        id=identity,
        resume="allow",
    )
    return lambda metrics, step: run.log(metrics, step=step), run.finish
