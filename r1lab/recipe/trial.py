"""Loads a user's own advantage or loss, and tries it on a tiny input before any model is loaded."""

import inspect
from collections.abc import Callable

from r1lab import lookup
from r1lab.errors import UserError
from r1lab.text import did_you_mean, either

GIVEN = ("logps", "old_logps", "advantages", "ratios", "mask")
"""The arguments that a user's own loss may have; `r1lab.grpo.losses` describes them."""


def problem(key: str, name: str) -> str | None:
    """The problem with the function that `train.advantage` or `train.loss` names, in one line; None if it works."""
    try:
        {"advantage": advantage, "loss": loss}[key](name)
    except UserError as error:
        return error.problems[0]
    return None


def advantage(name: str) -> Callable:
    """A function from the rewards of groups to their advantages; `r1lab.grpo.advantages` describes its argument.

    Raises:
        UserError: There is no such function, or it fails on two groups of three completions.
    """
    import torch

    function = lookup.external(name)
    contract = "should take one tensor (groups, completions) and return one of the same shape"
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise UserError(f"{name}: {contract}: {error}: write `def {function.__name__}(rewards):`") from error
    rewards = torch.tensor([[1.0, 0.0, 0.5], [1.0, 1.0, torch.nan]])
    found = _tried(name, function, rewards)
    _check(name, found, (2, 3), contract)
    if not found[0].isfinite().all():
        raise UserError(f"{name}: returns {found[0].tolist()} for the rewards [1, 0, 0.5]: return finite numbers")
    return function


def loss(name: str) -> Callable:
    """A function from log-probabilities, advantages and ratios to the loss of each token; see `r1lab.grpo.losses`.

    Raises:
        UserError: There is no such function, or it fails on two completions of three tokens.
    """
    import torch

    function = lookup.external(name)
    for argument in loss_arguments(name, function):
        if argument not in GIVEN:
            hint = did_you_mean(argument, GIVEN, otherwise=f"; available: {', '.join(GIVEN)}")
            raise UserError(f"{name}: unknown argument `{argument}`{hint}")
    logps = torch.full((2, 3), -1.0, requires_grad=True)
    ratios = (logps - logps.detach()).exp()
    given = {"logps": logps, "old_logps": logps.detach(), "ratios": ratios, "mask": torch.ones(2, 3)}
    given["advantages"] = torch.tensor([[1.0], [-1.0]])
    found = _tried(name, function, **{key: given[key] for key in loss_arguments(name, function)})
    _check(name, found, (2, 3), "should return the loss of each token, a tensor (completions, tokens)")
    if not found.isfinite().all():
        raise UserError(f"{name}: returns {found.tolist()} on a tiny input: return finite numbers")
    if not found.requires_grad:
        raise UserError(f"{name}: has no gradient: compute it from {either(['`logps`', '`ratios`'])}, not detached")
    return function


def loss_arguments(name: str, function: Callable) -> list[str]:
    """The names of a loss's arguments; all of `GIVEN` if it has `**kwargs`."""
    kinds = {key: parameter.kind for key, parameter in inspect.signature(function).parameters.items()}
    if any(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL) for kind in kinds.values()):
        raise UserError(f"{name}: should take its arguments by name: write `def {function.__name__}(*, logps, ...):`")
    if inspect.Parameter.VAR_KEYWORD in kinds.values():
        return list(GIVEN)
    return list(kinds)


def _tried(name: str, function: Callable, *args, **given):
    try:
        return function(*args, **given)
    except Exception as error:  # a user's function may raise anything
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{name}: raises an exception on a tiny input: {why}: fix it") from error


def _check(name: str, found: object, shape: tuple[int, ...], contract: str) -> None:
    """Refuses a return value that is not a tensor of the expected shape."""
    import torch

    if not isinstance(found, torch.Tensor):
        raise UserError(f"{name}: {contract}: it returns {type(found).__name__}")
    if tuple(found.shape) != shape:
        raise UserError(f"{name}: {contract}: it returns {tuple(found.shape)} for {shape}")
