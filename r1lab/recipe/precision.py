"""The dtypes of a training stage: of the weights that it trains, and of what it computes.

`model.dtype` is what a step computes in, what is saved, and what an engine and a reference model have. The weights
that are trained are float32 nevertheless ("master weights", arXiv:1710.03740, section 3.1), with one GPU, `ddp` and
`fsdp2` alike: bfloat16 has 8 significant bits, and an update below 1/256 of a weight would be lost in rounding.
"""

from r1lab.recipe.schema import Trained
from r1lab.recipe.sections import Lora
from r1lab.recipe.values import Problems

_SWITCHES = {"bfloat16": "bf16", "float16": "fp16"}
"""TRL's field that computes in each dtype with weights of another one."""


def _lora(recipe: Trained) -> Lora | None:
    return getattr(recipe.model, "lora", None)  # a reward stage trains all weights


def has_masters(recipe: Trained) -> bool:
    """Whether all weights are trained, as float32. Adapters of LoRA are float32 anyway, and their base is frozen."""
    return not _lora(recipe) and recipe.train.get("master_weights") is not False


def weights(recipe: Trained, dtype: str) -> str:
    """The dtype in which a stage loads its model.

    Args:
        dtype: `model.dtype`, where `auto` has been replaced by what it is on the device.
    """
    return "float32" if has_masters(recipe) else dtype


def computed(recipe: Trained, dtype: str) -> str | None:
    """The dtype in which a stage computes by autocast, None if it computes in the dtype of its weights.

    `train.bf16` and `train.fp16` override `model.dtype`, which is `dtype` as in `weights`.
    """
    for name, switch in _SWITCHES.items():
        if recipe.train.get(switch):
            return name
    if dtype not in _SWITCHES or recipe.train.get(_SWITCHES[dtype]) is False:
        return None
    return dtype if _lora(recipe) or has_masters(recipe) else None


def problems(recipe: Trained) -> Problems:
    """Settings that contradict `train.master_weights: false`."""
    if _lora(recipe) or has_masters(recipe):
        return []
    keys, found = ("train", "master_weights"), []
    for switch in _SWITCHES.values():
        if recipe.train.get(switch):
            what = f"false: weights in model.dtype are also computed in it: remove train.{switch}"
            found.append((keys, what))
    if recipe.train.get("deepspeed"):
        found.append((keys, "false: DeepSpeed keeps float32 weights of its own: remove it"))
    return found
