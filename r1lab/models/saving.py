"""Saves a model so that other versions of transformers and vLLM can read it, and compares it with the trained one."""

import json
import os
import tempfile
from pathlib import Path

from r1lab.errors import UserError
from r1lab.models.loading import load_model
from r1lab.models.lora import merged
from r1lab.rundir import storage

EXACT, ROUNDED = 1e-3, 0.1
"""The maximum difference of a saved model from the trained one in nats per token: in float32; and if a merged sum is
rounded once more, or a GPU computes bfloat16 differently from a CPU."""
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")


def save(model, tokenizer, folder: str | os.PathLike, *, merge: bool = True) -> None:
    """Saves plain Hugging Face safetensors, for the next stage. A LoRA model is merged into a copy.

    Args:
        merge: Whether a LoRA model is merged; if not, only its active adapter is saved, in peft's format.
    """
    from accelerate.utils import is_peft_model

    if not is_peft_model(model):
        model.save_pretrained(folder)
    elif merge:
        merged(model).save_pretrained(folder)
    else:
        # "auto" would query the Hub about the base, and add a copy of a resized embedding.
        model.save_pretrained(folder, selected_adapters=model.active_adapters, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    make_readable(Path(folder))


def make_readable(folder: Path) -> None:
    """Adds the keys that transformers 4, and engines that use it, need to the files of a saved model.

    `config.json` gets version 4's keys in addition to those of version 5; without `rope_theta`, version 4 would use
    10,000 without an error. `tokenizer_config.json` gets a class and a list of special tokens that both know.
    """
    if (config := folder / "config.json").is_file():
        storage.write_json_atomic(config, _with_old_keys(_read(config)))
    file = folder / "tokenizer_config.json"
    settings = _read(file)
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    storage.write_json_atomic(file, settings)


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _with_old_keys(config: dict) -> dict:
    """Returns a config, and its nested configs, with version 4's keys for the dtype and rotary embeddings.

    >>> _with_old_keys({"dtype": "bfloat16", "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})
    {'dtype': 'bfloat16', 'rope_parameters': {'rope_type': 'default', 'rope_theta': 1000000.0}, \
'torch_dtype': 'bfloat16', 'rope_theta': 1000000.0}
    """
    config = {key: _with_old_keys(value) if key.endswith("_config") and isinstance(value, dict) else value
              for key, value in config.items()}  # fmt: skip
    old = {"torch_dtype": config["dtype"]} if config.get("dtype") else {}
    rope = config.get("rope_parameters") or {}
    if "full_attention" in rope:  # one set per layer type, as in Gemma 3
        local = rope.get("sliding_attention") or {}
        old |= {"rope_local_base_freq": local["rope_theta"]} if "rope_theta" in local else {}
        rope = rope["full_attention"] or {}
    old |= {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    if rope.get("rope_type", "default") != "default":
        old["rope_scaling"] = {key: value for key, value in rope.items() if key not in old}
    if config.get("model_type") == "gpt_neox":
        names = {"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"}
        old |= {name: rope[key] for name, key in names.items() if key in rope}
    if "num_local_experts" in config:  # Qwen's mixtures of experts use num_experts in version 4
        old["num_experts"] = config["num_local_experts"]
    return config | {key: value for key, value in old.items() if key not in config}


def check_saveable(model, tokenizer) -> list[str]:
    """Checks before training that everything but the weights of a model can be saved.

    Returns:
        The changes that this needed, one line each.

    Raises:
        UserError: The configuration cannot be saved.
    """
    from accelerate.utils import is_peft_model

    model = model.get_base_model() if is_peft_model(model) else model
    generation = model.generation_config if model.can_generate() else None
    changed = repaired(generation) if generation is not None else []
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.config.save_pretrained(folder)
            if generation is not None:
                generation.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except ValueError as error:
            why = " ".join(str(error).split())
            raise UserError(f"model.path: its files could not be saved after training; fix them: {why}") from error
    return changed


def repaired(generation_config) -> list[str]:
    """Removes sampling settings, which have no effect, from a greedy generation config; returns a line if it did.

    transformers reads such a file with a warning and refuses to save it.
    """
    try:
        generation_config.validate(strict=True)
    except ValueError:
        if generation_config.do_sample:
            return []
        default = type(generation_config)()
        idle = [key for key in _SAMPLING if getattr(generation_config, key, None) != getattr(default, key, None)]
        for key in idle:
            setattr(generation_config, key, getattr(default, key, None))
        if idle:
            what = ", ".join(idle)
            return [f"generation_config.json: {what} without do_sample has no effect and is not saved with the model"]
    return []


def logits(model):
    """Returns a model's logits for a few tokens, the same for each model of its vocabulary, as float32 on the CPU.

    All ranks of a sharded model have to call it.
    """
    import torch

    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(0, vocabulary, (2, 32), generator=torch.Generator().manual_seed(0))
    was_training = model.training
    with torch.no_grad():
        found = model.eval()(ids.to(model.device), use_cache=False).logits.float().cpu()
    model.train(was_training)
    return found


def compare(model, folder: Path, *, ours=None, scores: bool = False, trust_remote_code: bool = False) -> float:
    """Returns how much a saved model differs from the trained one, in nats per token.

    The folder is loaded on the CPU, and both models get the same tokens. The difference is the |difference| of the
    log-probabilities of the next token, averaged over the distribution of the trained model.

    Args:
        ours: The `logits` of the trained model, if `model` is only a copy of it for saving.
        scores: Whether it is a reward model, whose scores are compared.

    Raises:
        UserError: They differ by more than rounding explains.
    """
    dtype = str(model.dtype).removeprefix("torch.")
    ours = logits(model) if ours is None else ours
    theirs = logits(load_model(str(folder), dtype=dtype, scores=scores, trust_remote_code=trust_remote_code))
    difference = (ours - theirs).abs().mean()
    if not scores:
        ours, theirs = ours.log_softmax(dim=-1), theirs.log_softmax(dim=-1)
        difference = (ours.exp() * (ours - theirs).abs()).sum(dim=-1).mean()
    limit = EXACT if dtype == "float32" and not getattr(model, "is_quantized", False) else ROUNDED
    if not difference <= limit:
        raise UserError(
            f"{folder}: the saved model is not the trained one: they differ by {difference:.2g} nats per "
            f"token, and rounding explains only {limit:g}; the trained weights are in the checkpoints",
            status=1,
        )
    return difference.item()
