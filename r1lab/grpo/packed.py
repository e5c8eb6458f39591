"""Packs prompts and completions into one row without padding, with each group's prompt once, and its attention.

TRL runs every completion with its own copy of the prompt, all padded to the longest. Here the distinct prompts of a
micro-batch and their completions are adjacent in a single row, so that all layers except attention process each token
once and no padding; in attention, a completion sees its prompt and itself. Loss and gradient are the same (Prefix
Grouper, arXiv:2506.05433, does this per group).
"""

import functools
import sys
import types
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch.distributed.tensor import DTensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface
from trl.trainer.utils import maybe_gather_lm_head_ctx

from r1lab.grpo.batches import nothing
from r1lab.grpo.head import token_logps

LIKE = 0.75  # a sequence shorter than this share of the longest in its part starts a new part
PREFIX = "r1lab_packed_"
# Nats. On an unsupported architecture, packed rows differ by more than this; rounding differs by less.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.3}


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
    *,
    share: bool = True,
) -> Packed:
    """Packs a micro-batch into one row.

    Args:
        prompt_ids, prompt_mask: (B, P), padded on the left; rows of one group are equal.
        completion_ids, completion_mask: (B, C), padded on the right. Fully masked rows are left out.
        share: Whether equal prompts, and equal completions of them, are computed once; else each row has its own.
    """
    device = completion_ids.device
    scored = completion_mask.any(dim=1).nonzero().squeeze(1)
    prompts = torch.cat([prompt_ids * prompt_mask, prompt_mask], dim=1)
    completions = torch.cat([completion_ids * completion_mask, completion_mask], dim=1)
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
    mask = completion_mask[rows].bool()
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


def attend(original: str, module, query, key, value, attention_mask, *, packed: Packed | None = None, **kwargs):
    """Runs the model's own attention, part by part for a packed row.

    Args:
        original: The name of the model's attention implementation.
        query, key, value: (1, heads, T, head size).
        packed: The layout of prompts and completions; None runs the model's attention unchanged.
    """
    if original == "eager":
        function = sys.modules[type(module).__module__].eager_attention_forward
    else:
        function = ALL_ATTENTION_FUNCTIONS[original]
    if packed is None:
        return function(module, query, key, value, attention_mask, **kwargs)
    if torch.is_autocast_enabled(query.device.type):  # attention would do so, but a kernel is chosen before
        low = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(low), key.to(low), value.to(low)
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))  # (T, heads, head size)
    if original == "sdpa" and can_vary(query, value, kwargs):
        return varying(packed, queries, keys, values, kwargs)[None], None
    outputs = []
    for part in packed.parts:
        n = len(part.queries)
        q, k, v = (
            x.flatten(1).index_select(0, places.flatten()).view(n, places.size(1), *x.shape[1:]).transpose(1, 2)
            for x, places in zip((queries, keys, values), (part.queries, part.keys, part.keys))
        )
        output, _ = function(module, q, k, v, part.mask(kwargs.get("sliding_window"), query.dtype), **kwargs)
        outputs.append(output.reshape(n * part.queries.size(1), -1).index_select(0, part.kept))
    return torch.cat(outputs).view(1, query.size(2), query.size(1), -1), None


def can_vary(query: torch.Tensor, value: torch.Tensor, kwargs: dict) -> bool:
    """Whether this layer can use torch's attention for sequences of varying length, which needs no padding.

    The kernel is tried once on the device and compared with plain attention; if it fails or differs, a line says so.
    """
    plain = not kwargs.get("dropout") and kwargs.get("softcap") is None and kwargs.get("s_aux") is None
    half = query.dtype in (torch.bfloat16, torch.float16)
    return plain and half and query.is_cuda and query.size(-1) == value.size(-1) <= 256 and _kernel_works()


@functools.cache
def _kernel_works() -> bool:
    g = torch.Generator().manual_seed(0)
    ones, ids = torch.ones(4, 7, dtype=torch.long), torch.arange(2).repeat_interleave(2)[:, None].expand(4, 7)
    row = pack(ids, ones, ids, ones * (torch.arange(7) < torch.tensor([[7], [3], [5], [1]]))).to("cuda")
    q, k, v = (torch.randn(1, heads, row.ids.size(1), 64, generator=g).cuda().bfloat16() for heads in (4, 2, 2))
    layer = types.SimpleNamespace(num_key_value_groups=2)
    settings = {"scaling": 0.125, "sliding_window": 6}
    try:
        ours = varying(row, q[0].transpose(0, 1), k[0].transpose(0, 1), v[0].transpose(0, 1), settings)
    except (RuntimeError, ImportError) as error:
        print(f"attention is padded to similar lengths: torch's varlen_attn: {str(error).splitlines()[0]}", flush=True)
        return False
    plain, _ = attend("sdpa", layer, q.float(), k.float(), v.float(), None, packed=row, **settings)
    gap = (ours.float() - plain[0]).abs().max().item()
    if gap > 0.03:
        print(
            f"attention is padded to similar lengths: torch's varlen_attn differs by {gap:.2g} from sdpa", flush=True
        )
    return gap <= 0.03


