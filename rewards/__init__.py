"""Reward functions. Import them as `r1lab.rewards`."""

if __name__ != "r1lab.rewards":  # one module, one name
    raise ImportError("import r1lab.rewards, not rewards")

from r1lab.rewards.format import format_reward
from r1lab.rewards.knights_knaves import knights_knaves_reward
from r1lab.rewards.score import Score

__all__ = ["Score", "format_reward", "knights_knaves_reward"]
