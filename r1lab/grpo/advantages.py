"""Computes advantages from rewards; `scale_rewards` sets TRL's own types of advantages.

Your own function, `train.advantage: ./mine.py:function`, gets the rewards of all groups of a batch, a tensor
(groups, completions per group) with NaN where no reward applies, and returns advantages of the same shape:

    def best_of_group(rewards):
        return (rewards == rewards.nan_to_num(-1e9).amax(dim=1, keepdim=True)).float() - 1 / rewards.shape[1]
"""

import torch

from r1lab import lookup
from r1lab.recipe.training import ADVANTAGES

OF_TRL = {"group": "grpo", "none": "dr_grpo"}
"""TRL's `scale_rewards` among r1lab's own advantages, which leave out what has no reward."""


def totals(rewards: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Returns the weighted sum of each completion's rewards, (N,), without those that do not apply; NaN if none does.

    Args:
        rewards: (N, R), NaN where a reward does not apply.
        weights: (R,).

    >>> totals(torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]]), torch.tensor([2.0, 1.0]))
    tensor([2., nan])
    """
    found = (rewards * weights.to(rewards.device)).nansum(dim=1)
    found[rewards.isnan().all(dim=1)] = torch.nan
    return found


def advantages(rewards: torch.Tensor, size: int, kind: str) -> torch.Tensor:
    """Returns the advantages of the completions of all groups.

    Args:
        rewards: (N,), group after group; NaN where no reward applies.
        size: Completions per group.
        kind: `grpo`: less the group's mean, divided by its standard deviation (DeepSeekMath, arXiv:2402.03300, section
            4.1.2). `dr_grpo`: less the mean only (arXiv:2503.20783, section 3.2). `rloo`: less the mean of the others
            (arXiv:2402.14740, equation 8). `reinforce_pp_baseline`: less the group's mean, then normalized over the
            whole batch (REINFORCE++, arXiv:2501.03262, section 3.2). Any other value names a user's function.

    Returns:
        (N,), 0 where no reward applies.

    >>> advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]), 4, "rloo")
    tensor([ 1.0000, -0.3333, -0.3333, -0.3333])
    >>> advantages(torch.tensor([1.0, 0.0, 1.0, 1.0]), 2, "dr_grpo")
    tensor([ 0.5000, -0.5000,  0.0000,  0.0000])
    """
    groups = rewards.view(-1, size)
    if kind not in ADVANTAGES:
        return lookup.external(kind)(groups).reshape(-1).to(rewards.dtype).nan_to_num(nan=0.0)
    known = ~groups.isnan()
    count = known.sum(dim=1, keepdim=True)
    found = groups - groups.nanmean(dim=1, keepdim=True)
    if kind == "rloo":
        found = found * count / (count - 1).clamp(min=1)
    elif kind == "grpo":
        spread = ((found.nan_to_num() ** 2).sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
        found = found / (spread + 1e-4)  # TRL's epsilon
    elif kind == "reinforce_pp_baseline":
        whole = found[known]
        if len(whole) > 1:
            found = (found - whole.mean()) / (whole.std() + 1e-8)
    return found.flatten().nan_to_num(nan=0.0)