def varying(packed: Packed, query, key, value, kwargs: dict) -> torch.Tensor:
    """Runs the attention of all sequences of a row in one call without padding; (T, heads, head size) in and out."""
    from torch.nn.attention.varlen import varlen_attn

    keys, bounds = packed.sequences
    window = kwargs.get("sliding_window")
    return varlen_attn(  # pyright: ignore[reportReturnType]  a pair only with `return_aux`
        query.contiguous(),
        key.index_select(0, keys),
        value.index_select(0, keys),
        *bounds,
        scale=kwargs.get("scaling"),
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.size(1) != key.size(1),
    )


def install(model, *, temperature: float = 1.0, cast_head: bool = False, try_it: bool = True) -> str | None:
    """Makes a decoder run packed rows: `model(packed=row)` returns log-probabilities and entropies.

    Args:
        model: A causal language model of transformers, not wrapped, with TRL's fused head.
        temperature: The temperature of TRL's fused head.
        cast_head: Whether the head runs in float32.
        try_it: Whether to compare a small packed row with padded ones, which sharded weights do not allow.

    Returns:
        None, or the reason why this model cannot; then it is unchanged.
    """
    config = model.config.get_text_config()
    original = config._attn_implementation.removeprefix(PREFIX)
    kinds = set(getattr(config, "layer_types", None) or ())
    scales = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    if config is not model.config:
        return f"{type(model).__name__} is multimodal"
    if not model._supports_attention_backend:
        return f"{type(model).__name__} does not support another attention function"
    if kinds - {"full_attention", "sliding_attention"}:
        return f"its layers are {', '.join(sorted(kinds))}, and only attention works without padding"
    if original not in ("sdpa", "eager"):
        return f"attn_implementation is {original}, and only sdpa and eager can share prompts"
    if any(getattr(config, name, None) not in (None, 1) for name in scales):
        return f"{type(model).__name__} scales its logits"
    name = PREFIX + original
    AttentionInterface.register(name, partial(attend, original))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[original])
    config._attn_implementation = name
    fused = model.forward
    softcap = getattr(config, "final_logit_softcapping", None)

    @functools.wraps(type(model).forward)  # `generate` inspects the signature
    def forward(self, *args, packed=None, temperature=1.0, chunked=True, **kwargs):
        if packed is None:
            return fused(*args, **kwargs)
        # transformers does not change a four-dimensional mask, and `attend` ignores it.
        mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=packed.ids.device)
        out = self.base_model(
            input_ids=packed.ids, attention_mask=mask, position_ids=packed.positions, use_cache=False, packed=packed
        )
        hidden, head = out.last_hidden_state[0].index_select(0, packed.places), self.get_output_embeddings()
        weight, bias = head.weight, head.bias
        if isinstance(weight, DTensor):  # sharded by FSDP2, unlike the hidden states
            weight, bias = weight.full_tensor(), None if bias is None else bias.full_tensor()
        autocast = torch.autocast(hidden.device.type, enabled=False) if cast_head else nullcontext()
        with autocast, maybe_gather_lm_head_ctx(head.weight, head.bias):
            return token_logps(
                hidden.float() if cast_head else hidden,
                weight,
                bias,
                packed.targets,
                temperature=temperature,
                softcap=softcap,
                chunked=chunked,
            )

    model.forward = types.MethodType(forward, model)
    if try_it and (why := _misfit(model, temperature)):
        config._attn_implementation, model.forward = original, fused
        return f"{type(model).__name__} {why}"
    return None


@torch.no_grad()
def _misfit(model, temperature: float) -> str | None:
    """Returns why a model cannot use packed rows: a small one fails, or its log-probabilities are different."""
    device, vocabulary, g = model.device, model.config.get_text_config().vocab_size, torch.Generator().manual_seed(0)
    prompts = torch.randint(vocabulary, (2, 6), generator=g).repeat_interleave(2, dim=0).to(device)
    completions = torch.randint(vocabulary, (4, 9), generator=g).to(device)
    mask = (torch.arange(9) < torch.tensor([[9], [4], [1], [8]])).long().to(device)
    prompt_mask = torch.ones_like(prompts)
    prompt_mask[2:, :2] = 0
    ids, masks = torch.cat([prompts, completions], dim=1), torch.cat([prompt_mask, mask], dim=1)
    labels = torch.cat([torch.full_like(prompts, -100), completions.masked_fill(mask == 0, -100)], dim=1)
    was_training = model.training
    model.eval()
    try:
        ours, _ = logps(model, pack(prompts, prompt_mask, completions, mask), temperature=temperature)
        plain = model(input_ids=ids, attention_mask=masks, labels=labels, fused_lm_head=True).log_probs[:, -9:]
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:  # the forward is not known here
        return f"fails on packed rows: {str(error).partition(chr(10))[0]}"
    finally:
        model.train(was_training)
    gap = (ours - plain).abs().max().item()
    fits = gap <= TOLERANCE[model.dtype]
    return None if fits else f"gives log-probabilities that differ by {gap:.2g} nats in packed rows"


def logps(model, row: Packed, *, temperature: float = 1.0, chunked: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the log-probability and entropy of each scored token, both (B, C), zero elsewhere."""
    if len(row.targets) == 0:  # still a function of every parameter
        whole = nothing(model) * torch.ones(row.size, row.mask.size(1), device=row.ids.device)
        return whole, whole
    found, entropies = model(packed=row, temperature=temperature, chunked=chunked)
    return row.unpack(found), row.unpack(entropies)
