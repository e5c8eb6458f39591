"""How far a student's next-token distributions are from a teacher's, over the whole vocabulary, in chunks of tokens.

The divergence is TRL's generalized Jensen-Shannon divergence (`trl.experimental.gkd`; arXiv:2306.13649, equation 1)
with TRL's convention for `beta`. For a student p and a teacher q:

- 0: the forward KL(q || p), which covers all that the teacher does;
- 1: the reverse KL(p || q), which seeks what the teacher does most;
- between: beta KL(q || m) + (1 - beta) KL(p || m) with m = beta q + (1 - beta) p, which is bounded. As beta approaches
  0 or 1 it approaches 0 and not one of the two KLs, so a small beta needs a larger learning rate.
"""

import math
from typing import NamedTuple

import torch

from r1lab.grpo import head


class Head(NamedTuple):
    """What a model's logits are computed from.

    Attributes:
        hidden: (N, H), the hidden state that predicts each token.
        weight, bias: (V, H) and (V,) or None, of the head.
        softcap: See `r1lab.grpo.head.token_logps`.
    """

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    softcap: float | None


class Compared(NamedTuple):
    """Four figures of each token, in nats, (N,) or (B, C).

    Attributes:
        logps, entropies: The log-probability under the student, and the entropy of its distribution.
        divergences: Between the distributions of student and teacher.
        teacher_logps: The log-probability under the teacher.
    """

    logps: torch.Tensor
    entropies: torch.Tensor
    divergences: torch.Tensor
    teacher_logps: torch.Tensor


def keep_head(hidden, weight, bias, targets, *, softcap: float | None = None, copy: bool = False, **_) -> Head:
    """Returns a model's head itself, in the place of `r1lab.grpo.head.token_logps`.

    Args:
        copy: Whether to copy its weights, which a sharded model drops after its forward pass.
    """
    if copy:
        weight, bias = weight.clone(), None if bias is None else bias.clone()
    return Head(hidden, weight, bias, softcap)


def compare(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    *,
    teacher: Head,
    beta: float = 1.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    chunked: bool = True,
) -> Compared:
    """Compares a student with a teacher; gradients flow to the student's hidden states and head.

    They flow through the log-probabilities and the divergences, and not through the entropies. Neither model's logits
    of all tokens ever exist at once, unless they fit in one chunk: the backward pass computes them again.

    Args:
        hidden, weight, bias, targets, temperature, softcap: See `r1lab.grpo.head.token_logps`. The temperature divides
            the logits of both models.
        teacher: Without a gradient. If one head is larger, for padding, its last rows are left out.
        beta: See above.
        chunked: False computes all logits at once, by plain autograd.
    """
    size = min(len(weight), len(teacher.weight))
    weight, bias = weight[:size], _first(bias, size)
    theirs = teacher.hidden, teacher.weight[:size], _first(teacher.bias, size)
    if not chunked:
        log_p = head.logits(hidden, weight, bias, temperature, softcap).log_softmax(-1)
        log_q = head.logits(*theirs, temperature, teacher.softcap).log_softmax(-1)
        return compare_logps(log_p, log_q, targets, beta)
    settings = beta, temperature, softcap, teacher.softcap
    return Compared(*_Compared.apply(hidden, weight, bias, targets, *theirs, *settings))


def _first(bias: torch.Tensor | None, size: int) -> torch.Tensor | None:
    return None if bias is None else bias[:size]


def compare_logps(log_p: torch.Tensor, log_q: torch.Tensor, targets: torch.Tensor, beta: float) -> Compared:
    """Compares log-probabilities of the whole vocabulary, (..., V), by plain autograd.

    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> compare_logps(p, q, torch.tensor([0]), beta=1.0).divergences
    tensor([0.1438])
    """
    logps, theirs = (x.gather(-1, targets[..., None]).squeeze(-1) for x in (log_p, log_q))
    entropies = -(log_p.exp() * log_p).sum(-1).detach()
    return Compared(logps, entropies, divergence(log_p, log_q, beta), theirs)


