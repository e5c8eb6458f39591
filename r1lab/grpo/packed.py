"""Packs prompts and completions into one row without padding, with each group's prompt once.

TRL runs every completion with its own copy of the prompt, all padded to the longest. Here the distinct prompts of a
micro-batch and their completions are adjacent in a single row, so that all layers except attention process each token
once and no padding; in attention, a completion sees its prompt and itself. Loss and gradient are the same (Prefix
Grouper, arXiv:2506.05433, does this per group).
"""

import functools
import sys
from dataclasses import dataclass, field, replace

import torch

LIKE = 0.75  # a sequence shorter than this share of the longest in its part starts a new part


@dataclass
class Part:
    """Sequences of similar length whose attention is computed together.

    Attributes:
        tokens: Their number of tokens in the row.
        queries: (n, L), indices into the row; shorter sequences repeat their last index.
        keys: (n, K), indices into the row.
        kept: (N,), which of the n * L queries are tokens of the row, in the row's order.
        distance: (n, L, K), how many tokens a key is before the query; negative if the query must not see it.
        whole_keys: (M,), the keys of all sequences, one sequence after another, without padding.
        key_lengths, lengths: (n,), keys and queries of each sequence, without padding.
    """

    tokens: int
    queries: torch.Tensor
    keys: torch.Tensor
    kept: torch.Tensor
    distance: torch.Tensor
    whole_keys: torch.Tensor
    key_lengths: torch.Tensor
    lengths: torch.Tensor
    masks: dict = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Returns (n, 1, L, K), 0 where a query sees a key and the lowest number elsewhere."""
        if (window, dtype) not in self.masks:
            hidden = (self.distance < 0) | (self.distance >= (window or sys.maxsize))
            mask = torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)
            self.masks[window, dtype] = mask[:, None]
        return self.masks[window, dtype]


@dataclass
class Packed:
    """A micro-batch as one row.

    Attributes:
        ids, positions: (1, T), tokens and their positions in their sequences.
        parts: The sequences by length, in the row's order.
        places: (N,), the index of the hidden state that predicts each scored token.
        targets: (N,), the scored tokens, completion after completion.
        mask: (D, C), which tokens of each distinct completion are scored.
        scored, twin: (S,), the rows of the micro-batch that are scored, and which of the D completions each is.
        size: B, the number of rows of the micro-batch.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    parts: list[Part]
    places: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    scored: torch.Tensor
    twin: torch.Tensor
    size: int

    def to(self, device) -> "Packed":
        """Returns the same row on another device."""
        tensors = {k: v.to(device) for k, v in vars(self).items() if torch.is_tensor(v)}
        parts = [
            replace(part, masks={}, **{k: v.to(device) for k, v in vars(part).items() if torch.is_tensor(v)})
            for part in self.parts
        ]
        return replace(self, parts=parts, **tensors)

    @functools.cached_property
    def sequences(self) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, int, int]]:
        """The keys of all sequences, where the queries and keys of each begin, and the maximum length of both."""
        lengths, key_lengths = (
            torch.cat([getattr(part, name) for part in self.parts]) for name in ("lengths", "key_lengths")
        )
        starts, key_starts = (torch.nn.functional.pad(x.cumsum(0), (1, 0)).int() for x in (lengths, key_lengths))
        keys = torch.cat([part.whole_keys for part in self.parts])
        return keys, (starts, key_starts, int(lengths.max()), int(key_lengths.max()))

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """Returns (N,) values of the scored tokens as (B, C), zero elsewhere."""
        table = values.new_zeros(self.mask.shape).masked_scatter(self.mask, values)
        whole = values.new_zeros(self.size, self.mask.size(1))
        return whole.index_copy(0, self.scored, table.index_select(0, self.twin))


