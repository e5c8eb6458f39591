"""What r1lab needs to know about a reward in addition to its value, set on the function itself.

`@reward(...)` above a function sets these facts, for r1lab's own rewards and for yours in `./mine.py`. A function
without them trains and grades in the same way.
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
    """The facts about a reward.

    Attributes:
        looks_for: What it looks for in a response. `"answer"`: one final answer, so that its position matters, and
            evaluations report maj@n and a strict and a lenient score. `"form"`: the tags around thinking and answer.
            `"work"`: a program or a text that is judged as a whole. `"manner"`: how something is said, whatever it is.
        in_tags: Whether only an answer in `<answer>` counts as one in the required format.
        in_lines: Whether the answer may have several lines, none of which is the whole answer.
        lenient: The parameters that make it as lenient as possible.
        as_published: The values of its `mode` that keep the loopholes of the code that they reproduce.
        asks: What it needs in addition to the completion: `"server"`, or `"model"` for one that it loads.
        needs: Parameters that have a default, but not a useful one.
        runs_programs: Whether it starts processes, which takes time for each completion.
        shortens: Whether a shorter completion is better, from the first token on.
        compares: Whether a value depends on the other completions of the group, so that they are graded together.
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
    compares: bool = False
    limit: str = ""


def reward(*, looks_for: LooksFor, **more) -> Callable[[Function], Function]:
    """Sets the facts of the reward below it and returns the same function. See `Facts`.

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
    """The facts of a reward, also of one with bound parameters; None if none were set."""
    return getattr(function.func if isinstance(function, partial) else function, "facts", None)


def facts_of(name: str) -> Facts | None:
    """The facts of a reward by its name in a recipe; None if it has none or does not exist, which `check` reports.

    >>> facts_of("knights_knaves").looks_for
    'answer'
    """
    try:
        return facts(lookup.function("rewards", name))
    except UserError:
        return None
