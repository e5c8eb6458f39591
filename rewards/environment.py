"""What an environment says an episode is worth."""

from r1lab.errors import UserError
from r1lab.rewards.facts import reward
from r1lab.rewards.score import Score


@reward(looks_for="work")
def environment_reward(completions, *, episode, part: str | None = None, **columns) -> list[float | None]:
    """The reward that the environment of an episode gives it, with how the episode ended as the reason.

    That is what its `get_reward` returns, or its `reward`, plus the rewards of its replies. An episode that was
    ended by a limit, or by a step that exceeded its deadline, has the reward that it had until then, or 0.

    Args:
        completions: The last turns.
        episode: The episodes.
        part: Of a reward with several parts, the one to take. Default: their sum.
    """
    scores: list[float | None] = []
    for one in episode:
        reason = str(one.info.get("reason") or one.end)
        if isinstance(one.reward, dict):
            if part is not None and part not in one.reward:
                known = ", ".join(one.reward)
                raise UserError(f"rewards: environment: part: {part}: the environment gives: {known}")
            scores.append(Score(one.reward[part] if part else sum(one.reward.values()), reason))
        elif one.reward is not None:
            scores.append(Score(one.reward, reason))
        elif one.cut or one.end in ("timeout", "tool_error"):
            scores.append(Score(0.0, reason))
        else:
            scores.append(None)
    return scores
