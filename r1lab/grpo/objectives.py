"""How a loss accounts for completions that earlier weights sampled: `rollout.async.objective`.

There are up to three policies of a token: the behavior policy, which sampled it; the proximal policy, which an update
starts from; and the current one, which the loss differentiates. Their log-probabilities are b, p and c. Each objective
is TRL's loss, with a choice of its two ratios: the one that it clips, r, and the constant that weights a token, w.

- `decoupled` (AReaL, arXiv:2505.24298, equation 5): r = exp(c - p), clipped around the proximal policy, and
  w = exp(p - b), truncated. A stale token is corrected, without being clipped for what earlier updates have done.
- `truncated`: r = exp(c - c), whose value is 1, and w = exp(c - b), truncated: the policy gradient with truncated
  importance sampling, without a trust region. (IMPALA's rho, arXiv:1802.01561.)
- `ppo`: r = exp(c - b), clipped around the behavior policy, and w = 1: PPO as if the completions were fresh, which
  AReaL's section 5.2 calls naive.

With one optimizer step per rollout, p equals c, so `decoupled` and `truncated` are the same, in value and gradient.
They differ with several (`train.num_iterations`, or a generation batch of several updates).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from r1lab.grpo import parity
from r1lab.grpo.batches import importance_ratio, loss_mask

OUTSIDE = "sampling/importance_sampling_ratio/outside"
"""The metric of the share of tokens whose weight is truncated or masked."""

if TYPE_CHECKING:
    from r1lab.grpo.trainer import GRPOTrainer


def stale(trainer: GRPOTrainer) -> bool:
    """Whether a trainer's completions may come from earlier weights than those that a rollout is trained from."""
    return trainer.groups is not None and trainer.groups.settings.staleness > 0


def corrected(trainer: GRPOTrainer, inputs: dict, current: torch.Tensor) -> dict:
    """Returns a micro-batch with the weights of its tokens, and logs them.

    Without staleness these correct for the engine's numerics alone, whatever the objective.

    Args:
        inputs: See `weighted`.
        current: (B, C), the policy's log-probabilities, without a gradient.
    """
    mask, groups = loss_mask(inputs), trainer.groups
    bounds = trainer.vllm_importance_sampling_clip_min, trainer.vllm_importance_sampling_clip_max
    objective = groups.settings.objective if groups is not None and stale(trainer) else "decoupled"
    gaps = None
    if not stale(trainer):  # the proximal policy has sampled; a token that was not scored does not count as drift
        proximal = inputs.get("old_per_token_logps", current)
        gaps = parity.gaps(proximal, inputs["sampling_per_token_logps"], mask)
    inputs, difference = weighted(inputs, current, mask, objective, trainer.vllm_importance_sampling_mode, *bounds)
    ratio = inputs["importance_sampling_ratio"]
    parity.log(trainer, gaps, ratio[mask.bool()] if ratio.size(1) > 1 else ratio.flatten())
    _log_outside(trainer, difference, mask)
    return inputs


def corrected_by_trl(trainer: GRPOTrainer, inputs: dict) -> bool:
    """Whether a micro-batch has TRL's weights for the engine's numerics, of which the share outside is then logged."""
    if "importance_sampling_ratio" not in inputs:
        return False
    if "sampling_per_token_logps" in inputs:
        difference = inputs["old_per_token_logps"] - inputs["sampling_per_token_logps"]
        _log_outside(trainer, difference.nan_to_num(nan=0.0), loss_mask(inputs))
    return True


def _log_outside(trainer: GRPOTrainer, difference: torch.Tensor, mask: torch.Tensor) -> None:
    bounds = trainer.vllm_importance_sampling_clip_min, trainer.vllm_importance_sampling_clip_max
    outside = share_outside(difference, mask, trainer.vllm_importance_sampling_mode, *bounds)
    trainer._metrics["train"][OUTSIDE].append(parity.gathered(trainer, outside).mean().item())


def weighted(
    inputs: dict, current: torch.Tensor, mask: torch.Tensor, objective: str, mode: str, low: float | None,
    high: float | None,
) -> tuple[dict, torch.Tensor]:  # fmt: skip
    """Returns inputs with the weight of each token and the policy that TRL's ratio starts from.

    Args:
        inputs: A micro-batch with `sampling_per_token_logps` (B, C), b, which is NaN where the engine could not score
            a token: it is not corrected. Its `old_per_token_logps` (B, C), if any, are p; without them p is c.
        current: (B, C), c, without a gradient.
        mask: (B, C), the tokens of the loss.
        objective: `decoupled`, `truncated` or `ppo`.
        mode, low, high: See `importance_ratio`.

    Returns:
        The inputs, and (B, C), the logarithm of the ratio that corrects a token before truncation, 0 where masked.

    >>> inputs = {"sampling_per_token_logps": torch.tensor([[-2.0, -1.0]])}
    >>> current, mask = torch.tensor([[-1.0, -1.0]]), torch.ones(1, 2)
    >>> found, _ = weighted(inputs, current, mask, "decoupled", "token_truncate", None, 2.0)
    >>> found["importance_sampling_ratio"]
    tensor([[2., 1.]])
    """
    behavior = inputs["sampling_per_token_logps"]
    proximal = inputs.get("old_per_token_logps", current) if objective == "decoupled" else current
    difference = ((proximal - behavior) * mask).nan_to_num(nan=0.0)
    ratio = importance_ratio(difference, mode, low, high)
    more = {"importance_sampling_ratio": ratio}
    if objective == "truncated":  # TRL takes c itself if there is no other
        inputs = {key: value for key, value in inputs.items() if key != "old_per_token_logps"}
    elif objective == "ppo":
        more = {"importance_sampling_ratio": torch.ones_like(difference)}
        more["old_per_token_logps"] = torch.where(behavior.isnan(), current, behavior)
    return inputs | more, difference


def folded(inputs: dict) -> dict:
    """Returns inputs whose advantages, (B, C), contain the weights of tokens, which TRL applies only with vLLM.

    The weights are not negative, so TRL's minimum of two products stays the same one. VESPO's formula reads the
    weights itself.
    """
    advantages = inputs["advantages"]
    whole = advantages[:, None] if advantages.dim() == 1 else advantages
    return inputs | {"advantages": whole * inputs["importance_sampling_ratio"]}


def share_outside(
    difference: torch.Tensor, mask: torch.Tensor, mode: str, low: float | None, high: float | None
) -> torch.Tensor:
    """Returns the share of tokens whose ratio is outside of the bounds, so that it is truncated or masked.

    Args:
        difference: (B, C), the logarithms of the ratios of tokens.
        mask: (B, C), the tokens that count.
        mode, low, high: See `importance_ratio`; with one ratio per sequence, all its tokens have that one.

    >>> share_outside(torch.tensor([[0.0, 2.0]]), torch.ones(1, 2), "token_truncate", None, 3.0)
    tensor(0.5000)
    >>> share_outside(torch.tensor([[0.0, 2.0]]), torch.ones(1, 2), "sequence_mask", None, 3.0)
    tensor(1.)
    """
    if mode.startswith("sequence"):
        difference = (difference * mask).sum(dim=1, keepdim=True)
    ratio = difference.exp()
    outside = (ratio < (0.0 if low is None else low)) | (ratio > (math.inf if high is None else high))
    return (outside * mask).sum() / mask.sum().clamp(min=1)
