"""The ranks of a stage: settings of `launch` that do not fit together, and what `strategy: auto` means."""

from r1lab.recipe.schema import StageRecipe
from r1lab.recipe.sections import TrainLaunch
from r1lab.recipe.values import Problems

SHARDING = ("fsdp", "deepspeed")
"""Fields of `train` that say how ranks share the model, in place of `launch.strategy`."""


def problem(ranks: int) -> str:
    """Why a stage cannot run on this number of ranks; empty if it can.

    One process alone would take longer than the recipe says, and without `train.global_batch_size` its batch would be
    smaller, so training must not silently start with it.

    >>> problem(1)
    ''
    """
    if ranks == 1:
        return ""
    return (
        f"{ranks} GPUs: a run starts only one process so far: set launch.gpus: 1, and "
        f"train.gradient_accumulation_steps {ranks} times as high for the same update, unless the recipe sets "
        "train.global_batch_size"
    )


def problems(recipe: StageRecipe) -> Problems:
    """Settings of a training stage's `launch` that contradict each other or the rest of the recipe."""
    launch: object = getattr(recipe, "launch", None)
    if not isinstance(launch, TrainLaunch) or launch.strategy == "auto":
        return []
    keys, found = ("launch", "strategy"), []
    for name in SHARDING:
        if getattr(recipe, "train", {}).get(name):
            what = f"{launch.strategy}: train.{name} also says how the ranks share the model: remove one of the two"
            found.append((keys, what))
    if launch.strategy == "fsdp2" and launch.ranks == 1:
        found.append((keys, "fsdp2: needs several ranks to shard the model over: set launch.gpus to at least 2"))
    lora = getattr(recipe.model, "lora", None)
    if launch.strategy == "fsdp2" and lora and lora.quantize:
        what = f"fsdp2: cannot shard a model in {lora.quantize}: set ddp, or remove model.lora.quantize"
        found.append((keys, what))
    return found


def strategy(config: dict, *, gpu: bool) -> str:
    """The strategy of a stage's resolved recipe: `ddp` or `fsdp2`.

    It is `auto` where nothing is left to decide: for one rank, for a stage that does not train, and where the recipe
    has TRL's own `train.fsdp` or `train.deepspeed`.

    Args:
        config: The resolved recipe as plain data.
        gpu: Whether the ranks have GPUs. Without them sharding saves no memory: all ranks share one.

    >>> strategy({"launch": {"strategy": "auto", "gpus": 8, "nodes": 1}, "model": {}, "train": {}}, gpu=True)
    'fsdp2'
    """
    launch, train = config.get("launch") or {}, config.get("train") or {}
    given = launch.get("strategy", "auto")
    several = launch.get("gpus", 1) * launch.get("nodes", 1) > 1
    if given != "auto" or "strategy" not in launch or not several or any(train.get(name) for name in SHARDING):
        return given
    return "ddp" if config["model"].get("lora") or not gpu else "fsdp2"


def resolved(config: dict, *, gpu: bool) -> dict:
    """A resolved recipe, of a stage or a pipeline, with the strategy that `auto` means on this machine."""
    if "stages" in config:
        return config | {"stages": [resolved(part, gpu=gpu) for part in config["stages"]]}
    if "strategy" not in (config.get("launch") or {}):
        return config
    return config | {"launch": config["launch"] | {"strategy": strategy(config, gpu=gpu)}}
