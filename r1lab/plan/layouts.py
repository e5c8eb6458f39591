"""Which layout of a grpo stage is the fastest: each rank generates, also with sleep mode, or servers, also ahead."""

from collections.abc import Iterator
from dataclasses import dataclass

from r1lab.plan import generating
from r1lab.plan.changes import Plan, Settings, changed, overrides
from r1lab.plan.stages import StagePlan
from r1lab.recipe import checks
from r1lab.recipe.schema import GrpoRecipe
from r1lab.recipe.sections import Rollout

SHARES = (0.5, 0.6, 0.7)
"""vLLM's shares of a GPU that are tried with sleep mode."""

STALENESS = (1, 2, 4)
"""The values of `rollout.async.staleness` that are tried."""

NEAR = 1.05
"""A layout is as fast as another one if it takes at most this many times its time: the simpler one is named."""


@dataclass(frozen=True)
class Layout:
    """A layout that fits and that `r1lab run` accepts.

    Attributes:
        words: `key=value` overrides, to be typed after the recipe; none for the recipe's own layout.
        seconds: Of the stage.
        staleness: Of its asynchronous training; 0 if it is synchronous.
    """

    words: tuple[str, ...]
    seconds: float
    staleness: int = 0


def compared(recipe: GrpoRecipe, before: StagePlan, plan: Plan, *, prefix: str = "") -> list[Layout]:
    """The layouts of a stage on the GPUs that it has, its own first.

    Args:
        before: The plan of its own layout.
        plan: Plans this stage with another recipe.
        prefix: The prefix of the keys in a pipeline: `stages.NAME.`.
    """
    if not before.seconds or not before.fits or recipe.rollout.url or not generating.uses_vllm(recipe.rollout):
        return []
    ahead = recipe.rollout.asynchronous if recipe.launch.generators else None
    found = [Layout((), before.seconds, ahead.staleness if ahead else 0)]
    for settings in _candidates(recipe):
        other = changed(recipe, settings)
        if checks.stage_problems(other):
            continue
        after = plan(other)
        if after.fits and after.seconds:
            ahead = other.rollout.asynchronous if other.launch.generators else None
            found.append(Layout(overrides(settings, prefix), after.seconds, ahead.staleness if ahead else 0))
    return found


def fastest(found: list[Layout]) -> Layout:
    """The layout that takes the least time; of those that are as fast, its own, else the lowest staleness."""
    near = min(layout.seconds for layout in found) * NEAR
    return min(
        (one for one in found if one.seconds <= near), key=lambda one: (bool(one.words), one.staleness, one.seconds)
    )


def _candidates(recipe: GrpoRecipe) -> Iterator[Settings]:
    """Settings of each other layout, the simplest first."""
    launch, train, share = recipe.launch, recipe.train, recipe.rollout.gpu_memory_utilization
    alone = Rollout.model_fields["gpu_memory_utilization"].default
    if not launch.generators and not train.get("vllm_enable_sleep_mode"):
        for more in SHARES:
            if more > share:
                yield {"train.vllm_enable_sleep_mode": True, "rollout.gpu_memory_utilization": more}
    servers: Settings = {} if launch.generators else {"launch.rollout": "server"}
    if share != alone:
        servers["rollout.gpu_memory_utilization"] = alone
    if train.get("vllm_enable_sleep_mode"):
        servers["train.vllm_enable_sleep_mode"] = False
    if split := train.get("vllm_tensor_parallel_size"):
        servers |= {"train.vllm_tensor_parallel_size": None, "rollout.tensor_parallel": split}
    for count in range(1, launch.gpus):
        divided = servers | {"launch.rollout_gpus": count}
        yield divided | ({"rollout.async": None} if recipe.rollout.asynchronous else {})
        yield from (divided | {"rollout.async.staleness": staleness} for staleness in STALENESS)
