"""The disk space of a stage: its checkpoints, its final model, and the tokens that it trains on."""

import math

from r1lab.models import shard
from r1lab.plan import shapes
from r1lab.plan.lengths import Lengths
from r1lab.plan.training import Training
from r1lab.recipe.schema import Trained, setting

TOKEN = 8
"""Bytes per token in the Arrow file that SFT trains on."""


def checkpoints(recipe: Trained, shape: shapes.Shape, work: Training, steps: int | None) -> int:
    """Bytes of the checkpoints that exist together, including one that is being written, and of the final model."""
    final = shape.parameters * work.frozen_bytes
    weight = work.trained_bytes
    states = work.trained * (2 * weight if work.states is None else work.states)
    states += work.trained * 4 if work.mixed and not work.sharding.fsdp else 0
    one = work.trained * weight
    if not recipe.train.get("save_only_model"):
        gathered = work.sharding.fsdp and work.trained * shard.STATE <= shard.GATHERED
        one += states + (work.trained * weight if gathered else 0)  # the weights are then in two files
    every = setting(recipe, "save_steps")
    if setting(recipe, "save_strategy") == "no":
        saves = 0
    elif setting(recipe, "save_strategy") == "epoch":
        saves = math.ceil(setting(recipe, "num_train_epochs"))
    elif every < 1:
        saves = math.ceil(1 / every)
    else:
        saves = math.ceil((steps or every) / every)
    kept = min(saves, (recipe.train.get("save_total_limit") or 2) + 1)
    return int(kept * one + final + (work.trained * work.trained_bytes if work.lora else 0))


def tokens(recipe: Trained, found: Lengths) -> int:
    """Bytes of the Arrow file with an SFT stage's tokens, which exists while it trains."""
    return int((found.rows or 0) * found.mean * TOKEN) if recipe.stage == "sft" else 0
