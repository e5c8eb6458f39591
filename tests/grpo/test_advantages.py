"""Each kind of advantage by its formula, in plain Python."""

import math
import random
import statistics

import pytest
import torch

from r1lab.grpo.advantages import advantages
from r1lab.recipe.training import ADVANTAGES

REWARDS = [1.0, 0.0, 0.0, 0.5, 1.0, 1.0, 0.25, 0.0]


def by_hand(kind):
    found = []
    for group in (REWARDS[:4], REWARDS[4:]):
        mean = statistics.fmean(group)
        for i, reward in enumerate(group):
            if kind == "grpo":
                found.append((reward - mean) / (statistics.stdev(group) + 1e-4))
            elif kind == "rloo":
                found.append(reward - statistics.fmean(group[:i] + group[i + 1 :]))
            elif kind in ("dr_grpo", "reinforce_pp_baseline"):
                found.append(reward - mean)
            else:
                raise ValueError(f"{kind}: write its formula here, as the paper has it")
    if kind == "reinforce_pp_baseline":
        mean, spread = statistics.fmean(found), statistics.stdev(found)
        found = [(a - mean) / (spread + 1e-8) for a in found]
    return found


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_formula(kind):
    found = advantages(torch.tensor(REWARDS, dtype=torch.float64), 4, kind)
    assert found.tolist() == pytest.approx(by_hand(kind), rel=1e-12)


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_laws(kind):
    rng = random.Random(0)
    for _ in range(100):
        rewards = torch.tensor([rng.choice([0.0, 1.0, 0.3]) for _ in range(24)], dtype=torch.float64)
        found = advantages(rewards, 8, kind)
        assert found.view(3, 8).sum(dim=1).abs().max() < 1e-9  # a baseline adds no bias
        torch.testing.assert_close(advantages(rewards + 5, 8, kind), found)
        same = torch.cat([torch.ones(8, dtype=torch.float64), rewards[8:]])
        assert advantages(same, 8, kind)[:8].abs().max() < 1e-9


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_completions_that_no_reward_applies_to_count_nothing(kind):
    rewards = torch.tensor([1.0, math.nan, 0.0, 1.0])
    found = advantages(rewards, 4, kind)
    assert found[1] == 0
    if kind != "reinforce_pp_baseline":
        torch.testing.assert_close(found[[0, 2, 3]], advantages(rewards[[0, 2, 3]], 3, kind))
