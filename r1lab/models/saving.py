"""Saving a model: as what other versions of transformers and vLLM read too, and compared with what was trained."""

import json
import os
import tempfile
from pathlib import Path

from r1lab.errors import UserError
from r1lab.models.loading import load_model
from r1lab.models.lora import merged
from r1lab.rundir import storage

EXACT, ROUNDED = 1e-3, 0.1
"""Nats a token by which a saved model may differ from the one that was trained: in float32, and where a merged sum is
rounded once more and a GPU computes bfloat16 differently from a CPU."""
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")


def save(model, tokenizer, folder: str | os.PathLike, *, merge: bool = True) -> None:
    """Plain Hugging Face safetensors, which is what the next stage reads. A LoRA model is merged, and stays as it is.

    Args:
        merge: Whether a LoRA model is merged; else its adapter is saved alone, in peft's format.
    """
    from accelerate.utils import is_peft_model

    if not is_peft_model(model):
        model.save_pretrained(folder)
    elif merge:
        merged(model).save_pretrained(folder)
    else:
        # What "auto" adds is a copy of the embedding where it was resized, after asking the Hub about the base.
        model.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    make_readable(Path(folder))


def make_readable(folder: Path) -> None:
    """Adds to the files of a saved model what transformers 4, and engines that use it, look for.

    `config.json` gets version 4's keys beside those of version 5; without `rope_theta` version 4 would compute with
    10,000, and give no error. `tokenizer_config.json` gets a class and a list of special tokens that both know.
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
    """A config, and those within it, with version 4's keys for the dtype and rotary embeddings.

    >>> _with_old_keys({"dtype": "bfloat16", "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})
    {'dtype': 'bfloat16', 'rope_parameters': {'rope_type': 'default', 'rope_theta': 1000000.0}, \
'torch_dtype': 'bfloat16', 'rope_theta': 1000000.0}
    """
    config = {key: _with_old_keys(value) if key.endswith("_config") and isinstance(value, dict) else value
              for key, value in config.items()}  # fmt: skip
    old = {"torch_dtype": config["dtype"]} if config.get("dtype") else {}
    rope = config.get("rope_parameters") or {}
    if "full_attention" in rope:  # one set for each type of layer, as in Gemma 3
        local = rope.get("sliding_attention") or {}
        old |= {"rope_local_base_freq": local["rope_theta"]} if "rope_theta" in local else {}
        rope = rope["full_attention"] or {}
    old |= {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    if rope.get("rope_type", "default") != "default":
        old["rope_scaling"] = {key: value for key, value in rope.items() if key not in old}
    if config.get("model_type") == "gpt_neox":
        names = {"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"}
        old |= {name: rope[key] for name, key in names.items() if key in rope}
    if "num_local_experts" in config:  # Qwen's mixtures of experts say num_experts in version 4
        old["num_experts"] = config["num_local_experts"]
    return config | {key: value for key, value in old.items() if key not in config}


def check_saveable(model, tokenizer) -> list[str]:
    """Whether all but the weights of a model can be saved, before it is trained.

    Returns:
        What had to be changed for that, a line each.

    Raises:
        UserError: Its configuration cannot be saved.
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
            raise UserError(
                f"model.path: its files could not be saved after the training; correct them: {why}"
            ) from error
    return changed


def repaired(generation_config) -> list[str]:
    """Takes sampling settings, which have no effect there, out of a greedy generation config; one line if it did.

    transformers reads such a file with a warning and refuses to write it.
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
            return [f"generation_config.json: {what} without do_sample has no effect, and is not saved with the model"]
    return []


def compare(model, folder: Path, *, scores: bool = False, trust_remote_code: bool = False) -> float:
    """How far a saved model is from the one that was trained, in nats a token.

    The folder is loaded anew, on the CPU, and both read the same tokens. What counts is the |difference| of the
    log-probabilities of the next token, averaged over what the trained model would write.

    Args:
        scores: Whether it is a reward model, of which the scores are compared.

    Raises:
        UserError: They differ by more than rounding explains.
    """
    import torch

    def logits(one) -> torch.Tensor:
        with torch.no_grad():
            return one(ids.to(one.device), use_cache=False).logits.float().cpu()

    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(0, vocabulary, (2, 32), generator=torch.Generator().manual_seed(0))
    dtype = str(model.dtype).removeprefix("torch.")
    was_training = model.training
    ours = logits(model.eval())
    model.train(was_training)
    theirs = logits(load_model(str(folder), dtype=dtype, scores=scores, trust_remote_code=trust_remote_code).eval())
    difference = (ours - theirs).abs().mean()
    if not scores:
        ours, theirs = ours.log_softmax(dim=-1), theirs.log_softmax(dim=-1)
        difference = (ours.exp() * (ours - theirs).abs()).sum(dim=-1).mean()
    limit = EXACT if dtype == "float32" and not getattr(model, "is_quantized", False) else ROUNDED
    if not difference <= limit:
        raise UserError(
            f"{folder}: the saved model is not the trained one: they differ by {difference:.2g} nats a token, "
            f"where rounding explains {limit:g}; the checkpoints hold the weights",
            status=1,
        )
    return difference.item()
