"""Embedded models load by their names, and text survives their tokenizers."""

import json
import shutil
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from r1lab.data import knights_knaves
from r1lab.errors import UserError
from r1lab.models import loading, saving
from r1lab.models.lora import lora_config, merged_weights
from r1lab.recipe.sections import Lora

EMBEDDED = sorted(p.name for p in loading.EMBEDDED.glob("*/"))


def test_the_embedded_models_are_there_and_small():
    assert {"tiny-qwen2", "tiny-llama", "tiny-deepseek-v3", "tiny-player"} <= set(EMBEDDED)
    for name in EMBEDDED:
        assert sum(p.stat().st_size for p in (loading.EMBEDDED / name).iterdir()) < 4 * 2**20


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_model_is_of_its_architecture_and_finite(name):
    import torch

    model = loading.load_model(f"embedded:{name}", dtype="float32")
    config = json.loads((loading.EMBEDDED / name / "config.json").read_text())
    named = "qwen2" if name == "tiny-player" else name.removeprefix("tiny-").replace("-", "_")
    assert config["model_type"] == named == model.config.model_type
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize(
    "written, expected", [({"eos_token_id": [0, 2]}, [2, 0]), ({"eos_token_id": 0}, [2, 0]), ({}, [2]), (None, [2, 0])]
)
def test_the_end_tokens_are_the_tokenizers_and_all_of_the_generation_config(tmp_path, written, expected):
    shutil.copytree(loading.EMBEDDED / "tiny-qwen2", tmp_path, dirs_exist_ok=True)
    if written is None:  # the config.json decides where there is no generation_config.json
        (tmp_path / "generation_config.json").unlink()
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": [0, 2]}))
    else:
        (tmp_path / "generation_config.json").write_text(json.dumps(written))
    found = loading.load_generation_config(str(tmp_path))
    tokenizer = loading.load_tokenizer(str(tmp_path))
    assert loading.end_token_ids(tokenizer, found) == expected
    assert loading.load_model(str(tmp_path)).generation_config.eos_token_id == found.eos_token_id
    assert loading.end_token_ids(tokenizer) == [2]


def test_spaces_are_kept_without_a_warning_where_transformers_ignores_the_setting(tmp_path, monkeypatch):
    from transformers import tokenization_utils_tokenizers

    folder = shutil.copytree(loading.EMBEDDED / "tiny-qwen2", tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"clean_up_tokenization_spaces": True}))
    warned = []
    monkeypatch.setattr(tokenization_utils_tokenizers.logger, "warning_once", warned.append)
    tokenizer = loading.load_tokenizer(str(folder))
    assert tokenizer.decode(tokenizer("Ann , who")["input_ids"]) == "Ann , who"
    assert not warned


@pytest.mark.parametrize("name", EMBEDDED)
def test_text_survives_the_tokenizer_as_auto_tokenizer_loads_it(name):
    tokenizer = loading.load_tokenizer(f"embedded:{name}")
    texts = [row[key] for row in knights_knaves(size=50, solution="deduction") for key in ("prompt", "completion")]
    texts += ["Ünïcode, 12 345 \t tabs\n\n  and  spaces .", "knight , Bob", "<think>\n</think>", "你好"]
    for text in texts:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token != tokenizer.eos_token
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        assert len(tokenizer(tag, add_special_tokens=False)["input_ids"]) == 1


def test_an_unknown_embedded_model_is_told_with_those_there_are():
    with pytest.raises(UserError, match="embedded:tiny-qwen: no such embedded model .*tiny-qwen2"):
        loading.resolve("embedded:tiny-qwen")


