"""Environments: what a model acts in over several turns, by text or by calls of tools.

An environment is a class, as for `environment_factory` of `trl.GRPOTrainer`: nothing to inherit from, and only `reset`
is required.

    class Environment:
        def reset(self, *, seed: int, **row) -> str | None     # starts an episode; returns what the prompt ends with
        def look_up(self, name: str) -> str                    # a public method with types and a docstring is a tool
        def step(self, turn: Turn) -> Reply | str | None       # instead of tools: replies to what the model wrote
        def get_reward(self) -> float | dict[str, float]       # of the episode, when it has ended
        def solve(self, row: dict) -> Iterator                 # a player that earns 1, for checks: yields its turns
        def close(self)                                        # frees what the episode used
        done: bool                                             # whether the episode has ended
        reward: float | dict[str, float]                       # instead of `get_reward`

`seed` is the same for all members of a group, and is passed if `reset` takes it. Without `step`, a turn without a call
ends the episode; with `step`, None does. `get_reward` gets the last turn if it takes a parameter `turn`. `solve`
yields texts, calls or lists of calls, and each time receives what was said to it. The model reads what a tool raises;
with `ToolError` a tool refuses a call, which is no error of the tool.
"""

from r1lab.environments.base import Call, Reply, ToolError, Turn
from r1lab.environments.desk import Desk
from r1lab.environments.knights_knaves_ask import KnightsKnavesAsk
from r1lab.environments.number_guess import NumberGuess

__all__ = ["Call", "Desk", "KnightsKnavesAsk", "NumberGuess", "Reply", "ToolError", "Turn"]
