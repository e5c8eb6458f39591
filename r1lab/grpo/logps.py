"""Log-probabilities of completions, with the prompt of a group computed once and almost no padding.

TRL runs every completion with its own copy of the prompt, all padded to the longest. Here each distinct prompt of a
batch is run once with a key-value cache, and the completions run on that cache in parts of like length. Gradients flow
through the cache, so loss and gradient are the same (Prefix Grouper, arXiv:2506.05433, does it inside attention).
"""

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

LIKE = 0.75  # a completion shorter than this share of the longest in its part starts a part of its own


def completion_logps(
    model,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of each token of each completion.

    Args:
        model: A decoder with TRL's fused head (`trl.trainer.utils.add_fused_lm_head`).
        prompt_ids: (B, P), padded on the left; rows of one group are equal.
        prompt_mask: (B, P).
        completion_ids: (B, C), padded on the right.
        completion_mask: (B, C). Rows that are masked as a whole come back as zeros.

    Returns:
        `(logps, entropies)`, both (B, C), zero where masked.
    """
    rows = completion_mask.any(dim=1).nonzero().squeeze(1)
    if len(rows) == 0:  # still a function of every parameter
        nothing = completion_mask * (sum(p.sum() for p in model.parameters() if p.requires_grad) * 0.0)
        return nothing, nothing
    distinct, group = torch.unique(prompt_ids[rows], dim=0, return_inverse=True)
    first = torch.zeros(len(distinct), dtype=torch.long, device=rows.device)
    first[group] = rows  # some row of each group, whose mask is the group's
    masks = prompt_mask[first]
    width = int(masks.sum(dim=1).max())
    distinct, masks = distinct[:, -width:], masks[:, -width:]
    # The last token of the prompt goes with the completions: it predicts their first.
    cache = DynamicCache()
    if width > 1:
        model(
            input_ids=distinct[:, :-1],
            attention_mask=masks[:, :-1],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    lengths = completion_mask.sum(dim=1)
    logps, entropies, order = [], [], []
    for part in parts(lengths[rows].tolist()):
        some = rows[part]
        its, longest = group[part], int(lengths[some].max())
        past = DynamicCache([(keys[its], values[its]) for keys, values in layers])
        ids = torch.cat([distinct[its, -1:], completion_ids[some, :longest]], dim=1)
        scored = completion_mask[some, :longest]
        out = model(
            input_ids=ids,
            attention_mask=torch.cat([masks[its], scored], dim=1),
            past_key_values=past,
            labels=pad(completion_ids[some, :longest].masked_fill(scored == 0, -100), (1, 0), value=-100),
            fused_lm_head=True,
        )
        blank = (0, completion_ids.size(1) - longest)
        logps.append(pad(out.log_probs, blank))
        entropies.append(pad(out.entropy, blank))
        order.append(some)
    place = torch.cat(order)
    empty = completion_mask.new_zeros(completion_mask.shape, dtype=logps[0].dtype)
    return empty.index_copy(0, place, torch.cat(logps)), empty.index_copy(0, place, torch.cat(entropies))


def parts(lengths: list[int]) -> list[list[int]]:
    """Indices in parts of like length, the longest first.

    >>> parts([10, 100, 9, 90])
    [[1, 3], [0, 2]]
    """
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not found or lengths[i] < LIKE * lengths[found[-1][0]]:
            found.append([])
        found[-1].append(i)
    return found
