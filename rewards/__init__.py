"""Reward functions. Import them as `r1lab.rewards`."""

if __name__ != "r1lab.rewards":  # one module, one name
    raise ImportError("import r1lab.rewards, not rewards")

from r1lab.rewards.accuracy import accuracy_reward
from r1lab.rewards.budget import budget_reward
from r1lab.rewards.choice import choice_reward
from r1lab.rewards.code import code_reward
from r1lab.rewards.countdown import countdown_reward
from r1lab.rewards.environment import environment_reward
from r1lab.rewards.exact_match import exact_match_reward
from r1lab.rewards.facts import Facts, reward
from r1lab.rewards.fluency import fluency_reward
from r1lab.rewards.format import format_reward
from r1lab.rewards.instruction import instruction_reward
from r1lab.rewards.judge import judge_reward
from r1lab.rewards.knights_knaves import knights_knaves_reward
from r1lab.rewards.language_consistency import language_consistency_reward
from r1lab.rewards.length import cosine_length_reward, length_reward, soft_overlong_reward
from r1lab.rewards.majority import majority_reward
from r1lab.rewards.reasoning_gym import reasoning_gym_reward
from r1lab.rewards.reasoning_steps import reasoning_steps_reward
from r1lab.rewards.repetition import repetition_reward
from r1lab.rewards.reward_model import reward_model_reward
from r1lab.rewards.score import Score
from r1lab.rewards.tag_count import tag_count_reward
from r1lab.rewards.tool_calls import tool_calls_reward

__all__ = [
    "Facts",
    "Score",
    "accuracy_reward",
    "budget_reward",
    "choice_reward",
    "code_reward",
    "cosine_length_reward",
    "countdown_reward",
    "environment_reward",
    "exact_match_reward",
    "fluency_reward",
    "format_reward",
    "instruction_reward",
    "judge_reward",
    "knights_knaves_reward",
    "language_consistency_reward",
    "length_reward",
    "majority_reward",
    "reasoning_gym_reward",
    "reasoning_steps_reward",
    "repetition_reward",
    "reward",
    "reward_model_reward",
    "soft_overlong_reward",
    "tag_count_reward",
    "tool_calls_reward",
]
