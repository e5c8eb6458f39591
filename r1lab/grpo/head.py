"""Log-probabilities from hidden states in chunks, so that logits of the whole vocabulary never exist at once."""

from collections.abc import Iterator, Sequence

import torch
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

CHUNK_BYTES = 2**27
"""Memory of the logits of one chunk; two such buffers exist at a time, for any vocabulary and batch."""
Chunks = Iterator[tuple[slice, torch.Tensor, torch.Tensor | None]]


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

        def chunks() -> Chunks:
            for part in slices(len(hidden), rows):
                z, p = None, kept
                if p is None:
                    z = logits(hidden[part], weight, bias, temperature, softcap)
                    p = z.softmax(-1)
                grad = None
                if grad_entropies is not None:
                    grad = -grad_entropies[part, None] * (torch.xlogy(p, p) + p * entropies[part, None])
                if grad_logps is not None:
                    pull = of_logps(grad_logps[part], p, targets[part])
                    grad = pull if grad is None else pull + grad
                assert grad is not None  # autograd calls this for at least one of the two
                yield part, grad, z

        return *of_inputs(hidden, weight, bias, chunks(), ctx.needs_input_grad, temperature, softcap), None, None, None


def of_logps(grad: torch.Tensor, p: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the gradient of the scaled logits, (N, V), from that of the targets' log-probabilities, (N,).

    Args:
        p: (N, V), the probabilities.
    """
    pull = -grad[:, None] * p
    return pull.scatter_add_(-1, targets[:, None], grad[:, None])


def of_inputs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    chunks: Chunks,
    needed: Sequence[bool],
    temperature: float,
    softcap: float | None,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Returns the gradients of the hidden states, the weight and the bias, those that are `needed`.

    Args:
        chunks: For each chunk its rows, the gradient of its scaled logits, and, with a softcap, these logits.
    """
    dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    # Summed over chunks in the precision of the logits: bfloat16 sums would drift.
    grad_hidden = torch.empty_like(hidden) if needed[0] else None
    grad_weight = torch.zeros_like(weight, dtype=dtype) if needed[1] else None
    grad_bias = torch.zeros_like(bias, dtype=dtype) if bias is not None and needed[2] else None
    for part, grad, z in chunks:
        if temperature != 1:
            grad /= temperature
        if softcap is not None:
            assert z is not None
            grad *= 1 - (z * temperature / softcap) ** 2
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
        None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
    )


def slices(count: int, size: int) -> list[slice]:
    """Returns the chunks of `count` rows, of up to `size` rows each."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
