"""Embedded models load by their names, and text survives their tokenizers."""

import json

import pytest

from r1lab import models
from r1lab.data import knights_knaves
from r1lab.errors import UserError

EMBEDDED = sorted(p.name for p in models.EMBEDDED.glob("*/"))


def test_the_embedded_models_are_there_and_small():
    assert {"tiny-qwen2", "tiny-llama"} <= set(EMBEDDED)
    assert sum(p.stat().st_size for p in models.EMBEDDED.rglob("*") if p.is_file()) < 8 * 2**20


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_model_is_of_its_architecture_and_finite(name):
    import torch

    model = models.load_model(f"embedded:{name}", dtype="float32")
    config = json.loads((models.EMBEDDED / name / "config.json").read_text())
    assert config["model_type"] == name.rpartition("-")[2] == model.config.model_type
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("name", EMBEDDED)
def test_text_survives_the_tokenizer_as_auto_tokenizer_loads_it(name):
    tokenizer = models.load_tokenizer(f"embedded:{name}")
    texts = [row[key] for row in knights_knaves(size=50, solution="deduction") for key in ("prompt", "completion")]
    texts += ["Ünïcode, 12 345 \t tabs\n\n  and  spaces .", "knight , Bob", "<think>\n</think>", "你好"]
    for text in texts:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token != tokenizer.eos_token
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        assert len(tokenizer(tag, add_special_tokens=False)["input_ids"]) == 1


def test_an_unknown_embedded_model_is_told_with_those_there_are():
    with pytest.raises(UserError, match="embedded:tiny-qwen: no such embedded model .*tiny-qwen2"):
        models.resolve("embedded:tiny-qwen")


def test_a_saved_model_is_plain_safetensors(tiny_model):
    names = {p.name for p in tiny_model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
