"""A user's own loss, `train.loss: ./mine.py:function`, within TRL's trainer.

    def clipped(*, ratios, advantages):
        return -torch.min(ratios * advantages, ratios.clamp(0.8, 1.2) * advantages)

The function returns the loss of each token. It gets those of these arguments that it names, for B completions of up to
C tokens:

- `logps` (B, C): log-probabilities of the tokens under the policy, with their gradient;
- `old_logps` (B, C): those under the policy that generated the rollout, without a gradient;
- `advantages` (B, 1);
- `ratios` (B, C): `exp(logps - old_logps)`, or (B, 1) with `importance_sampling_level: sequence`;
- `mask` (B, C): 1 for tokens, 0 for padding, whose loss does not count.

A micro-batch has some rows of a batch, in any order, so a function must not compare rows. TRL does the rest:
`loss_type` sets how tokens are averaged, and `beta`, the engine's importance correction and the entropy terms are
applied to the function's result.
"""

from collections.abc import Callable

import torch

from r1lab.grpo.batches import loss_mask
from r1lab.recipe.trial import loss_arguments


def as_advantages(function: Callable, inputs: dict, logps: torch.Tensor, level: str) -> dict:
    """Returns inputs for which TRL's clipped loss equals the function's, in value and gradient.

    TRL's loss of a token is `-min(ratio * advantage, clipped ratio * advantage)`, and it accepts an advantage per
    token, here `-loss / ratio` with its gradient. The trainer sets bounds that clip nothing (`epsilon_low`,
    `epsilon_high`).

    Args:
        inputs: A micro-batch of TRL's trainer.
        logps: (B, C), log-probabilities of its completions, with their gradient.
        level: TRL's `importance_sampling_level`.
    """
    mask = loss_mask(inputs)
    old = inputs.get("old_per_token_logps")
    old = logps.detach() if old is None else old
    log_ratios = logps - old
    if level == "sequence":
        log_ratios = (log_ratios * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1.0)
    given = {"logps": logps, "old_logps": old, "advantages": inputs["advantages"].unsqueeze(1)}
    given |= {"ratios": log_ratios.exp(), "mask": mask}
    loss = function(**{name: given[name] for name in loss_arguments(function.__name__, function)})
    least = torch.finfo(loss.dtype).tiny  # where a ratio underflows to 0, the loss is 0, not NaN
    return inputs | {"advantages": -loss.masked_fill(mask == 0, 0.0) / given["ratios"].clamp(min=least)}
