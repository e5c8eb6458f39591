"""Packed rows in the trainer: whether its models can run them, and the log-probabilities of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from accelerate.utils import is_peft_model

from r1lab.grpo import batches, packed, packed_model

if TYPE_CHECKING:
    from r1lab.grpo.distillation import DistillTrainer
    from r1lab.grpo.divergence import Compared
    from r1lab.grpo.trainer import GRPOTrainer


def fits(trainer: GRPOTrainer, others: Sequence = ()) -> bool:
    """Whether a trainer's models run packed rows, or `others`, not wrapped; if not, it prints the reason."""
    why = None
    if trainer._is_vlm:
        why = "prompts may have images"
    elif trainer.aux_loss_enabled:
        why = "the mixture-of-experts loss counts a prompt once per completion"
    for model in others or (trainer.model, trainer.ref_model):
        if model is not None and why is None:
            model = trainer.accelerator.unwrap_model(model)
            if is_peft_model(model) and model.active_peft_config.is_prompt_learning:
                why = f"{model.active_peft_config.peft_type.value} adds its own tokens before each prompt"
                break
            why = packed_model.install(
                model.get_base_model() if is_peft_model(model) else model,
                temperature=trainer.temperature,
                cast_head=trainer.args.cast_lm_head_to_fp32,
                try_it=not trainer.sharded,
            )
    if why and trainer.accelerator.is_main_process:
        print(f"each completion is computed with its own prompt and padding, as TRL does: {why}", flush=True)
    return why is None


def logps(trainer: GRPOTrainer, model, input_ids, attention_mask, logits_to_keep: int, batch_size: int | None):
    """Returns log-probabilities and entropies, both (B, `logits_to_keep`), packing `batch_size` rows at a time.

    In the loss, those of tokens that the model did not sample are zero.

    Args:
        model: The policy or the reference model.
        input_ids, attention_mask: (B, P + C), prompts padded on the left and completions padded on the right.
    """
    found = []
    for row in _rows(trainer, input_ids, attention_mask, logits_to_keep, batch_size):
        with trainer.accelerator.autocast():  # the reference model is not wrapped in autocast
            found.append(
                packed_model.logps(model, row, temperature=trainer.temperature, chunked=trainer.own.chunk_logps)
            )
    return tuple(torch.cat(column) for column in zip(*found))


def compared(trainer: DistillTrainer, model, input_ids, attention_mask, logits_to_keep: int) -> Compared:
    """Compares a model with the trainer's teacher; see `logps` for the other arguments, and for what is zero."""
    [row] = _rows(trainer, input_ids, attention_mask, logits_to_keep)
    settings = {"temperature": trainer.temperature, "chunked": trainer.own.chunk_logps}
    with trainer.accelerator.autocast():  # the teacher is not wrapped in autocast
        with trainer.asked() as teacher:
            theirs = packed_model.head_of(teacher, row, copy=trainer.sharded)
        return packed_model.compared(model, theirs, row, beta=trainer.distill.beta, **settings)


def _rows(trainer: GRPOTrainer, input_ids, attention_mask, logits_to_keep: int, batch_size: int | None = None):
    """Yields the packed rows of a batch."""
    prompt, completion = slice(-logits_to_keep), slice(-logits_to_keep, None)
    for part in torch.arange(len(input_ids)).split(batch_size or len(input_ids)):
        ids, mask = input_ids[part], attention_mask[part]
        there, own = mask[:, completion], None if trainer.own_tokens is None else trainer.own_tokens[part]
        if trainer.accelerator.num_processes > 1:
            there = batches.not_empty(there)
            own = None if own is None or not (own * there).any() else own
        share = trainer.own.share_prompts
        yield packed.pack(ids[:, prompt], mask[:, prompt], ids[:, completion], there, own, share=share)
