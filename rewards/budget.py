"""A reward for correct completions whose length is the budget in their prompt."""

from typing import Literal

from r1lab.errors import UserError
from r1lab.rewards.facts import reward
from r1lab.rewards.score import Score

MODES = ("exact", "at_most")


@reward(looks_for="manner")
def budget_reward(
    completions,
    *,
    completion_ids,
    right,
    budget,
    mode: Literal["exact", "at_most"] = "exact",
    alpha: float = 0.0003,
    delta: float = 0.5,
    **columns,
) -> list[float | None]:
    """Correctness and length together: a correct completion scores best if it has as many tokens as its prompt says.

    These are the rewards of length controlled policy optimization (L1, arXiv:2503.04697, section 3), with n the tokens
    of the whole completion and b the budget: `exact` is right - alpha * |b - n| (equation 1), and `at_most` is right *
    clip(alpha * (b - n) + delta, 0, 1) (equation 2), where right is 1 or 0. Because the value has the correctness in
    it, give the reward that decides it the weight 0, as in `[{name: accuracy, weight: 0}, {name: budget}]`. The
    key `budget` of `data` writes budgets into the prompts.

    Args:
        completions: Responses.
        completion_ids: For each completion its tokens.
        right: For each completion whether the first reward gave at least 1.
        budget: For each row the number of tokens in its prompt; None if it has none.
        mode: `exact`, or `at_most` for a budget that may be left unused.
        alpha: The price of a token. L1's is for budgets of 100 to 4,000 tokens; for shorter ones it has to be higher.
        delta: The value of a correct completion of exactly b tokens in `at_most`.

    Returns:
        `Score`s up to 1, from 0 on in `at_most`, with the reason `right: N of B` or `wrong: N of B`; None without a
            budget.

    >>> some = {"completion_ids": [[1] * 90, [1] * 90], "right": [True, False], "budget": [100, 100]}
    >>> budget_reward(["", ""], alpha=0.01, **some)
    [0.9, -0.1]
    >>> budget_reward(["", ""], alpha=0.01, mode="at_most", **some)
    [0.6, 0.0]
    """
    if mode not in MODES:
        raise UserError(f"rewards: budget: mode: {mode!r} is not exact or at_most")
    if not alpha > 0:
        raise UserError(f"rewards: budget: alpha: {alpha} is not a number above 0: type a price of a token, 0.0003")
    scores = []
    for ids, is_right, tokens in zip(completion_ids, right, budget, strict=True):
        if tokens is None:
            scores.append(None)
            continue
        spare = tokens - len(ids)
        if mode == "exact":
            value = float(is_right) - alpha * abs(spare)
        else:
            value = float(is_right) * min(1.0, max(0.0, alpha * spare + delta))
        scores.append(Score(value, f"{'right' if is_right else 'wrong'}: {len(ids)} of {tokens}"))
    return scores
