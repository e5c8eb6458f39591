"""Models sharded over ranks by FSDP2: their settings, and whole copies of them for saving."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1lab.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel

_USED = "ACCELERATE_USE_FSDP"


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


def whole(accelerator, model, dtype=None):
    """Returns a model with all of its weights on rank 0, and None on the other ranks; all ranks have to call it.

    A model that is not sharded, and whose weights have the wanted dtype, is returned itself. Otherwise it is a copy on
    the CPU, which can be saved, but not run, because it lacks the buffers that are not saved.

    Args:
        dtype: The dtype of the copy's weights, while those that are trained may be float32; None for their own.
    """
    other = dtype is not None and model.dtype != dtype
    state = accelerator.get_state_dict(model) if is_sharded(model) else model.state_dict()
    if not accelerator.is_main_process:
        return None
    if not is_sharded(model) and not other:
        return model
    copy = _without_weights(model)
    if other:
        kept = getattr(model, "_keep_in_fp32_modules_strict", None) or ()  # which transformers loads as float32
        state = {
            name: value.cpu()
            if not value.is_floating_point() or any(part in name for part in kept)
            else value.to("cpu", dtype)
            for name, value in state.items()
        }
    copy.load_state_dict(state, assign=True)
    if hasattr(copy, "tie_weights"):
        copy.tie_weights()
    return copy


def load(model, file: Path) -> None:
    """Loads the weights of a safetensors file, in which tied weights occur once, into a model, sharded or not."""
    from safetensors.torch import load_file, load_model
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    if not is_sharded(model):
        load_model(model, file)
        return
    options = StateDictOptions(full_state_dict=True, strict=False)
    state: dict[str, Any] = {**load_file(file)}
    set_model_state_dict(model, state, options=options)


def fit_checkpoint(folder: Path, *, sharded: bool) -> None:
    """Gives a checkpoint of a sharded training the files that one without sharding resumes from.

    Both have the weights in transformers' files. The state of the optimizer is by names of parameters if it was
    sharded, in the order in which an optimizer without sharding numbers them.

    Raises:
        UserError: The checkpoint was written with the other strategy and cannot be converted.
    """
    import torch

    weights, optimizer = folder / "pytorch_model_fsdp.bin", folder / "optimizer.bin"
    if any(folder.glob("pytorch_model_fsdp*")) == sharded:
        return
    if sharded:
        raise UserError(f"launch.strategy: fsdp2: {folder} was written without it: set launch.strategy: ddp to resume")
    if not weights.exists():
        raise UserError(f"{folder}: its weights are in shards: resume with the strategy that it was written with")
    state = torch.load(optimizer, weights_only=True, map_location="cpu")
    numbers = {name: number for number, name in enumerate(n for g in state["param_groups"] for n in g["params"])}
    state["state"] = {numbers[name]: values for name, values in state["state"].items()}
    for group in state["param_groups"]:
        group["params"] = [numbers[name] for name in group["params"]]
    torch.save(state, folder / "optimizer.pt")
    weights.unlink()
    optimizer.unlink()


def _without_weights(model):
    """Returns a model of the same kind on torch's meta device: of the class that FSDP2 derived its own from."""
    import torch
    from accelerate.utils import is_peft_model
    from peft import PeftModel
    from torch.distributed.fsdp import FSDPModule

    if is_peft_model(model):
        with torch.device("meta"):
            copy = PeftModel(_without_weights(model.get_base_model()), model.active_peft_config)
        return copy
    kind = next(c for c in type(model).__mro__ if not issubclass(c, FSDPModule))
    with torch.device("meta"):
        copy = kind(model.config)
    copy.generation_config = model.generation_config if model.can_generate() else None
    return copy
