"""LoRA adapters: their settings, and the weights of a model that they are merged into."""

import copy
from collections.abc import Iterator


def lora_config(lora):
    """peft's `LoraConfig` for a recipe's `model.lora`, or None."""
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


def merged_weights(model) -> Iterator[tuple]:
    """Names and weights of the plain model that a LoRA model amounts to, one at a time; the model stays as it is.

    peft's `merge_adapter` and `unmerge_adapter` round the base's own weights each time, and requantise those of a
    quantised base; here a base is dequantised, and the sum is rounded once, to the dtype that the base was loaded in.

    Args:
        model: A `PeftModel` with one LoRA adapter.
    """
    import torch
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

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
                    for adapter in layer.active_adapters:
                        # Every kind of LoraLayer has one, and their common class has none.
                        delta = layer.get_delta_weight(adapter)  # pyright: ignore[reportAttributeAccessIssue]
                        weight = weight + delta
        yield f"{layer_name}.{kind}", weight.to(base.config.dtype if quantized else parameter.dtype)


def merged(model):
    """A LoRA model with its adapters merged, to be saved; what has no adapter is shared with `model`."""
    import torch

    untie(model)
    base = model.get_base_model()
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = type(base)(config)
    plain.load_state_dict(dict(merged_weights(model)), strict=False, assign=True)  # not strict: tied weights are once
    plain.tie_weights()
    plain.generation_config = base.generation_config
    return plain


def untie(model) -> bool:
    """Gives embedding and head of a LoRA model a weight each, where they share one and an adapter changes one use.

    Merged into the shared weight, the adapter of one would change the other. Returns whether they shared one.
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
