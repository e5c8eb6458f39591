"""Splits a generation batch into micro-batches, and computes the importance ratio of their tokens."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from r1lab.grpo.trainer import GRPOTrainer

BY_TOKEN = (
    "completion_ids",
    "completion_mask",
    "old_per_token_logps",
    "ref_per_token_logps",
    "sampling_per_token_logps",
    "teacher_per_token_logps",
    "importance_sampling_ratio",
    "tool_mask",
)


def importance_ratio(difference: torch.Tensor, mode: str, low: float | None, high: float | None) -> torch.Tensor:
    """Returns the importance ratios that correct for the engine's numerics, which differ from the policy's.

    Args:
        difference: (B, C), the policy's log-probability less the engine's, 0 where masked.
        mode: TRL's `vllm_importance_sampling_mode`: the ratio per token or per sequence, clamped to the bounds
            (truncate) or 0 outside of them (mask).
        low, high: The bounds.

    Returns:
        (B, C), or (B, 1) per sequence.

    >>> importance_ratio(torch.tensor([[0.0, 2.0]]), "token_truncate", None, 3.0)
    tensor([[1., 3.]])
    >>> importance_ratio(torch.tensor([[0.0, 2.0]]), "sequence_mask", None, 3.0)
    tensor([[0.]])
    """
    level, _, how = mode.partition("_")
    ratio = (difference.sum(dim=1, keepdim=True) if level == "sequence" else difference).exp()
    if how == "truncate":
        return ratio.clamp(min=low, max=high)
    outside = (ratio < (0.0 if low is None else low)) | (ratio > (math.inf if high is None else high))
    return ratio.masked_fill(outside, 0.0)


def by_group(lengths: list[int], size: int, updates: int, *, rng: random.Random, sort: bool = True) -> list[int]:
    """Returns an order of rows in which groups stay together, and the groups of an update are sorted by length.

    Args:
        lengths: Tokens of each completion, group after group.
        size: Completions per group.
        updates: How many optimizer steps share the batch; each gets a random part of the groups.
        sort: Whether an update's groups are sorted by length, the longest first.

    >>> by_group([5, 1, 9, 9, 2, 2, 7, 7], 2, 1, rng=random.Random(0))
    [2, 3, 6, 7, 0, 1, 4, 5]
    """
    groups = [list(range(i, min(i + size, len(lengths)))) for i in range(0, len(lengths), size)]
    rng.shuffle(groups)
    share = -(-len(groups) // updates)
    order = []
    for i in range(0, len(groups), share):
        part = groups[i : i + share]
        order += sorted(part, key=lambda group: -max(lengths[row] for row in group)) if sort else part
    return [row for group in order for row in group]


OfRows = Sequence[int] | Mapping[int, int]
"""A number for each row."""


def by_tokens(order: list[int], lengths: OfRows, prompts: OfRows, size: int, budget: int) -> list[list[int]]:
    """Returns micro-batches of up to `budget` tokens, with a group's prompt counted once, in the given order.

    Args:
        order: The rows to use, with those of a group adjacent.
        lengths, prompts: Tokens of each row's completion and prompt.
        size: Completions per group; row // size is its group.
        budget: The limit in tokens. A larger group is split; a larger row is a micro-batch of its own.

    >>> by_tokens([2, 3, 0, 1], [5, 1, 9, 9], [2, 2, 2, 2], 2, 12)
    [[2], [3], [0, 1]]
    """
    groups: dict[int, list[int]] = {}
    for row in order:
        groups.setdefault(row // size, []).append(row)
    parts, used = [[]], 0
    for group in groups.values():
        whole = prompts[group[0]] + sum(lengths[row] for row in group)
        if parts[-1] and used + whole > budget:
            parts, used = [*parts, []], 0
        used += prompts[group[0]]
        for row in group:
            if parts[-1] and used + lengths[row] > budget:
                parts, used = [*parts, []], prompts[row]
            parts[-1].append(row)
            used += lengths[row]
    return [part for part in parts if part]


def rows(batch: dict, some: torch.Tensor) -> dict:
    """Returns some rows of a batch; values that are not per row stay whole."""
    size = len(batch["advantages"])
    return {
        key: value[some] if torch.is_tensor(value) and value.dim() and len(value) == size else value
        for key, value in batch.items()
    }


def trimmed(inputs: dict) -> dict:
    """Returns a batch without the columns after the longest completion."""
    longest = max(1, int(inputs["completion_mask"].sum(dim=1).max()))
    width = inputs["completion_mask"].size(1)
    # Ratios may be per sequence.
    keys = [key for key in BY_TOKEN if key in inputs and inputs[key].size(1) == width]
    return inputs | {key: inputs[key][:, :longest] for key in keys}


def without_replies(inputs: dict) -> dict:
    """Returns a batch whose log-probabilities are zero at tokens that the model did not sample.

    What stands there has no meaning, and may be NaN or large; the loss leaves these tokens out, but 0 times infinity
    is not 0.
    """
    if "tool_mask" not in inputs:
        return inputs
    own = inputs["tool_mask"].bool()
    names = [name for name in inputs if name.endswith("per_token_logps") and inputs[name] is not None]
    return inputs | {name: torch.where(own, inputs[name], 0.0) for name in names}


def tokens(accelerator, batch: dict) -> int:
    """Returns the number of completion tokens of a batch, over all ranks."""
    return int(accelerator.gather(batch["completion_mask"].sum()).sum())


def nothing(model) -> torch.Tensor:
    """Returns 0, as a function of every trained parameter."""
    return sum((p.sum() for p in model.parameters() if p.requires_grad), torch.zeros(())) * 0.0


def not_empty(mask: torch.Tensor) -> torch.Tensor:
    """Returns a mask of completions (B, C) with at least one token, for ranks that wait for each other in each pass.

    The loss has a mask of its own, which leaves such a token out.
    """
    if not mask.any():
        mask = mask.clone()
        mask[0, 0] = 1
    return mask


def loss_mask(batch: dict) -> torch.Tensor:
    """Returns (B, C), the tokens of the loss: those of the completions without the responses of tools."""
    return batch["completion_mask"] * batch.get("tool_mask", 1)


def micro_steps(trainer: GRPOTrainer, batch: dict) -> list[list[dict | None]]:
    """Returns the micro-batches of each of the steps into which TRL divides a generation batch.

    Args:
        trainer: Its settings decide.
        batch: The result of its `_generate_and_score_completions`.
    """
    steps, size = trainer.generation_steps, trainer.num_generations
    lengths = batch["completion_mask"].sum(dim=1).tolist()
    rng = random.Random(trainer.state.global_step)
    # Rows may be exchanged between the micro-steps of an update, but not between updates.
    together = math.gcd(steps, trainer.args.gradient_accumulation_steps)
    order = by_group(lengths, size, steps // together, rng=rng, sort=trainer.own.sort_by_length)
    if not trainer.by_rows:
        return [[rows(batch, part)] for part in torch.tensor(order).chunk(steps)]
    scored = loss_mask(batch).sum(dim=1)
    useful = torch.ones(len(lengths), dtype=torch.bool)
    if trainer.skips_no_signal:
        useful = (batch["advantages"] * (scored > 0)).cpu() != 0
    if trainer.overlapped is not None:
        useful[trainer.overlapped.settle(batch)] = False  # trained on already
    scored, prompts = scored.tolist(), batch["prompt_mask"].sum(dim=1).tolist()
    found = []
    for update in torch.tensor(order).chunk(steps // together):
        kept = update[useful[update]].tolist()
        # As many tokens as TRL's micro-batch with its padding, unless the recipe sets the number.
        budget = trainer.args.per_device_train_batch_size * (max(prompts) + max(lengths))
        parts = by_tokens(kept, lengths, prompts, size, trainer.own.max_tokens_per_microbatch or budget)
        # bnpo's mean over the tokens of a micro-batch is here a mean over the tokens of the update's share.
        total = sum(scored[row] for row in update.tolist())
        made = [
            rows(batch, torch.tensor(part, device=batch["advantages"].device))
            | {"share": share(trainer, part, scored, total, together)}
            for part in parts
        ]
        found += _dealt(trainer.accelerator, made, together, batch)
    return found


def share(trainer: GRPOTrainer, part: list[int], scored: list[int], tokens: float, steps: int) -> float:
    """Returns the weight of a micro-batch's loss, a mean over rows or tokens, relative to TRL's micro-batches."""
    if trainer.loss_type in ("dapo", "cispo", "vespo"):
        return 1.0  # a sum divided by a fixed number of tokens
    if trainer.loss_type == "bnpo":
        return sum(scored[row] for row in part) / max(1, tokens) * steps
    return len(part) / trainer.args.per_device_train_batch_size


def _dealt(accelerator, parts: list[dict], steps: int, batch: dict) -> list[list[dict | None]]:
    """Distributes micro-batches over micro-steps, the same number on all ranks.

    A rank with too few gets None instead. With several ranks it gets a row of weight 0 instead, because TRL's loss
    gathers its metrics, and sharded layers their weights, on all ranks at the same time.
    """
    filler = None
    if accelerator.num_processes > 1:
        shortest = int(batch["completion_mask"].sum(dim=1).clamp(min=1).argmin())
        filler = rows(batch, torch.tensor([shortest], device=batch["advantages"].device)) | {"share": 0.0}
    most = max(steps, int(accelerator.gather(torch.tensor(len(parts), device=accelerator.device)).max()))
    padded = [*parts, *[filler] * (most - len(parts))]
    return [padded[i::steps] for i in range(steps)]


@contextmanager
def held_back(trainer: GRPOTrainer, model) -> Iterator[None]:
    """A context in which gradients are not synchronized between ranks, as in gradient accumulation.

    Sharded gradients always are: otherwise each rank would keep those of all weights until the end of the step.
    """
    if trainer.is_fsdp_enabled:
        yield
        return
    state = trainer.accelerator.gradient_state
    last = state.sync_gradients
    state._set_sync_gradients(False)
    try:
        with trainer.accelerator.no_sync(model):
            yield
    finally:
        state._set_sync_gradients(last)


class Uneven:
    """An accelerator whose ranks may gather different numbers of values: NaN replaces those that a rank lacks."""

    def __init__(self, accelerator):
        self._accelerator = accelerator

    def __getattr__(self, name: str):
        return getattr(self._accelerator, name)

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns the values of all ranks, one rank after another."""
        if tensor.dim():
            tensor = self._accelerator.pad_across_processes(tensor, pad_index=math.nan)
        return self._accelerator.gather(tensor)
