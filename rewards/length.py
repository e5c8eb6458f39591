"""Rewards that depend only on the length of a completion in tokens, and on whether it is correct."""

import math
from collections import defaultdict

from r1lab.errors import UserError
from r1lab.rewards.facts import reward
from r1lab.rewards.score import Score


@reward(looks_for="manner", shortens=True, compares=True)
def length_reward(completions, *, groups, completion_ids, right, **columns) -> list[float]:
    """Rewards short completions within a group: 0.5 for the shortest, -0.5 for the longest, if they are correct.

    This is Kimi k1.5's length reward (arXiv:2501.12599, section 2.3.3): 0.5 - (length - shortest) / (longest -
    shortest) for a correct completion, the same but at most 0 for a wrong one, and 0 if all have equal length. A
    score depends on the others of its group. Kimi's paper recommends starting without this reward, because it slows
    down early training.

    Args:
        completions: Responses.
        groups: For each completion the number of its group.
        completion_ids: For each completion its tokens.
        right: For each completion whether the first reward gave at least 1.

    Returns:
        `Score`s from -0.5 to 0.5, with the reason `right: LENGTH` or `wrong: LENGTH`.

    >>> length_reward(["", "", ""], groups=[0] * 3, completion_ids=[[1], [1] * 2, [1] * 3], right=[1, 1, 0])
    [0.5, 0.0, -0.5]
    """
    lengths = defaultdict(list)
    for group, ids in zip(groups, completion_ids, strict=True):
        lengths[group].append(len(ids))
    scores = []
    for group, ids, is_right in zip(groups, completion_ids, right, strict=True):
        shortest, longest = min(lengths[group]), max(lengths[group])
        value = 0.5 - (len(ids) - shortest) / (longest - shortest) if longest > shortest else 0.0
        scores.append(_score(value if is_right else min(0.0, value), ids, is_right))
    return scores


@reward(looks_for="manner", limit="max_len")
def cosine_length_reward(
    completions,
    *,
    completion_ids,
    right,
    max_len: int | None = None,
    min_value_wrong: float = -1.0,
    max_value_wrong: float = -0.5,
    min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
    **columns,
) -> list[float]:
    """Correct completions score higher the shorter they are, wrong ones the longer they are.

    This is the cosine reward of "Demystifying Long Chain-of-Thought Reasoning" (arXiv:2502.03373, appendix C.1), as
    TRL's `get_cosine_scaled_reward` without its math grading: from 0 to `max_len` tokens it follows half a cosine from
    `max_value_correct` to `min_value_correct`, and from `min_value_wrong` to `max_value_wrong`. Beyond `max_len` it is
    constant.

    Args:
        completions: Responses.
        completion_ids: For each completion its tokens.
        right: For each completion whether the first reward gave at least 1.
        max_len: The number of tokens at which the curve ends. Required; use `max_completion_length`.
        min_value_wrong: For a wrong completion of length 0.
        max_value_wrong: For a wrong completion of `max_len` tokens.
        min_value_correct: For a correct completion of `max_len` tokens.
        max_value_correct: For a correct completion of length 0.

    Returns:
        `Score`s between the four values, with the reason `right: LENGTH` or `wrong: LENGTH`.

    >>> cosine_length_reward(["", ""], completion_ids=[[1] * 50, [1] * 999], right=[True, False], max_len=100)
    [0.75, -0.5]
    """
    max_len = _check("cosine_length", "max_len", max_len, least=1)
    values = [min_value_wrong, max_value_wrong, min_value_correct, max_value_correct]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise UserError(f"rewards: cosine_length: the four values must be numbers, not {values}")
    scores = []
    for ids, is_right in zip(completion_ids, right, strict=True):
        short, long = (max_value_correct, min_value_correct) if is_right else (min_value_wrong, max_value_wrong)
        share = (1 + math.cos(math.pi * min(1.0, len(ids) / max_len))) / 2
        scores.append(_score(share * short + (1 - share) * long, ids, is_right))
    return scores


@reward(looks_for="manner", limit="max_completion_length")
def soft_overlong_reward(
    completions, *, completion_ids, max_completion_length: int | None = None, cache: int | None = None, **columns
) -> list[float]:
    """0 for a completion well below the length limit, falling to -1 at the limit.

    This is DAPO's soft overlong punishment (arXiv:2503.14476, equation 13), by TRL's `get_soft_overlong_punishment`: 0
    up to `max_completion_length - cache` tokens, then linearly down to -1 at `max_completion_length`.

    Args:
        completions: Responses.
        completion_ids: For each completion its tokens.
        max_completion_length: The limit. Required; use that of `rollout`.
        cache: The number of tokens before the limit over which the reward falls. Required; DAPO uses 4,096 of 20,480.

    Returns:
        `Score`s from -1 to 0, with the reason `within` or `overlong: LENGTH`.

    >>> soft_overlong_reward(["", ""], completion_ids=[[1] * 70, [1] * 90], max_completion_length=100, cache=20)
    [0.0, -0.5]
    """
    limit = _check("soft_overlong", "max_completion_length", max_completion_length, least=1)
    cache = _check("soft_overlong", "cache", cache, least=0)
    if cache > limit:
        raise UserError(f"rewards: soft_overlong: cache: {cache} is more than max_completion_length")
    from trl.rewards import get_soft_overlong_punishment  # pyright: ignore[reportPrivateImportUsage]  # documented

    values = get_soft_overlong_punishment(limit, cache)(completion_ids)
    return [Score(value, f"overlong: {len(ids)}" if value else "within") for value, ids in zip(values, completion_ids)]


def _check(name: str, setting: str, value: int | None, *, least: int) -> int:
    if value is None:
        raise UserError(f"rewards: {name}: {setting}: is not set; type a number of tokens, `{setting}: 1024`")
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"rewards: {name}: {setting}: {value!r} is not a whole number of at least {least}")
    return value


def _score(value: float, ids: list[int], is_right: bool) -> Score:
    return Score(value, f"{'right' if is_right else 'wrong'}: {len(ids)}")
