"""The ranks of a stage: settings of `launch` that do not fit together or this machine, and what `auto` means."""

from urllib.parse import urlsplit

from r1lab.net import is_loopback
from r1lab.recipe.devices import TrainLaunch
from r1lab.recipe.schema import GrpoRecipe, StageRecipe, Trained, on_policy
from r1lab.recipe.values import Problems
from r1lab.recipe.yaml_source import Keys
from r1lab.text import counted

SHARDING = ("fsdp", "deepspeed")
"""Fields of `train` that say how ranks share the model, in place of `launch.strategy`."""


def refused(gpus: int, nodes: int, here: int, in_job: int = 1) -> tuple[Keys, str, str] | None:
    """Why `r1lab run` cannot start the ranks of a stage on this machine: the keys, the problem and the fix.

    Args:
        gpus: Its `launch.gpus`.
        nodes: Its `launch.nodes`.
        here: The GPUs of this machine; without one, `launch.gpus` is a number of processes.
        in_job: The nodes of the Slurm job that this machine belongs to.

    >>> refused(8, 1, here=2)
    (('launch', 'gpus'), '8: this machine has 2 GPUs', 'set launch.gpus=2')
    """
    if nodes > in_job > 1:
        return ("launch", "nodes"), f"{nodes}: this Slurm job has {in_job} nodes", f"set launch.nodes={in_job}"
    if nodes > in_job:
        fix = "submit it with `r1lab run ... --submit`, or see docs/scale.md for clusters without Slurm"
        return ("launch", "nodes"), f"{nodes}: only a Slurm job has several nodes, and this is none", fix
    if here and gpus > here:
        return ("launch", "gpus"), f"{gpus}: this machine has {counted(here, 'GPU')}", f"set launch.gpus={here}"
    return None


def crowded(gpus: int, here: int, cores: int) -> tuple[Keys, str, str] | None:
    """What is wrong with this number of processes on a machine without GPUs, as `refused` says it.

    >>> crowded(2, here=0, cores=2)
    """
    if here or gpus <= cores:
        return None
    what = f"{gpus}: this machine has no GPU, and {gpus} processes share {counted(cores, 'core')}"
    return ("launch", "gpus"), what, f"set launch.gpus={cores}"


def problems(recipe: StageRecipe) -> Problems:
    """Settings of a training stage's `launch` that contradict each other or the rest of the recipe."""
    launch: object = getattr(recipe, "launch", None)
    if isinstance(recipe, GrpoRecipe) and (found := _server_problems(recipe)):
        return found
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


def _server_problems(recipe: GrpoRecipe) -> Problems:
    """Settings of servers that generate the rollouts which contradict each other."""
    launch, rollout, split = recipe.launch, recipe.rollout, recipe.rollout.tensor_parallel
    found: Problems = []
    keys = ("launch", "rollout") if launch.generators else ("rollout", "url")
    if not launch.generators and not rollout.url:
        if split > 1:
            ways = "set launch.rollout: server, or train.vllm_tensor_parallel_size"
            found.append((("rollout", "tensor_parallel"), f"{split}: only servers split the model so: {ways}"))
        return found
    if launch.generators and rollout.url:
        found.append((("rollout", "url"), "has no effect with launch.rollout: server: remove one of the two"))
    if rollout.engine == "transformers":
        found.append((("rollout", "engine"), "transformers: the servers run vLLM: set auto"))
    count = launch.rollout_gpus
    if launch.generators and launch.ranks < 1:
        what = f"{count}: leaves no device to train on: set launch.gpus to at least {count + 1}"
        found.append((("launch", "rollout_gpus"), what))
    if launch.generators and count % split:
        near = max(split, count // split * split)
        what = f"{count}: does not divide into servers of {split} GPUs (rollout.tensor_parallel): set {near}"
        found.append((("launch", "rollout_gpus"), what))
    if launch.nodes > 1 and not rollout.sync_folder:
        what = "servers and several nodes: set rollout.sync_folder to a folder that all of them share, for new weights"
        found.append((keys, what))
    for url in [rollout.url] if isinstance(rollout.url, str) else rollout.url or []:
        if launch.nodes > 1 and is_loopback(urlsplit(url).hostname or ""):
            found.append((keys, f"{url}: other nodes do not reach this address: give one that they do"))
    for key in ("vllm_enable_sleep_mode", "vllm_tensor_parallel_size"):
        if recipe.train.get(key):
            found.append((("train", key), "has no effect with servers: remove it"))
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
    generators = launch.get("rollout_gpus", 1) if launch.get("rollout") == "server" else 0
    several = (launch.get("gpus", 1) - generators) * launch.get("nodes", 1) > 1
    if given != "auto" or "strategy" not in launch or not several or any(train.get(name) for name in SHARDING):
        return given
    return "ddp" if config["model"].get("lora") or not gpu else "fsdp2"


def of(recipe: Trained, *, gpu: bool) -> str:
    """The strategy of a training stage's recipe, as `strategy` says it."""
    sections = {"launch": recipe.launch.model_dump(), "model": recipe.model.model_dump(), "train": recipe.train}
    return strategy(sections, gpu=gpu)


def resolved(config: dict, *, gpu: bool) -> dict:
    """A resolved recipe, of a stage or a pipeline, with the strategy that `auto` means on this machine."""
    if "stages" in config:
        return config | {"stages": [resolved(part, gpu=gpu) for part in config["stages"]]}
    if "strategy" not in (config.get("launch") or {}):
        return config
    return config | {"launch": config["launch"] | {"strategy": strategy(config, gpu=gpu)}}


def comparable(config: dict) -> dict:
    """A stage's resolved recipe without the settings of `launch` that leave its results as they are.

    A training whose update is set by `train.global_batch_size` is the same on any number of ranks and with any
    strategy, and so is a stage that does not train. Whether a checkpoint fits another strategy is decided when it is
    read (`r1lab.models.shard.fit_checkpoint`).

    >>> comparable({"launch": {"gpus": 2, "timeout": 60, "strategy": "ddp"}, "train": {"global_batch_size": 64}})
    {'launch': {}, 'train': {'global_batch_size': 64}}
    """
    launch = config.get("launch") or {}
    kept = {key: launch.get(key, 1) for key in ("gpus", "nodes")}
    if "strategy" not in launch or (config.get("train") or {}).get("global_batch_size"):
        kept = {}
    found = config | {"launch": kept} if "launch" in config else config
    if on_policy(str(config.get("stage"))) and "url" in (config.get("rollout") or {}):
        found["rollout"] = {key: value for key, value in config["rollout"].items() if key != "url"}
    return found
