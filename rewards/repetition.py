"""A penalty for repetition."""

import math

from r1lab.errors import UserError
from r1lab.rewards.facts import reward
from r1lab.rewards.score import Score


@reward(looks_for="manner")
def repetition_reward(
    completions, *, completion_ids, ngram_size: int = 3, max_penalty: float = -1.0, **columns
) -> list[float]:
    """A penalty for the share of a completion's token n-grams that are repetitions.

    This is the penalty of "Demystifying Long Chain-of-Thought Reasoning" (arXiv:2502.03373, appendix C.2), by TRL's
    `get_repetition_penalty_reward`: (1 - different n-grams / all n-grams) * max_penalty. It counts tokens, not words,
    so it works in every language.

    Args:
        completions: Responses.
        completion_ids: For each completion its tokens.
        ngram_size: The number of tokens of an n-gram.
        max_penalty: The score of a completion that is nothing but repetition; 0 or less.

    Returns:
        `Score`s from `max_penalty` to 0, with the reason `no_repetition` or `repeated: SHARE`.

    >>> repetition_reward(["", ""], completion_ids=[[1, 2, 3, 4], [5, 5, 5, 5, 5]], ngram_size=2)
    [0.0, -0.75]
    """
    if not isinstance(ngram_size, int) or isinstance(ngram_size, bool) or ngram_size < 1:
        raise UserError(f"rewards: repetition: ngram_size: {ngram_size!r} is not a whole number of at least 1")
    if not isinstance(max_penalty, int | float) or not -math.inf < max_penalty <= 0:
        raise UserError(f"rewards: repetition: max_penalty: {max_penalty!r} is not a number of at most 0")
    from trl.rewards import get_repetition_penalty_reward  # pyright: ignore[reportPrivateImportUsage]  # documented

    penalties = get_repetition_penalty_reward(ngram_size, max_penalty)(completion_ids)
    return [Score(p, f"repeated: {p / max_penalty:.2f}" if p else "no_repetition") for p in penalties]
