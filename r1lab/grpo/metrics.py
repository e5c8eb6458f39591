"""TRL's metrics of micro-batches, merged into those of a step.

TRL averages them with equal weights, so they would depend on how completions were divided into micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch

from r1lab.grpo import batches

if TYPE_CHECKING:
    from r1lab.grpo.trainer import GRPOTrainer

CLIPPED = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean", "cispo_clip_ratio")
RATIO, DRIFT = "sampling/importance_sampling_ratio", "sampling/sampling_logp_difference"
EXTREMES = {
    "clip_ratio/low_min": min, "clip_ratio/high_max": max, f"{RATIO}/min": min, f"{RATIO}/max": max,
    f"{DRIFT}/max": max,
}  # fmt: skip
MEANS = ("entropy", "kl", f"{RATIO}/outside", "vespo/phi_seq_mean", f"{DRIFT}/mean", f"{RATIO}/mean", *CLIPPED)


def _per_row(trainer: GRPOTrainer) -> set[str]:
    """Returns the means over rows, with one value per row; the other means are over tokens."""
    found = {"vespo/phi_seq_mean"}
    if trainer.importance_sampling_level == "sequence":
        found |= set(CLIPPED)
    if trainer.use_vllm and trainer.vllm_importance_sampling_mode.startswith("sequence"):
        found.add(f"{RATIO}/mean")
    return found


@contextmanager
def weighed(trainer: GRPOTrainer, part: dict) -> Iterator[None]:
    """A context in which the loss of a micro-batch is computed; notes the weight of each mean that it logs."""
    metrics = trainer._metrics["train"]
    before = {name: len(metrics.get(name, ())) for name in MEANS}
    yield
    mask = batches.loss_mask(part)
    counts = torch.stack([mask.sum(), torch.tensor(len(mask), device=mask.device)])
    summed = cast("torch.Tensor", trainer.accelerator.reduce(counts, reduction="sum"))
    tokens, rows = summed.tolist()
    per_row = _per_row(trainer)
    for name, count in before.items():
        if len(metrics.get(name, ())) > count:
            trainer.weights[name].append(rows if name in per_row else tokens)


def complete(trainer: GRPOTrainer) -> None:
    """Makes the metrics since the last log those of a step, which are then logged.

    A step that trains on an earlier rollout gets the metrics and the step of that rollout.
    """
    merge(trainer)
    metrics = trainer._metrics["train"]
    if trainer.made.step != trainer.state.global_step - 1:
        metrics["rollout"] = [trainer.made.step + 1]
        for name, value in trainer.made.figures.items():
            metrics[name] = metrics.get(name) or [value]


def merge(trainer: GRPOTrainer) -> None:
    """Replaces the values of the micro-batches since the last log by one: a weighted mean, a minimum or a maximum."""
    metrics = trainer._metrics["train"]
    if not trainer.weights:  # TRL's own micro-batches
        return
    for name, weights in trainer.weights.items():
        values = metrics.get(name, [])
        if len(values) == len(weights) and sum(weights):
            used = [(value, weight) for value, weight in zip(values, weights) if weight]
            metrics[name] = [sum(value * weight for value, weight in used) / sum(weights)]
    for name, function in EXTREMES.items():
        values = [value for value in metrics.get(name, ()) if value == value]
        if values:
            metrics[name] = [function(values)]
    trainer.weights.clear()


def forget(trainer: GRPOTrainer, count: int) -> None:
    """Removes what the last `count` micro-batches logged."""
    metrics = trainer._metrics["train"]
    for name in (*MEANS, *EXTREMES):
        if metrics.get(name):
            del metrics[name][-count:]
    for weights in trainer.weights.values():
        del weights[-count:]
