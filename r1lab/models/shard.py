"""Models sharded over ranks by FSDP2: their settings, their checkpoints, and whole copies of them for saving."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1lab import hardware, ranks
from r1lab.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

_USED = "ACCELERATE_USE_FSDP"

SHARDS, OPTIMIZER_SHARDS = "pytorch_model_fsdp_0", "optimizer_0"
"""accelerate's folders of a checkpoint in shards."""

STATE = 12
"""Bytes of a checkpoint for each trained parameter: the weight in float32, and Adam's two states."""

GATHERED = 100e9
"""The largest checkpoint in bytes that rank 0 gathers and writes alone. At 1 GB/s the other ranks wait for 100 s."""


def settings() -> dict[str, Any]:
    """Returns transformers' training arguments for FSDP2: each transformer layer is sharded over all ranks.

    From when the configuration is made to `all_ranks_read`, only the first rank of a machine reads the weights of
    models; the others get theirs from rank 0 when the model is sharded.
    """
    import torch

    os.environ[_USED] = "true"
    more = {"ddp_backend": "cuda:nccl,cpu:gloo"} if torch.cuda.is_available() else {}  # whole weights go to the CPU
    return more | {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "state_dict_type": "FULL_STATE_DICT",
            "cpu_ram_efficient_loading": True,
        },
        # Without synchronization, each rank would keep the gradients of all weights until the end of the step.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }


def off() -> None:
    """Makes the next configuration one without FSDP: accelerate leaves it on for the rest of the process."""
    os.environ.pop(_USED, None)


def all_ranks_read() -> None:
    """Makes all ranks read the weights of models again. Call it when the models that are sharded are there: others,
    such as a reward model, get no weights from rank 0."""
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def reduce_in_float32(config) -> None:
    """Makes FSDP2 compute in the half precision of a configuration, and add the gradients of all ranks in float32.

    accelerate's own policy adds them in half precision, which DDP does not, and rounds what the model returns to it,
    the loss and the log-probabilities included.

    Args:
        config: Training arguments with `fsdp` and `bf16` or `fp16`.
    """
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy

    dtype = torch.bfloat16 if config.bf16 else torch.float16
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    config.fsdp_plugin_args["mixed_precision_policy"] = policy


def allow_cpu() -> None:
    """Lets accelerate shard models on a CPU, which it ignores without a message; call it after the config is made.

    accelerate 1.15 knows FSDP only for kinds of devices, but torch shards on the CPU as well.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def prepare(model: "PreTrainedModel", accelerator: "Accelerator") -> "PreTrainedModel":
    """Shards a model that is not trained, such as a reference model, like the one that is.

    It has the place of TRL's `prepare_fsdp`, which leaves the ranks that read no weights without them, and gathers all
    layers at once.
    """
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model
    from torch.distributed.fsdp import FSDPModule

    model.requires_grad_(False)  # accelerate would keep its weights in float32, as if they were trained
    fsdp2_prepare_model(accelerator, model)  # in place: it changes the model's class
    assert isinstance(model, FSDPModule)
    model.set_reshard_after_forward(True)  # no backward pass does it, and a sync needs the sharded weights
    return model.eval()


def is_sharded(model) -> bool:
    """Whether FSDP2 has sharded a model."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def choose_form(trainer, checkpoint: str | None) -> None:
    """Decides whether rank 0 gathers the checkpoints of a sharded training, or each rank writes its own shards.

    A gathered checkpoint can be resumed on one process too. It has to be smaller than `GATHERED` and than half of the
    memory of rank 0's machine. A training that resumes keeps the form of its checkpoint.
    """

    def fits() -> bool:
        if checkpoint:
            return not (Path(checkpoint) / SHARDS).exists()
        size = sum(p.numel() * (STATE if p.requires_grad else p.element_size()) for p in trainer.model.parameters())
        return size <= min(GATHERED, hardware.memory().allowed / 2)

    if trainer.args.save_only_model or ranks.from_main(fits):  # a model alone is only saved if it is gathered
        return
    plugin = trainer.accelerator.state.fsdp_plugin
    plugin.state_dict_config = plugin.optim_state_dict_config = None  # they are those of the other form
    plugin.set_state_dict_type("SHARDED_STATE_DICT")


def whole(accelerator, model, dtype=None):
    """Returns a model with all of its weights on rank 0, and None on the other ranks; all ranks have to call it.

    A model that is not sharded, and whose weights have the wanted dtype, is returned itself. Otherwise it is a copy on
    the CPU, which can be saved, but not run, because it lacks the buffers that are not saved. Sharded weights are
    gathered one at a time.

    Args:
        dtype: The dtype of the copy's weights, while those that are trained may be float32; None for their own.
    """
    from torch.distributed.tensor import DTensor

    other = dtype is not None and model.dtype != dtype
    if not is_sharded(model) and not other:
        return model if accelerator.is_main_process else None
    kept = getattr(model, "_keep_in_fp32_modules_strict", None) or ()  # which transformers loads as float32
    state: dict[str, Any] = {}
    tied: dict[int, Any] = {}  # by the weights of the model: those that are tied are gathered once
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in tied:
            gathered = (value.full_tensor() if isinstance(value, DTensor) else value).detach()
            rounded = other and gathered.is_floating_point() and not any(part in name for part in kept)
            if accelerator.is_main_process:  # a copy: what is gathered may be a part of a tensor with padding
                tied[id(value)] = gathered.to("cpu", dtype if rounded else None, copy=True)
            else:
                tied[id(value)] = None
        state[name] = tied[id(value)]
    if not accelerator.is_main_process:
        return None
    copy = _without_weights(model)
    copy.load_state_dict(state, assign=True)
    if hasattr(copy, "tie_weights"):
        copy.tie_weights()
    return copy


