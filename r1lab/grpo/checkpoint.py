"""The parts of a GRPO checkpoint that transformers does not save: pass rates, reference model, unfinished rollouts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch.utils.data import Sampler as TorchSampler
from trl.trainer.utils import RepeatSampler

from r1lab import ranks
from r1lab.engines import seed_of
from r1lab.models import shard
from r1lab.rundir import storage

if TYPE_CHECKING:
    from r1lab.grpo.trainer import GRPOTrainer

CHOOSER, REFERENCE, ROLLOUT = "chooser.json", "reference.safetensors", "rollout.rank{}.pt"
GROUPS = "groups.pt"


@dataclass
class SavedRollout:
    """A generation batch, as the steps that train on it log it.

    Attributes:
        step: The step before which it was generated, counted from 0.
        tokens: Completion tokens, over all ranks.
        figures: TRL's metrics of the batch, under TRL's names.
    """

    step: int = 0
    tokens: int = 0
    figures: dict[str, float] = field(default_factory=dict)


class Sampler(RepeatSampler):
    """TRL's sampler of prompts, whose order in an epoch depends on the number of the epoch alone.

    After a resume, TRL's own begins with the order of the first epoch, so that a training repeats some prompts of the
    epoch in which it was interrupted, and misses others.
    """

    def __init__(self, trls: TorchSampler, trainer: GRPOTrainer):
        vars(self).update(vars(trls))
        self.trainer = trainer

    def __iter__(self):
        if self.shuffle:
            self.generator.manual_seed(cast(int, self.seed))  # the trainer's own, never None
            for _ in range(int(self.trainer.state.epoch or 0)):
                torch.randperm(self.num_samples, generator=self.generator)
        return super().__iter__()


def save(trainer: GRPOTrainer, folder: Path) -> None:
    """Writes the trainer's own state. Call it before transformers writes its last file, which completes `folder`.

    The rollout is saved if more updates on it follow, so that a resumed run with as many ranks trains on it too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if trainer.chooser is not None and trainer.args.should_save:
        storage.write_json_atomic(folder / CHOOSER, trainer.chooser.state())
    if trainer.groups is not None and trainer.args.should_save:
        torch.save(trainer.groups.state(), folder / GROUPS)
    if trainer.args.sync_ref_model:
        reference = trainer.accelerator.unwrap_model(trainer.ref_model)
        shard.save_frozen(trainer.accelerator, reference, folder / REFERENCE)
    if not trainer.rollout_is_due():
        state = {"micro_step": trainer._step, "inputs": trainer._buffered_inputs, "made": asdict(trainer.made)}
        state["ranks"] = trainer.accelerator.num_processes
        state["rewards"] = trainer.rewards.statistics if trainer.rewards is not None else {}
        torch.save(state, folder / ROLLOUT.format(trainer.accelerator.process_index))
    trainer.accelerator.wait_for_everyone()  # rank 0 writes that last file


def load(trainer: GRPOTrainer, folder: Path) -> None:
    """Restores the state that `save` wrote."""
    if trainer.chooser is not None and (path := folder / CHOOSER).exists():
        trainer.chooser.load(json.loads(path.read_text(encoding="utf-8")))
    if trainer.groups is not None and (path := folder / GROUPS).exists():
        trainer.groups.load(torch.load(path, weights_only=True))
    if trainer.args.sync_ref_model:
        shard.load_frozen(trainer.accelerator.unwrap_model(trainer.ref_model), folder / REFERENCE)
    accelerator, step = trainer.accelerator, int(folder.name.rpartition("-")[2])
    several = accelerator.num_processes > 1
    if not (folder / (f"rng_state_{accelerator.process_index}.pth" if several else "rng_state.pth")).exists():
        # The run had another number of ranks. Without this, its samples would have the random numbers of step 1.
        torch.manual_seed(seed_of(trainer.args.seed, step * accelerator.num_processes + accelerator.process_index))
    path = folder / ROLLOUT.format(accelerator.process_index)
    state = torch.load(path, map_location=accelerator.device, weights_only=True) if path.exists() else {}
    if not ranks.any_rank(not state or state.get("ranks", 1) != accelerator.num_processes):
        trainer._step, trainer._buffered_inputs = state["micro_step"], state["inputs"]
        trainer.made = SavedRollout(**state["made"])
        if trainer.rewards is not None:
            trainer.rewards.statistics.update(state["rewards"])
    elif ranks.any_rank(bool(state)):
        # Each rank had its rows of the rollout: as many ranks as now make a new one for the updates that are left.
        trainer._step = step * trainer.args.gradient_accumulation_steps
        if trainer.groups is not None:
            trainer.groups.repeats = True
