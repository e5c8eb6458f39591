"""Rows of a generation batch put into micro-batches, and the importance ratio of their tokens."""

import math
import random

import torch

BY_TOKEN = (
    "completion_ids",
    "completion_mask",
    "old_per_token_logps",
    "ref_per_token_logps",
    "sampling_per_token_logps",
    "importance_sampling_ratio",
)


def importance_ratio(difference: torch.Tensor, mode: str, low: float | None, high: float | None) -> torch.Tensor:
    """The correction for what the engine samples with other numerics than the policy's.

    Args:
        difference: (B, C), log-probability of the policy less that of the engine, 0 where masked.
        mode: TRL's `vllm_importance_sampling_mode`: the ratio of each token or of the sequence, cut to the bounds
            (truncate) or 0 outside of them (mask).
        low, high: The bounds.

    Returns:
        (B, C), or (B, 1) for a sequence.

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
    """Rows in an order in which groups stay together; of the groups of an update those of like length are neighbours.

    Args:
        lengths: Of the completions, group after group.
        size: Completions of a group.
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


def by_tokens(order: list[int], lengths: list[int], prompts: list[int], size: int, budget: int) -> list[list[int]]:
    """Micro-batches of at most `budget` tokens, a group's prompt counted once, in the order given.

    Args:
        order: Rows to take, those of a group one after another.
        lengths, prompts: Tokens of each row's completion and prompt.
        size: Completions of a group; row // size is its group.
        budget: In tokens. A group above it is split; a row above it stands alone.

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
    """Some rows of a batch; what is no row of its own stays whole."""
    size = len(batch["advantages"])
    return {
        key: value[some] if torch.is_tensor(value) and value.dim() and len(value) == size else value
        for key, value in batch.items()
    }


def trimmed(inputs: dict) -> dict:
    """A batch without the columns in which all completions have ended."""
    longest = max(1, int(inputs["completion_mask"].sum(dim=1).max()))
    width = inputs["completion_mask"].size(1)
    cut = [key for key in BY_TOKEN if key in inputs and inputs[key].size(1) == width]  # ratios may be one a sequence
    return inputs | {key: inputs[key][:, :longest] for key in cut}
