"""Log-probabilities from hidden states in chunks, so that logits of the whole vocabulary never exist at once."""

import torch
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

CHUNK_BYTES = 2**27
"""Memory of the logits of one chunk; two such buffers exist at a time, for any vocabulary and batch."""


def token_logps(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    chunked: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the log-probability of each target, and the entropy of its distribution, in nats.

    On CUDA this is TRL's Triton kernel, in float32; elsewhere, and in float64, the function below.

    Args:
        hidden: (N, H), the hidden state that predicts each target.
        weight: (V, H), of the head.
        bias: (V,) or None.
        targets: (N,), token ids.
        temperature: Logits are divided by it.
        softcap: Gemma 2's: logits become `softcap * tanh(logits / softcap)`.
        chunked: False computes all logits at once, by plain autograd.

    Returns:
        `(logps, entropies)`, both (N,), in float32 or, for float64 hidden states, in float64.
    """
    if not chunked:
        z = logits(hidden, weight, bias, temperature, softcap)
        logps = z.log_softmax(-1)
        return logps.gather(-1, targets[:, None]).squeeze(-1), -(logps.exp() * logps).sum(-1)
    if hidden.is_cuda and hidden.dtype != torch.float64:
        logps, entropies, *_ = ChunkedLogProbFunction.apply(
            hidden, weight, bias, targets, temperature, 32768, softcap, 1.0, ("entropy",)
        )
        return logps, entropies
    return _TokenLogps.apply(hidden, weight, bias, targets, temperature, softcap)


def logits(hidden, weight, bias, temperature, softcap) -> torch.Tensor:
    """Returns (N, V), in float32 or float64; the arguments are those of `token_logps`."""
    z = torch.nn.functional.linear(hidden, weight, bias)
    if z.dtype != torch.float64:
        z = z.float()
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    return z if temperature == 1 else z / temperature


class _TokenLogps(torch.autograd.Function):
    """Softmax with a manual gradient: d logp / dz = onehot - p, d entropy / dz = -p (log p + entropy).

    If all logits fit in one chunk, the probabilities are kept for the backward pass; else the backward pass computes
    each chunk's logits again, a fourth matrix product in addition to three.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature, softcap):
        ctx.set_materialize_grads(False)  # the entropy is usually only logged
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        rows = max(1, CHUNK_BYTES // (len(weight) * dtype.itemsize))
        logps, entropies = hidden.new_empty(len(hidden), dtype=dtype), hidden.new_empty(len(hidden), dtype=dtype)
        p = None
        for part in slices(len(hidden), rows):
            all_logps = logits(hidden[part], weight, bias, temperature, softcap).log_softmax(-1)
            p = all_logps.exp()
            logps[part] = all_logps.gather(-1, targets[part, None]).squeeze(-1)
            entropies[part] = -torch.linalg.vecdot(p, all_logps)
        kept = p if len(hidden) <= rows and any(ctx.needs_input_grad) and softcap is None else None
        ctx.save_for_backward(hidden, weight, bias, targets, entropies, kept)
        ctx.settings = temperature, softcap, rows
        return logps, entropies

    @staticmethod
    def backward(ctx, *grad_outputs):
        grad_logps, grad_entropies = grad_outputs
        hidden, weight, bias, targets, entropies, kept = ctx.saved_tensors
        temperature, softcap, rows = ctx.settings
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        # Summed over chunks in the precision of the logits: bfloat16 sums would drift.
        grad_hidden = torch.empty_like(hidden) if to_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=entropies.dtype) if to_weight else None
        grad_bias = torch.zeros_like(bias, dtype=entropies.dtype) if to_bias else None
        for part in slices(len(hidden), rows):
            slope = None
            if kept is not None:
                p = kept
            else:
                z = logits(hidden[part], weight, bias, temperature, softcap)
                if softcap is not None:
                    slope = 1 - (z * temperature / softcap) ** 2
                p = z.softmax(-1)
            grad = None
            if grad_entropies is not None:
                grad = -grad_entropies[part, None] * (torch.xlogy(p, p) + p * entropies[part, None])
            if grad_logps is not None:
                pull = -grad_logps[part, None] * p
                pull.scatter_add_(-1, targets[part, None], grad_logps[part, None])
                grad = pull if grad is None else pull + grad
            assert grad is not None  # autograd calls this for at least one of the two
            if temperature != 1:
                grad = grad / temperature
            if slope is not None:
                grad = grad * slope
            low = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(low, weight, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight += low.t() @ hidden[part]
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
            None,
        )


def slices(count: int, size: int) -> list[slice]:
    """Returns the chunks of `count` rows, of up to `size` rows each."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
