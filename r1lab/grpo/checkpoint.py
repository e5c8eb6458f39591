"""What a GRPO checkpoint holds beside transformers' own state: pass rates, the reference model, a rollout in use."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model

from r1lab.rundir import storage

CHOOSER, REFERENCE, ROLLOUT = "chooser.json", "reference.safetensors", "rollout.rank{}.pt"


@dataclass
class SavedRollout:
    """What the steps that train on a generation batch share.

    Attributes:
        step: The step before which it was generated, counted from 0.
        tokens: Completion tokens, over all ranks.
        figures: What TRL logs of it, under TRL's names.
    """

    step: int = 0
    tokens: int = 0
    figures: dict[str, float] = field(default_factory=dict)


def save(trainer, folder: Path) -> None:
    """Writes a trainer's own state; to be called before transformers writes its last file, which makes `folder` whole.

    A rollout is kept where updates on it are still to come, so that a resumed run trains on it too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if trainer.chooser is not None and trainer.args.should_save:
        storage.write_json_atomic(folder / CHOOSER, trainer.chooser.state())
    if trainer.args.sync_ref_model and trainer.args.should_save:
        save_model(trainer.accelerator.unwrap_model(trainer.ref_model), str(folder / REFERENCE))
    if not trainer.rollout_is_due():
        state = {"micro_step": trainer._step, "inputs": trainer._buffered_inputs, "made": asdict(trainer.made)}
        state["rewards"] = trainer.rewards.figures if trainer.rewards is not None else {}
        torch.save(state, folder / ROLLOUT.format(trainer.accelerator.process_index))


def load(trainer, folder: Path) -> None:
    """Gives a trainer the state that `save` has written."""
    if trainer.chooser is not None and (path := folder / CHOOSER).exists():
        trainer.chooser.load(json.loads(path.read_text(encoding="utf-8")))
    if trainer.args.sync_ref_model and (path := folder / REFERENCE).exists():
        load_model(trainer.accelerator.unwrap_model(trainer.ref_model), path)
    if (path := folder / ROLLOUT.format(trainer.accelerator.process_index)).exists():
        state = torch.load(path, map_location=trainer.accelerator.device, weights_only=True)
        trainer._step, trainer._buffered_inputs = state["micro_step"], state["inputs"]
        trainer.made = SavedRollout(**state["made"])
        if trainer.rewards is not None:
            trainer.rewards.figures.update(state["rewards"])