def divergence(log_p: torch.Tensor, log_q: torch.Tensor, beta: float) -> torch.Tensor:
    """Returns the divergence between student and teacher, (...), from log-probabilities (..., V)."""
    log_m = _mixture(log_p, log_q, beta)
    if beta == 0:
        return (log_q.exp() * (log_q - log_m)).sum(-1)
    to_student = (log_p.exp() * (log_p - log_m)).sum(-1)
    if beta == 1:
        return to_student
    return beta * (log_q.exp() * (log_q - log_m)).sum(-1) + (1 - beta) * to_student


def _mixture(log_p: torch.Tensor, log_q: torch.Tensor, beta: float) -> torch.Tensor:
    """Returns what both distributions are compared with: the other one at the ends, where one comparison is left."""
    if beta in (0, 1):
        return log_q if beta else log_p
    return torch.logaddexp(log_p + math.log1p(-beta), log_q + math.log(beta))


def _slopes(log_p: torch.Tensor, log_q: torch.Tensor, beta: float) -> torch.Tensor:
    """Returns the derivative of the divergence by the student's logits, (N, V).

    It is p - q for the forward KL, else c p (log(p / m) - KL(p || m)) with c = 1 - beta, or 1 for the reverse KL.
    """
    if beta == 0:
        return log_p.exp() - log_q.exp()
    p, gaps = log_p.exp(), log_p - _mixture(log_p, log_q, beta)
    slopes = p * (gaps - torch.linalg.vecdot(p, gaps)[:, None])
    return slopes if beta == 1 else (1 - beta) * slopes


class _Compared(torch.autograd.Function):
    """`compare_logps` in chunks with a manual gradient, like `r1lab.grpo.head`."""

    @staticmethod
    def forward(
        ctx, hidden, weight, bias, targets, their_hidden, their_weight, their_bias, beta, temperature, softcap,
        their_softcap,
    ):  # fmt: skip
        ctx.set_materialize_grads(False)
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        rows = max(1, head.CHUNK_BYTES // (len(weight) * dtype.itemsize))
        ctx.settings = beta, temperature, softcap, their_softcap, rows
        ctx.save_for_backward(hidden, weight, bias, targets, their_hidden, their_weight, their_bias)
        ctx.kept = None
        found = [hidden.new_empty(len(hidden), dtype=dtype) for _ in Compared._fields]
        for part in head.slices(len(hidden), rows):
            log_p = head.logits(hidden[part], weight, bias, temperature, softcap).log_softmax(-1)
            log_q = head.logits(their_hidden[part], their_weight, their_bias, temperature, their_softcap)
            log_q = log_q.log_softmax(-1)
            for whole, values in zip(found, compare_logps(log_p, log_q.to(dtype), targets[part], beta)):
                whole[part] = values
            if len(hidden) <= rows and any(ctx.needs_input_grad) and softcap is None:
                ctx.kept = log_p, log_q.to(dtype)
        ctx.mark_non_differentiable(found[1], found[3])
        return tuple(found)

    @staticmethod
    def backward(ctx, *grad_outputs):
        grad_logps, _, grad_divergences, _ = grad_outputs
        hidden, weight, bias, targets, their_hidden, their_weight, their_bias = ctx.saved_tensors
        beta, temperature, softcap, their_softcap, rows = ctx.settings
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        kept, ctx.kept = ctx.kept, None

        def chunks() -> head.Chunks:
            for part in head.slices(len(hidden), rows):
                z = None
                if kept is not None:
                    log_p, log_q = kept
                else:
                    z = head.logits(hidden[part], weight, bias, temperature, softcap)
                    log_p = z.log_softmax(-1)
                    log_q = head.logits(their_hidden[part], their_weight, their_bias, temperature, their_softcap)
                    log_q = log_q.log_softmax(-1).to(dtype)
                grad = None
                if grad_divergences is not None:
                    grad = grad_divergences[part, None] * _slopes(log_p, log_q, beta)
                if grad_logps is not None:
                    pull = head.of_logps(grad_logps[part], log_p.exp(), targets[part])
                    grad = pull if grad is None else pull + grad
                assert grad is not None  # autograd calls this for at least one of the two
                yield part, grad, z

        found = head.of_inputs(hidden, weight, bias, chunks(), ctx.needs_input_grad, temperature, softcap)
        return *found, *[None] * 8
