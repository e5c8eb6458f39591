"""The batch of a training stage: the rows of an update, how devices share them, and the groups of a rollout.

Checks, plans and trainers take all of these from here. In a grpo stage a row is a completion.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from r1lab.errors import UserError
from r1lab.recipe import trl_fields
from r1lab.recipe.schema import GrpoRecipe, Trained
from r1lab.recipe.values import Problems
from r1lab.rewards.facts import facts_of
from r1lab.text import counted, either

_SIZE, _UPDATE, _ROLLOUT = "per_device_train_batch_size", "global_batch_size", "generation_batch_size"


@dataclass(frozen=True)
class Batch:
    """How a stage computes an update.

    Attributes:
        size: Rows of a micro-batch on a device.
        ranks: Devices, each of which has a process.
        accumulation: Micro-batches of a device in an update.
        generation: Micro-batches of a device for which a grpo stage generates completions at once.
    """

    size: int
    ranks: int
    accumulation: int
    generation: int

    @property
    def rows(self) -> int:
        """Rows of an update over all devices."""
        return self.size * self.ranks * self.accumulation

    @property
    def rollout(self) -> int:
        """Completions that a grpo stage generates at once over all devices."""
        return self.size * self.ranks * self.generation


def of(recipe: Trained, ranks: int | None = None) -> Batch:
    """The batch of a stage on a number of devices, by default that of its `launch` section.

    With `train.global_batch_size`, an update has as many rows on any number of devices. Without it, each device adds
    its own, as with TRL.

    Raises:
        UserError: The rows do not divide.

    >>> from r1lab.recipe.loading import load
    >>> of(load(["published/dr-grpo"]), ranks=4)
    Batch(size=4, ranks=4, accumulation=8, generation=64)
    """
    ranks = ranks or recipe.launch.ranks
    if found := problems(recipe, ranks):
        raise UserError([f"{'.'.join(map(str, keys))}: {message}" for keys, message in found])
    train, size = recipe.train, _size(recipe)
    accumulation = train.get("gradient_accumulation_steps") or 1
    if train.get(_UPDATE):
        accumulation = train[_UPDATE] // (size * ranks)
    generation = train.get("steps_per_generation") or accumulation
    if train.get(_ROLLOUT):
        generation = train[_ROLLOUT] // (size * ranks)
    return Batch(size, ranks, accumulation, generation)


def _size(recipe: Trained) -> int:
    given = recipe.train.get(_SIZE)
    return trl_fields.COMMON[_SIZE][1] if given is None else given


def problems(recipe: Trained, ranks: int | None = None) -> Problems:
    """Whether the rows of an update divide into micro-batches, and those of a rollout into groups, as TRL requires."""
    ranks, train = ranks or recipe.launch.ranks, recipe.train
    if ranks < 1:  # see `r1lab.recipe.launch.problems`
        return []
    if isinstance(recipe, GrpoRecipe) and recipe.rollout.num_generations < 2:
        what = f"{recipe.rollout.num_generations}: GRPO compares the completions of a group: set at least 2"
        return [(("rollout", "num_generations"), what)]
    if train.get(_ROLLOUT) is not None and train.get("steps_per_generation") is not None:
        return [(("train", _ROLLOUT), "TRL accepts either this or steps_per_generation: remove one of them")]
    if train.get(_UPDATE) is not None:
        return _over_all_devices(recipe, ranks)
    return _per_device(recipe, ranks) if isinstance(recipe, GrpoRecipe) else []


def _over_all_devices(recipe: Trained, ranks: int) -> Problems:
    """The problems of a stage that sets `global_batch_size`."""
    train, size = recipe.train, _size(recipe)
    instead = {"gradient_accumulation_steps": _UPDATE, "steps_per_generation": _ROLLOUT}
    given = [(key, other) for key, other in instead.items() if train.get(key) is not None]
    if given:
        why = "follows from train.global_batch_size and the number of devices: remove it, or set"
        return [(("train", key), f"{why} train.{other} to {size * ranks * train[key]}") for key, other in given]
    rows = "completions" if isinstance(recipe, GrpoRecipe) else "rows"
    for key, multiple in _multiples(recipe, size, ranks):
        if train[key] % multiple == 0:
            continue
        group, on = getattr(getattr(recipe, "rollout", None), "num_generations", 1), counted(ranks, "GPU")
        what = f"{train[key]} {rows} do not divide into "
        if train[key] % (size * ranks):
            what += f"micro-batches of {size} on {'each of ' * (ranks > 1)}{on}"
        elif train[key] % group:
            what += f"groups of {group}"
        else:
            what += f"whole groups of {group} on each of {on}, as {_whole(recipe)} needs them"
        ways = [f"train.{key} to {_near(train[key], multiple)}"]
        nodes = recipe.launch.nodes if ranks == recipe.launch.ranks else 1
        generators = getattr(recipe.launch, "generators", 0) // recipe.launch.nodes
        fitting = [n for n in range(1, max(8, ranks // nodes) + 1) if _divides(recipe, size, n * nodes)]
        if fitting:
            nearest = sorted(fitting, key=lambda n: (abs(n * nodes - ranks), n))[:4]
            ways.append(f"launch.gpus to {either([n + generators for n in sorted(nearest)])}")
        smaller = next((n for n in range(size - 1, 0, -1) if _divides(recipe, n, ranks)), None)
        if smaller:
            ways.append(f"train.{_SIZE} to {smaller}")
        return [(("train", key), f"{what}: set {', or '.join(ways)}")]
    return []


def _multiples(recipe: Trained, size: int, ranks: int) -> Iterator[tuple[str, int]]:
    """The keys that set the rows of an update and of a rollout, and the number that divides each of them."""
    step, rollout = size * ranks, _ROLLOUT if recipe.train.get(_ROLLOUT) is not None else _UPDATE
    if rollout != _UPDATE or not isinstance(recipe, GrpoRecipe):
        yield _UPDATE, step
    if isinstance(recipe, GrpoRecipe):
        yield rollout, math.lcm(step, recipe.rollout.num_generations * (ranks if _whole(recipe) else 1))


def _divides(recipe: Trained, size: int, ranks: int) -> bool:
    return all(recipe.train[key] % multiple == 0 for key, multiple in _multiples(recipe, size, ranks))


def _whole(recipe: Trained) -> str | None:
    """The setting that needs whole groups on each device: it deals groups to the devices, or compares within them."""
    if not isinstance(recipe, GrpoRecipe):
        return None
    rollout = recipe.rollout
    given = {
        "rollout.dynamic_sampling": rollout.dynamic_sampling,
        "curriculum": recipe.curriculum,
        "rollout.async": rollout.asynchronous,
    }
    compare = [f"rewards: {r.name}" for r in recipe.rewards if (known := facts_of(r.name)) and known.compares]
    return next((name for name, section in given.items() if section), next(iter(compare), None))


def _per_device(recipe: GrpoRecipe, ranks: int) -> Problems:
    """The problems of a grpo stage whose update depends on the number of devices."""
    train, group, size = recipe.train, recipe.rollout.num_generations, _size(recipe)
    step = size * ranks
    steps = train.get("steps_per_generation") or train.get("gradient_accumulation_steps") or 1
    key, whole = _ROLLOUT, train.get(_ROLLOUT)
    if whole is not None and whole % step:
        near = _near(whole, step)
        return [(("train", key), f"{whole}: not a multiple of the {step} completions of one step: set {near}")]
    if whole is None:
        key, whole = _SIZE, step * steps
    if whole % group == 0:
        return _whole_groups(recipe, whole // ranks)
    if key == _ROLLOUT:
        near, made = _near(whole, math.lcm(group, step)), ""
    else:
        near = _near(size, group // math.gcd(group, whole // size))
        made = f"{size} x {counted(ranks, 'GPU')} x {counted(steps, 'step')} = "
    divisors = [divisor for divisor in range(2, whole + 1) if whole % divisor == 0]
    groups = sorted(sorted(divisors, key=lambda divisor: (abs(divisor - group), divisor))[:3])
    message = f"{made}{whole} completions do not divide into groups of {group}: set train.{key} to {near}"
    if groups:
        message += f", or rollout.num_generations to {either(groups)}"
    return [(("train", key) if key in train else ("rollout", "num_generations"), message)]


def _whole_groups(recipe: GrpoRecipe, each: int) -> Problems:
    """Whether the `each` completions of a GPU are whole groups, where a setting requires it."""
    group, name = recipe.rollout.num_generations, _whole(recipe)
    if name is None or each % group == 0:
        return []
    fix = f"set train.per_device_train_batch_size to a multiple of {group}"
    return [
        (
            tuple(name.partition(":")[0].split(".")),
            f"a GPU has {each} completions per batch, but needs whole groups of {group}: {fix}",
        )
    ]


def _near(value: int, multiple: int) -> str:
    """The multiples just below and above a value."""
    below = value // multiple * multiple
    return either([n for n in (below, below + multiple) if n > 0])


def groups(recipe: GrpoRecipe) -> int:
    """The number of groups, each for a different row, that a grpo recipe generates at once over all devices."""
    return of(recipe).rollout // recipe.rollout.num_generations


def too_few_rows(recipe: GrpoRecipe, rows: int, *, tiny: bool = False) -> tuple[str, str] | None:
    """The problem and the fix if a grpo recipe's `rows` do not fill a generation batch; None if they do.

    TRL's sampler drops an incomplete batch, so there would be no training step at all.

    Args:
        tiny: The batch was set by `--tiny`, so the fix should not be to lower it.
    """
    needed, train = groups(recipe), recipe.train
    if rows >= needed:
        return None
    key = next((key for key in (_ROLLOUT, _UPDATE) if train.get(key)), _SIZE)
    held = train.get(key, _size(recipe))
    most = next((n for n in range(held * rows // needed, 0, -1) if not problems(_with(recipe, key, n))), None)
    smaller = f", or lower train.{key} to at most {most}" if most and not tiny else ""
    what = f"{counted(rows, 'row')}, but a generation batch has {needed} groups, each for a different row"
    return f"{what}: there would be no training step", f"use at least {needed} rows{smaller}"


def _with(recipe: GrpoRecipe, key: str, value: int) -> GrpoRecipe:
    return recipe.model_copy(update={"train": recipe.train | {key: value}})


def no_steps(train: dict) -> Problems:
    """Settings with which training would end before its first step, and save an untrained model as finished."""
    steps, epochs = train.get("max_steps", -1), train.get("num_train_epochs", 1)
    if steps != -1 and steps < 1:
        what = f"{steps}: there would be no training step: set at least 1, or remove it to train by epochs"
        return [(("train", "max_steps"), what)]
    if steps == -1 and epochs <= 0:
        what = f"{epochs:g}: there would be no training step: set it above 0, or set train.max_steps"
        return [(("train", "num_train_epochs"), what)]
    return []
