"""What r1lab has to know of a reward beside its value: facts that stand on the function itself.

`@reward(...)` above a function sets them, above r1lab's own rewards as above yours in `./mine.py`. A function without
them trains and grades all the same; what is said below of a reward without facts then holds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar, get_args

from r1lab import lookup
from r1lab.errors import UserError
from r1lab.text import either

LooksFor = Literal["answer", "form", "work", "manner"]
KINDS: tuple[LooksFor, ...] = get_args(LooksFor)
Function = TypeVar("Function", bound=Callable)


@dataclass(frozen=True)
class Facts:
    """What is known of a reward.

    Attributes:
        looks_for: What it looks for in a turn. `"answer"`: one final answer, so that it matters where it stands, and
            evaluations give maj@n, a strict and a lenient figure. `"form"`: the tags around thinking and answer.
            `"work"`: a program or a text that a verdict is given on as a whole. `"manner"`: how something is said,
            whatever it is.
        in_tags: Whether only an answer in `<answer>` counts as one in the form that was asked for.
        in_lines: Whether the answer may be several lines, of which none may be taken for the whole.
        lenient: Parameters with which it is as lenient as it can be.
        as_published: Values of its `mode` that keep the loopholes of the code that they reproduce.
        asks: What it asks beside the completion: `"server"`, or `"model"` for one that it loads.
        needs: Parameters that have a default, but no useful one.
        runs_programs: Whether it starts processes, which takes a while for each completion.
        shortens: Whether a shorter completion is better, from the first token on.
        limit: The parameter that should equal `rollout.max_completion_length`.
    """

    looks_for: LooksFor
    in_tags: bool = False
    in_lines: bool = False
    lenient: dict = field(default_factory=dict)
    as_published: tuple[str, ...] = ()
    asks: Literal["", "server", "model"] = ""
    needs: tuple[str, ...] = ()
    runs_programs: bool = False
    shortens: bool = False
    limit: str = ""


def reward(*, looks_for: LooksFor, **more) -> Callable[[Function], Function]:
    """Sets the facts of the reward below it, which stays the function that it is. See `Facts`.

    >>> @reward(looks_for="manner")
    ... def brevity(completions, *, most: int = 200, **columns):
    ...     return [float(len(completion) <= most) for completion in completions]
    >>> facts(brevity).looks_for
    'manner'
    """

    if looks_for not in KINDS:
        raise ValueError(f"looks_for: {looks_for!r}: should be {either(list(KINDS))}")

    def with_facts(function: Function) -> Function:
        vars(function)["facts"] = Facts(looks_for, **more)
        return function

    return with_facts


def facts(function: Callable) -> Facts | None:
    """The facts of a reward, also of one with its parameters bound; None where none were set."""
    return getattr(function.func if isinstance(function, partial) else function, "facts", None)


def facts_of(name: str) -> Facts | None:
    """The facts of a reward by its name in a recipe; None where it has none, or is not here: checks say which.

    >>> facts_of("knights_knaves").looks_for
    'answer'
    """
    try:
        return facts(lookup.function("rewards", name))
    except UserError:
        return None