def pack(
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    own: torch.Tensor | None = None,
    *,
    share: bool = True,
) -> Packed:
    """Packs a micro-batch into one row.

    Args:
        prompt_ids, prompt_mask: (B, P), padded on the left; rows of one group are equal.
        completion_ids, completion_mask: (B, C), padded on the right.
        own: (B, C), which of these tokens are scored; None for all. The others are only read, such as the replies of
            an environment. Rows without a scored token are left out.
        share: Whether equal prompts, and equal completions of them, are computed once; else each row has its own.
    """
    device = completion_ids.device
    own = completion_mask if own is None else own * completion_mask
    scored = own.any(dim=1).nonzero().squeeze(1)
    prompts = torch.cat([prompt_ids * prompt_mask, prompt_mask], dim=1)
    completions = torch.cat([completion_ids * completion_mask, completion_mask, own], dim=1)
    if share:
        rows, twin = _distinct(torch.cat([prompts, completions], dim=1), scored)
        first, group = _distinct(prompts, rows)
    else:
        rows, twin = scored, torch.arange(len(scored), device=device)
        first, group = rows, twin
    lengths = prompt_mask[first].sum(dim=1)
    order, slices = parts(lengths.tolist())
    first = first[order]
    lengths, group = lengths[order], torch.argsort(torch.tensor(order, device=device))[group]
    starts = lengths.cumsum(0) - lengths
    ends = starts + lengths - 1
    made = [_part(starts[c], lengths[c]) for c in slices if len(rows)]
    total = int(lengths.sum())
    ids = [prompt_ids[first][prompt_mask[first].bool()]]
    places = torch.arange(prompt_mask.size(1), device=device) - (prompt_mask.size(1) - lengths)[:, None]
    positions = [places[prompt_mask[first].bool()]]

    # The last token of a completion predicts no scored token, so it is not in the row.
    counts = completion_mask[rows].sum(dim=1)
    begins = torch.zeros_like(counts)
    longer = (counts > 1).nonzero().squeeze(1)
    if len(longer):
        order, slices = parts((counts[longer] - 1).tolist())
        longer = longer[order]
        its = counts[longer] - 1
        begins[longer] = total + its.cumsum(0) - its
        for c in slices:
            some = longer[c]
            g = group[some]
            made.append(_part(begins[some], counts[some] - 1, (starts[g], lengths[g])))
        column = torch.arange(completion_ids.size(1), device=device)
        inside = column < its[:, None]
        ids.append(completion_ids[rows[longer]][inside])
        positions.append((lengths[group[longer]][:, None] + column)[inside])

    column = torch.arange(completion_ids.size(1), device=device)
    places = torch.where(column == 0, ends[group][:, None], begins[:, None] + column - 1)
    mask = own[rows].bool()
    return Packed(
        ids=torch.cat(ids)[None],
        positions=torch.cat(positions)[None],
        parts=made,
        places=places[mask],
        targets=completion_ids[rows][mask],
        mask=mask,
        scored=scored,
        twin=twin,
        size=len(completion_ids),
    )


def _distinct(values: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the first of each set of equal rows, in their order, and for each row the index of its equal there."""
    _, inverse = torch.unique(values[rows], dim=0, return_inverse=True)
    count = int(inverse.max()) + 1 if len(inverse) else 0
    place = torch.arange(len(rows), device=rows.device)
    first = torch.full((count,), len(rows), device=rows.device).scatter_reduce(0, inverse, place, "amin")
    order = first.argsort()
    return rows[first[order]], order.argsort()[inverse]


def _part(starts, lengths, prompts: tuple[torch.Tensor, torch.Tensor] | None = None) -> Part:
    """Builds a part: sequences that begin at `starts` and see themselves and `prompts` (starts, lengths)."""
    column = torch.arange(int(lengths.max()), device=lengths.device)
    queries = starts[:, None] + torch.minimum(column, lengths[:, None] - 1)
    kept = (column < lengths[:, None]).flatten().nonzero().squeeze(1)
    distance = (column[:, None] - column).expand(len(lengths), -1, -1)
    keys, known, key_lengths = queries, column < lengths[:, None], lengths
    if prompts is not None:
        prompt_starts, prompt_lengths = prompts
        before = torch.arange(int(prompt_lengths.max()), device=lengths.device)
        keys = torch.cat([prompt_starts[:, None] + torch.minimum(before, prompt_lengths[:, None] - 1), queries], dim=1)
        behind = prompt_lengths[:, None, None] + column[:, None] - before
        behind = torch.where(before < prompt_lengths[:, None, None], behind, -1)
        distance = torch.cat([behind, distance], dim=2)
        known = torch.cat([before < prompt_lengths[:, None], known], dim=1)
        key_lengths = prompt_lengths + lengths
    return Part(len(kept), queries, keys, kept, distance, keys[known], key_lengths, lengths)


def parts(lengths: list[int]) -> tuple[list[int], list[slice]]:
    """Returns an order by length, the longest first, and its slices of similar length.

    >>> parts([10, 100, 9, 90])
    ([1, 3, 0, 2], [slice(0, 2, None), slice(2, 4, None)])
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    cuts = [0]
    for place, i in enumerate(order):
        if lengths[i] < LIKE * lengths[order[cuts[-1]]]:
            cuts.append(place)
    return order, [slice(a, b) for a, b in zip(cuts, [*cuts[1:], len(order)])]
