"""The parts of a GRPO checkpoint that transformers does not save: pass rates, reference model, unfinished rollout."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_model, save_model

from r1lab.rundir import storage

if TYPE_CHECKING:
    from r1lab.grpo.trainer import GRPOTrainer

CHOOSER, REFERENCE, ROLLOUT = "chooser.json", "reference.safetensors", "rollout.rank{}.pt"


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


def save(trainer: GRPOTrainer, folder: Path) -> None:
    """Writes the trainer's own state. Call it before transformers writes its last file, which completes `folder`.

    The rollout is saved if more updates on it follow, so that a resumed run trains on it too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if trainer.chooser is not None and trainer.args.should_save:
        storage.write_json_atomic(folder / CHOOSER, trainer.chooser.state())
    if trainer.args.sync_ref_model and trainer.args.should_save:
        save_model(trainer.accelerator.unwrap_model(trainer.ref_model), str(folder / REFERENCE))
    if not trainer.rollout_is_due():
        state = {"micro_step": trainer._step, "inputs": trainer._buffered_inputs, "made": asdict(trainer.made)}
        state["rewards"] = trainer.rewards.statistics if trainer.rewards is not None else {}
        torch.save(state, folder / ROLLOUT.format(trainer.accelerator.process_index))


def load(trainer: GRPOTrainer, folder: Path) -> None:
    """Restores the state that `save` wrote."""
    if trainer.chooser is not None and (path := folder / CHOOSER).exists():
        trainer.chooser.load(json.loads(path.read_text(encoding="utf-8")))
    if trainer.args.sync_ref_model and (path := folder / REFERENCE).exists():
        load_model(trainer.accelerator.unwrap_model(trainer.ref_model), path)
    if (path := folder / ROLLOUT.format(trainer.accelerator.process_index)).exists():
        state = torch.load(path, map_location=trainer.accelerator.device, weights_only=True)
        trainer._step, trainer._buffered_inputs = state["micro_step"], state["inputs"]
        trainer.made = SavedRollout(**state["made"])
        if trainer.rewards is not None:
            trainer.rewards.statistics.update(state["rewards"])