def test_a_saved_model_is_plain_safetensors(tiny_model):
    names = {p.name for p in tiny_model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names


def adapted(name: str, dtype: str = "float32"):
    """An embedded model with LoRA on all linear layers, its B matrices random instead of zero."""
    import torch
    from peft import get_peft_model

    model = get_peft_model(loading.load_model(f"embedded:{name}", dtype=dtype), lora_config(Lora(r=4)))
    torch.manual_seed(1)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            parameter.data.normal_(std=0.02)
    return model.eval()


def logits(model, ids):
    import torch

    with torch.inference_mode():
        return model.eval()(ids).logits.float()


def gap(found, expected) -> float:
    """The largest difference of two models' logits, beside the largest logit."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("name", ["tiny-qwen2", "tiny-llama"])
def test_a_saved_lora_model_has_the_logits_of_the_one_in_memory(tmp_path, name, merge):
    import torch

    model = adapted(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    saving.save(model, loading.load_tokenizer(f"embedded:{name}"), tmp_path, merge=merge)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert (tmp_path / "model.safetensors").is_file() is merge
    assert (tmp_path / "adapter_model.safetensors").is_file() is not merge

    ids = torch.arange(10, 40)[None]
    expected = logits(model, ids)
    loaded = loading.load_model(str(tmp_path), dtype="float32")
    assert not hasattr(loaded, "peft_config") or not loaded.peft_config
    assert set(loaded.state_dict()) == set(loading.load_model(f"embedded:{name}").state_dict())
    assert gap(logits(loaded, ids), expected) < 1e-5
    with model.disable_adapter():
        assert gap(logits(model, ids), expected) > 0.01
    tokenizer = loading.load_tokenizer(str(tmp_path))
    assert (
        tokenizer("Zoey is a knight.")["input_ids"]
        == loading.load_tokenizer(f"embedded:{name}")("Zoey is a knight.")["input_ids"]
    )


def test_merged_weights_are_rounded_once_and_leave_a_bfloat16_base_alone():
    import torch

    model = adapted("tiny-qwen2", "bfloat16")
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    base = layer.base_layer.weight.clone()
    found = dict(merged_weights(model))["model.layers.0.self_attn.q_proj.weight"]
    delta = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert found.dtype == torch.bfloat16 and torch.equal(found, (base.float() + delta.float()).bfloat16())
    assert torch.equal(layer.base_layer.weight, base)


def test_an_adapter_on_an_adapter_loads_both(tmp_path):
    import torch
    from peft import get_peft_model

    tokenizer = loading.load_tokenizer("embedded:tiny-qwen2")
    saving.save(adapted("tiny-qwen2"), tokenizer, tmp_path / "first", merge=False)
    model = get_peft_model(loading.load_model(str(tmp_path / "first"), dtype="float32"), lora_config(Lora(r=2)))
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            parameter.data.normal_(std=0.02)
    model.active_peft_config.base_model_name_or_path = str(tmp_path / "first")  # as `stages.common.finish` does
    saving.save(model, tokenizer, tmp_path / "second", merge=False)
    ids = torch.arange(10, 40)[None]
    assert gap(logits(loading.load_model(str(tmp_path / "second")), ids), logits(model, ids)) < 1e-5


def test_what_cannot_be_loaded_says_what_it_needs(monkeypatch, tmp_path):
    import torch

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="quantize: 4bit needs bitsandbytes: pip install"):
        loading.load_model("embedded:tiny-qwen2", quantize="4bit")
    there = ModuleType("bitsandbytes")
    there.__spec__ = ModuleSpec("bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", there)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="quantize: 8bit needs a GPU"):
        loading.load_model("embedded:tiny-qwen2", quantize="8bit")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="is a LoRA adapter, which cannot be merged into a 4bit base"):
        loading.load_model(str(tmp_path), quantize="4bit")
    with pytest.raises(UserError, match="vLLM needs a whole model: set rollout.engine: transformers"):
        loading.resolve(str(tmp_path))


def test_a_quantised_base_merges_to_the_plain_model_that_it_computes(tmp_path):
    pytest.importorskip("bitsandbytes")
    import torch
    from peft import get_peft_model

    model = loading.load_model("embedded:tiny-qwen2", dtype="float32", quantize="4bit")
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    model = get_peft_model(model, lora_config(Lora(r=4)))
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in key)
        if "lora_B" in key:
            parameter.data.normal_(std=0.02)
    ids = torch.arange(10, 40)[None]
    expected = logits(model, ids)
    saving.save(model, loading.load_tokenizer("embedded:tiny-qwen2"), tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert gap(logits(loading.load_model(str(tmp_path), dtype="float32"), ids), expected) < 1e-5
    assert torch.equal(logits(model, ids), expected)
    plain = loading.load_model("embedded:tiny-qwen2", dtype="float32").model.layers[0].mlp.up_proj.weight
    with model.disable_adapter():
        assert gap(logits(model, ids), expected) > 0.01
    found = model.get_base_model().model.layers[0].mlp.up_proj.base_layer
    assert found.weight.numel() * 2 == plain.numel()


def test_an_adapter_that_names_no_base_is_one_line(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    for load in (loading.load_model, loading.load_generation_config):
        with pytest.raises(UserError, match="a LoRA adapter whose adapter_config.json names no base"):
            load(str(tmp_path))
