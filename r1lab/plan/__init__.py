"""`r1lab plan`: whether a recipe fits on a device, how its memory is used, and how long it takes; loads no weights.

`shapes.py` reads the sizes of a model, `lengths.py` the rows, `memory.py` adds up the bytes and `cost.py` the FLOPs,
`generating.py` estimates engines and `judging.py` the models of rewards, `stages.py` applies all of it to a stage,
`changes.py` searches for changes that make it fit and `layouts.py` for the fastest layout, and `printed.py` prints the
plan.
"""

from dataclasses import dataclass, replace
from functools import partial

from r1lab import hardware
from r1lab.check.look import start_of
from r1lab.errors import UserError
from r1lab.plan import gpus as devices
from r1lab.plan import judging
from r1lab.plan.changes import Change, changed, changes
from r1lab.plan.gpus import Device, parse_memory
from r1lab.plan.layouts import Layout, compared
from r1lab.plan.lengths import lengths
from r1lab.plan.printed import as_json, as_text
from r1lab.plan.stages import StagePlan, plan_stage
from r1lab.recipe import checks
from r1lab.recipe.devices import Launch
from r1lab.recipe.schema import DistillRecipe, GrpoRecipe, Pipeline, Recipe

__all__ = ["Planned", "as_json", "as_text", "parse_memory", "plan"]


@dataclass(frozen=True)
class Planned:
    """A recipe's plan: its stages in order, and by name the changes that make a stage fit and its layouts on GPUs."""

    name: str
    device: Device
    devices: int
    stages: tuple[StagePlan, ...]
    changes: dict[str, list[Change]]
    layouts: dict[str, list[Layout]]

    @property
    def fits(self) -> bool:
        """Whether every stage fits."""
        return all(stage.fits for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """The time of all stages for which it is known."""
        return _sum([stage.seconds for stage in self.stages])

    @property
    def flops(self) -> float | None:
        """The FLOPs of all stages."""
        return _sum([stage.flops for stage in self.stages])

    @property
    def tokens(self) -> float | None:
        """The tokens of all stages."""
        return _sum([stage.tokens for stage in self.stages])

    @property
    def disk(self) -> int:
        """The disk space of all stages in bytes."""
        return sum(stage.disk for stage in self.stages)


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def plan(
    recipe: Recipe,
    *,
    gpu: str | None = None,
    gpus: int | None = None,
    memory: int | None = None,
    device: Device | None = None,
) -> Planned:
    """Plans every stage of a recipe.

    Args:
        recipe: A stage's recipe or a `Pipeline`, as returned by `r1lab.recipe.loading.load`.
        gpu: A name in `r1lab.plan.gpus.GPUS`. Default: this machine's CUDA device, or its memory and cores.
        gpus: The number of GPUs. Default: each stage's `launch.gpus` times `launch.nodes`.
        memory: Bytes of each device, instead of its own memory.
        device: A device that is neither in the table nor this machine's, in place of `gpu`.

    Raises:
        UserError: There is no such GPU, or the config of a model is not available.
    """
    if gpus is not None and gpus < 1:
        raise UserError(f"--gpus {gpus}: at least 1")
    device = device or (devices.find(gpu) if gpu else devices.here())
    device = replace(device, memory=memory) if memory else device
    pipeline = isinstance(recipe, Pipeline)
    named = [(stage.name, stage) for stage in (recipe.stages if isinstance(recipe, Pipeline) else [recipe])]
    if gpus:
        here: dict[str, object] = {"launch.gpus": gpus, "launch.nodes": 1}
        named = [(n, changed(s, here) if hasattr(s, "launch") else s) for n, s in named]
        refused = [(n, problem) for n, s in named for problem in checks.stage_problems(s)]
        if refused:
            raise UserError([f"--gpus {gpus}: {n}: {'.'.join(map(str, keys))}: {why}" for n, (keys, why) in refused])
    most = gpus or (None if gpu else hardware.gpus())  # `run` refuses more than this machine has
    found, ways, laid = [], {}, {}
    for index, (name, stage) in enumerate(named):
        earlier = dict(named[:index])
        start, rows = start_of(stage.model.path, earlier), lengths(stage, earlier)
        judges = judging.models(stage, earlier)
        teacher = start_of(stage.teacher.path, earlier) if isinstance(stage, DistillRecipe) else ""
        again = partial(plan_stage, name, device=device, start=start, found=rows, judges=judges, teacher=teacher)
        found.append(again(stage))
        prefix = f"stages.{name}." if pipeline else ""
        if device.cuda and isinstance(stage, GrpoRecipe):
            laid[name] = compared(stage, found[-1], again, prefix=prefix)
        if not found[-1].fits:
            ways[name] = changes(stage, found[-1], again, prefix=prefix, most_gpus=most)
    launches: list[Launch | None] = [getattr(stage, "launch", None) for _, stage in named]
    count = gpus or max((launch.gpus * launch.nodes for launch in launches if launch), default=1)
    return Planned(recipe.name, device, count, tuple(found), ways, laid)
