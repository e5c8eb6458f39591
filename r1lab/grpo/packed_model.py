"""Models that run packed rows (`r1lab.grpo.packed`): their attention, and the log-probabilities of a row."""

import functools
import sys
import types
from contextlib import nullcontext
from functools import partial

import torch
from torch.distributed.tensor import DTensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface
from trl.trainer.utils import maybe_gather_lm_head_ctx

from r1lab.grpo.batches import nothing
from r1lab.grpo.divergence import Compared, Head, compare, keep_head
from r1lab.grpo.head import token_logps
from r1lab.grpo.packed import Packed, pack

PREFIX = "r1lab_packed_"
# Nats. On an unsupported architecture, packed rows differ by more than this; rounding differs by less.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.3}


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

    `model(packed=row, score=function)` returns the result of another function with the arguments of `token_logps`.

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
    def forward(self, *args, packed=None, temperature=1.0, chunked=True, score=token_logps, **kwargs):
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
            return score(
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


def head_of(teacher, row: Packed, *, copy: bool = False) -> Head | None:
    """Returns a teacher's head and hidden states of a row, for `compared`; None if no token is scored.

    Args:
        copy: See `r1lab.grpo.divergence.keep_head`.
    """
    return teacher(packed=row, score=partial(keep_head, copy=copy)) if len(row.targets) else None


def compared(
    model, theirs: Head | None, row: Packed, *, beta: float, temperature: float = 1.0, chunked: bool = True
) -> Compared:
    """Compares a model with a teacher that has run the same row; the figures are (B, C), zero elsewhere.

    Args:
        theirs: The result of `head_of` for the teacher.
        beta, temperature, chunked: See `r1lab.grpo.divergence.compare`.
    """
    if theirs is None:  # still a function of every parameter
        return Compared(*[nothing(model) * torch.ones(row.size, row.mask.size(1), device=row.ids.device)] * 4)
    score = partial(compare, teacher=theirs, beta=beta)
    return Compared(*map(row.unpack, model(packed=row, temperature=temperature, chunked=chunked, score=score)))