def save_frozen(accelerator, model, file: Path) -> None:
    """Saves the weights of a model that is not trained, for `load_frozen`; all ranks have to call it.

    It is a safetensors file in which tied weights occur once, or, if checkpoints are in shards, a folder of its name
    without the suffix.
    """
    from safetensors.torch import save_model
    from torch.distributed.checkpoint.state_dict import get_model_state_dict
    from torch.distributed.checkpoint.state_dict_saver import save

    if is_sharded(model) and accelerator.state.fsdp_plugin.state_dict_type.name == "SHARDED_STATE_DICT":
        save(get_model_state_dict(model), checkpoint_id=file.with_suffix(""))
        return
    copy = whole(accelerator, model)
    if copy is not None:  # rank 0
        save_model(copy, str(file))


def load_frozen(model, file: Path) -> None:
    """Loads what `save_frozen` wrote, if it wrote anything, into a model, sharded or not."""
    from safetensors.torch import load_file, load_model
    from torch.distributed.checkpoint import state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    if file.with_suffix("").exists():
        shards = state_dict.get_model_state_dict(model)
        load(shards, checkpoint_id=file.with_suffix(""))
        state_dict.set_model_state_dict(model, shards)
    elif file.exists() and is_sharded(model):
        state: dict[str, Any] = {**load_file(file)}
        options = state_dict.StateDictOptions(full_state_dict=True, strict=False)
        state_dict.set_model_state_dict(model, state, options=options)
    elif file.exists():
        load_model(model, file)


def fit_checkpoint(folder: Path, *, sharded: bool) -> None:
    """Gives a checkpoint of a sharded training that rank 0 gathered the files that one without sharding resumes from.

    Both have the weights in transformers' files. The state of the optimizer is by names of parameters if it was
    sharded, in the order in which an optimizer without sharding numbers them.

    Raises:
        UserError: The checkpoint was written with the other strategy and cannot be converted, or lacks shards.
    """
    import torch

    weights, optimizer = folder / "pytorch_model_fsdp.bin", folder / "optimizer.bin"
    if any(folder.glob("pytorch_model_fsdp*")) == sharded:
        if (folder / SHARDS).exists() and (missing := _missing_shards(folder)):
            way = "copy them here, or delete this folder to resume from an earlier checkpoint"
            raise UserError(f"{folder}: shards are missing or incomplete: {', '.join(missing)}: {way}")
        return
    if sharded:
        raise UserError(f"launch.strategy: fsdp2: {folder} was written without it: set launch.strategy: ddp to resume")
    if not weights.exists():
        raise UserError(f"{folder}: its weights are in shards: resume with launch.strategy: fsdp2 on several ranks")
    state = torch.load(optimizer, weights_only=True, map_location="cpu")
    numbers = {name: number for number, name in enumerate(n for g in state["param_groups"] for n in g["params"])}
    state["state"] = {numbers[name]: values for name, values in state["state"].items()}
    for group in state["param_groups"]:
        group["params"] = [numbers[name] for name in group["params"]]
    torch.save(state, folder / "optimizer.pt")
    weights.unlink()
    optimizer.unlink()


def _missing_shards(folder: Path) -> list[str]:
    """Returns the files of a checkpoint in shards that are not there, or shorter than they were written."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    found = []
    for part in sorted({folder / SHARDS, folder / OPTIMIZER_SHARDS, *folder.glob("*/")}):
        if not (part / ".metadata").is_file():
            found.append(f"{part.name}/.metadata")
            continue
        sizes: dict[str, int] = {}
        for shard in FileSystemReader(part).read_metadata().storage_data.values():
            sizes[shard.relative_path] = max(sizes.get(shard.relative_path, 0), shard.offset + shard.length)
        for name, size in sorted(sizes.items()):
            file = part / name
            if not file.is_file() or file.stat().st_size < size:
                found.append(f"{part.name}/{name}")
    return found


def _without_weights(model):
    """Returns a model of the same kind on torch's meta device: of the class that FSDP2 derived its own from."""
    import torch
    from accelerate.utils import is_peft_model
    from peft import PeftModel
    from torch.distributed.fsdp import FSDPModule

    if is_peft_model(model):
        with torch.device("meta"):
            copy = PeftModel(_without_weights(model.get_base_model()), model.active_peft_config)
            for name in model.peft_config.keys() - {model.active_adapter}:
                copy.add_adapter(name, model.peft_config[name])
        return copy
    kind = next(c for c in type(model).__mro__ if not issubclass(c, FSDPModule))
    with torch.device("meta"):
        copy = kind(model.config)
    copy.generation_config = model.generation_config if model.can_generate() else None
    return copy
