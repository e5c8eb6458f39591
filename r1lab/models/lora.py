"""LoRA adapters: their settings, and merging them into a model's weights."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from r1lab.errors import UserError


def lora_config(lora):
    """Returns peft's `LoraConfig` for a recipe's `model.lora`, or None."""
    if lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM accepts as the maximum rank of adapters."""


def rank_in_vllm(lora) -> int | None:
    """Returns vLLM's `max_lora_rank` for a recipe's `model.lora`; None if vLLM cannot apply such adapters itself.

    It cannot on the embedding or the head, and a base that is quantized here is another one than vLLM's.

    >>> from types import SimpleNamespace
    >>> rank_in_vllm(SimpleNamespace(r=12, quantize=None, target_modules="all-linear"))
    16
    >>> rank_in_vllm(SimpleNamespace(r=12, quantize=None, target_modules=["q_proj", "lm_head"]))
    """
    if lora is None or lora.quantize:
        return None
    if lora.target_modules != "all-linear":  # which leaves out the head
        if isinstance(lora.target_modules, str) or {"embed_tokens", "lm_head"} & set(lora.target_modules):
            return None
    return next((rank for rank in RANKS if rank >= lora.r), None)


def add_frozen(model, folder: str | Path, name: str) -> None:
    """Loads another adapter of the base of a LoRA model into it; it is neither trained nor active.

    Args:
        folder: An adapter that `r1lab.models.loading.unshared` accepts.
        name: Its name in the model, for `acting`.

    Raises:
        UserError: The adapter is on the head too, whose weight is read without one.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    model.load_adapter(folder, name, torch_device="cpu")
    if isinstance(model.get_base_model().get_output_embeddings(), BaseTunerLayer):
        second = "remove share_base, to load the teacher as a second model"
        raise UserError(f"teacher.path: {folder}: changes the head of the base: {second}")


@contextmanager
def acting(model, name: str) -> Iterator[None]:
    """Makes a LoRA model the one with another of its adapters, in evaluation mode, within the context.

    peft's `set_adapter` would also decide anew which adapters are trained, which FSDP2 reads once: in its first
    forward pass.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    before, was_training = [layer._active_adapter for layer in layers], model.training
    model.eval()  # dropout is for the adapter that is trained
    try:
        for layer in layers:
            layer._active_adapter = [name]
        yield
    finally:
        for layer, active in zip(layers, before):
            layer._active_adapter = active
        model.train(was_training)


def adapter(model) -> tuple[dict, Iterator[tuple]]:
    """Returns the adapter of a LoRA model as vLLM reads it: its config, and the names and weights.

    Weights that FSDP2 has sharded are gathered; all ranks have to go through all of them.

    Args:
        model: A `PeftModel`, whose active adapter is LoRA.
    """
    from peft import get_peft_model_state_dict
    from torch.distributed.tensor import DTensor

    settings = model.active_peft_config
    config = {name: getattr(settings, name) for name in ("r", "lora_alpha", "bias", "use_rslora", "use_dora")}
    config |= {"peft_type": "LORA", "target_modules": sorted(settings.target_modules)}
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = ((name, w.full_tensor() if isinstance(w, DTensor) else w) for name, w in state.items())
    return config, weights


def merged_weights(model) -> Iterator[tuple]:
    """Yields the names and the merged weights of a LoRA model, one at a time; the model itself is unchanged.

    Of several adapters the active one is merged.

    peft's `merge_adapter` and `unmerge_adapter` round the base's own weights each time, and requantize those of a
    quantized base. Here a quantized base is dequantized, and the sum is rounded once, to the dtype that the base was
    loaded with. Weights that FSDP2 has sharded are gathered; all ranks have to go through all of them.

    Args:
        model: A `PeftModel`, whose active adapter is LoRA.
    """
    import torch
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight
    from torch.distributed.tensor import DTensor

    base = model.get_base_model()
    quantized = hasattr(base.config, "quantization_config")
    for name, parameter in base.named_parameters():
        if model.prefix in name:
            continue
        layer_name, _, kind = name.replace(".base_layer", "").rpartition(".")
        layer = base.get_submodule(layer_name)
        weight = parameter.detach()
        if kind == "weight":
            weight = dequantize_module_weight(base.get_submodule(name.rpartition(".")[0])).detach()
            if isinstance(layer, LoraLayer):
                with torch.no_grad():
                    # A layer of which only another adapter has matrices lacks those of the active one.
                    for adapter in set(layer.active_adapters) & {*layer.lora_A, *layer.lora_embedding_A}:
                        # Every subclass of LoraLayer has this method, but the base class does not.
                        delta = layer.get_delta_weight(adapter)  # pyright: ignore[reportAttributeAccessIssue]
                        weight = weight + delta
        if isinstance(weight, DTensor):
            weight = weight.full_tensor()
        yield f"{layer_name}.{kind}", weight.to(base.config.dtype if quantized else parameter.dtype)


def merged(model):
    """Returns a LoRA model with its adapters merged, for saving; it shares weights without an adapter with `model`."""
    import torch

    untie(model)
    base = model.get_base_model()
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = type(base)(config)
    plain.load_state_dict(dict(merged_weights(model)), strict=False, assign=True)  # tied weights occur once
    plain.tie_weights()
    plain.generation_config = base.generation_config
    return plain


def untie(model) -> bool:
    """Gives the embedding and the head of a LoRA model separate weights, if they share one and either has an adapter.

    Merged into the shared weight, the adapter of one would also change the other. Returns whether they shared it.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    base = model.get_base_model()
    ends = [layer for layer in (base.get_input_embeddings(), base.get_output_embeddings()) if layer is not None]
    plain = [layer.get_base_layer() if isinstance(layer, LoraLayer) else layer for layer in ends]
    if not any(isinstance(layer, LoraLayer) for layer in ends) or len(ends) < 2:
        return False
    shared = plain[1].get_parameter("weight")
    if plain[0].get_parameter("weight") is not shared:
        return False
    plain[1].weight = torch.nn.Parameter(shared.detach().clone(), requires_grad=False)
    base.config.tie_word_embeddings = False
    return True
