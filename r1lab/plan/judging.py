"""Models that rewards load: their memory, and the time in which they read the completions."""

from typing import TypeAlias

from r1lab.check.look import start_of
from r1lab.errors import UserError
from r1lab.plan import cost, shapes
from r1lab.plan.gpus import Device
from r1lab.plan.shapes import Shape
from r1lab.recipe.schema import StageRecipe
from r1lab.rewards.facts import facts_of

Judges: TypeAlias = dict[str, Shape | None]
"""The shapes of the models that the rewards of a stage load, by path; None for one that cannot be read."""


def models(recipe: StageRecipe, earlier: dict[str, StageRecipe]) -> Judges:
    """The models that the rewards of a stage load.

    Args:
        earlier: The stages before it by name, whose models `@STAGE/model` means.
    """
    paths = [
        reward.parameters.get("model") for reward in getattr(recipe, "rewards", []) if _loads_a_model(reward.name)
    ]
    return {path: _shape(start_of(path, earlier)) for path in paths if path}


def _shape(path: str) -> Shape | None:
    try:
        return shapes.find(path)
    except UserError:
        return None


def _loads_a_model(name: str) -> bool:
    known = facts_of(name)
    return known is not None and known.asks == "model"


def size(judges: Judges, device: Device) -> int:
    """Bytes of the models on a device, where rewards load them in bfloat16 on a GPU and in float32 on a CPU."""
    return sum(shape.parameters for shape in judges.values() if shape) * (2 if device.cuda else 4)


def seconds(judges: Judges, texts: float, tokens: float, device: Device) -> float:
    """Seconds in which a device reads `texts` of `tokens` tokens each with all models, at the rate of training."""
    known = [shape for shape in judges.values() if shape]
    work = [(shape, cost.forward(shape, texts * tokens, tokens / 2)) for shape in known]
    return sum(cost.training(shape, flops, device, devices=1) for shape, flops in work)


def unread(judges: Judges) -> tuple[str, ...]:
    """What is assumed about models that cannot be read."""
    return tuple(f"the reward model {path} cannot be read and is not counted" for path in judges if not judges[path])
