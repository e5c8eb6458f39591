"""Saved models: read by other versions, the same function as what was trained, refused before a training."""

import json
import shutil

import pytest
import torch

from r1lab.check import check
from r1lab.errors import UserError
from r1lab.models import loading, saving
from r1lab.models.lora import lora_config
from r1lab.recipe import loading as recipes
from r1lab.recipe.sections import Lora

SFT = """
stage: sft
name: s
model: {path: FOLDER}
data: {builder: knights_knaves, people: 2, size: 8, solution: evaluation}
prompt: {template: r1-zero}
train: {max_steps: 1, per_device_train_batch_size: 2, learning_rate: 1.0e-4}
"""


def read(path):
    return json.loads(path.read_text())


def base(tmp_path, name="tiny-qwen2", **config):
    """The folder of an embedded model with other settings in its `config.json`."""
    folder = tmp_path / "base"
    shutil.copytree(loading.resolve(f"embedded:{name}"), folder)
    (folder / "config.json").write_text(json.dumps(read(folder / "config.json") | config))
    return folder


@pytest.mark.parametrize("name", ["tiny-qwen2", "tiny-llama", "tiny-deepseek-v3"])
def test_embedded_models_name_classes_and_keys_that_transformers_4_knows(name):
    folder = loading.EMBEDDED / name
    assert read(folder / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    config = read(folder / "config.json")
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] and config["torch_dtype"] == config["dtype"]


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "rope_theta": 1e6}


@pytest.mark.parametrize(
    ("rope", "old"),
    [
        ({"rope_type": "default", "rope_theta": 1e6}, {"rope_theta": 1e6, "rope_scaling": None}),
        (YARN, {"rope_theta": 1e6, "rope_scaling": {k: v for k, v in YARN.items() if k != "rope_theta"}}),
    ],
)
def test_a_saved_model_has_the_keys_of_version_4_and_loads_as_it_was(tmp_path, rope, old):
    folder = base(tmp_path, rope_parameters=rope, dtype="bfloat16")
    for key in ("rope_theta", "torch_dtype"):
        (folder / "config.json").write_text(
            json.dumps({k: v for k, v in read(folder / "config.json").items() if k != key})
        )
    tokenizer = loading.load_tokenizer(str(folder))
    tokenizer.add_special_tokens({"extra_special_tokens": ["<tool>"]})
    model = loading.load_model(str(folder), dtype="bfloat16")
    saving.save(model, tokenizer, tmp_path / "saved")
    config = read(tmp_path / "saved" / "config.json")
    assert {key: config.get(key) for key in old} == old
    assert config["torch_dtype"] == config["dtype"] == "bfloat16"
    settings = read(tmp_path / "saved" / "tokenizer_config.json")
    assert settings["additional_special_tokens"] == ["<tool>"] and "extra_special_tokens" not in settings
    assert settings["tokenizer_class"] in ("PreTrainedTokenizerFast", "Qwen2Tokenizer")
    again = loading.load_model(str(tmp_path / "saved"), dtype="bfloat16")
    assert again.config.rope_parameters == model.config.rope_parameters
    text = "<think>Is it 12?</think><tool> <|im_end|>"
    loaded = loading.load_tokenizer(str(tmp_path / "saved"))
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"], skip_special_tokens=True) == "<think>Is it 12?</think> "


@pytest.mark.parametrize(
    ("config", "old"),
    [
        ({"model_type": "qwen3_moe", "num_local_experts": 4}, {"num_experts": 4}),
        (
            {"model_type": "gpt_neox", "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25}},
            {"rotary_pct": 0.25, "rotary_emb_base": 1e4},
        ),
        (
            {
                "model_type": "gemma3_text",
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
            },
            {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        ),
        ({"text_config": {"rope_parameters": {"rope_theta": 5e5}}}, {"text_config": {"rope_theta": 5e5}}),
    ],
)
def test_architectures_whose_keys_have_other_names_in_version_4(config, old):
    found = saving._with_old_keys(config)
    for key, value in old.items():
        assert {k: found[key][k] for k in value} == value if key == "text_config" else found[key] == value


def adapted(*targets):
    from peft import get_peft_model

    model = loading.load_model("embedded:tiny-qwen2")
    model = get_peft_model(model, lora_config(Lora(r=4, alpha=8, target_modules=list(targets))))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.active_peft_config.base_model_name_or_path = loading.resolve("embedded:tiny-qwen2")
    return model


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("targets", [("q_proj",), ("lm_head", "q_proj"), ("embed_tokens",)])
def test_adapters_on_modules_that_share_a_weight_are_saved_as_they_were_trained(tmp_path, targets, merge):
    model = adapted(*targets)
    saving.save(model, loading.load_tokenizer("embedded:tiny-qwen2"), tmp_path, merge=merge)
    assert saving.compare(model, tmp_path) < 1e-4
    if merge:
        tied = read(tmp_path / "config.json")["tie_word_embeddings"]
        assert tied == (targets == ("q_proj",))


def test_a_saved_model_that_is_another_one_ends_the_run(tmp_path):
    model = adapted("q_proj")
    saving.save(model, loading.load_tokenizer("embedded:tiny-qwen2"), tmp_path)
    with torch.no_grad():
        model.get_input_embeddings().weight[:50] *= 1.2
    with pytest.raises(UserError, match="the saved model is not the trained one: they differ by"):
        saving.compare(model, tmp_path)


def with_generation_config(tmp_path, **settings):
    folder = base(tmp_path)
    file = folder / "generation_config.json"
    file.write_text(json.dumps(read(file) | settings))
    return loading.load_model(str(folder)), loading.load_tokenizer(str(folder))


def test_sampling_settings_of_a_greedy_generation_config_are_left_out_in_a_line(tmp_path):
    model, tokenizer = with_generation_config(tmp_path, do_sample=False, temperature=0.6, top_p=0.9)
    [said] = saving.check_saveable(model, tokenizer)
    assert said == (
        "generation_config.json: temperature, top_p without do_sample has no effect and is not saved with the model"
    )
    saving.save(model, tokenizer, tmp_path / "saved")
    assert "temperature" not in read(tmp_path / "saved" / "generation_config.json")
    assert saving.check_saveable(model, tokenizer) == []


def test_a_sampling_generation_config_stays_as_it_is(tmp_path):
    model, tokenizer = with_generation_config(tmp_path, do_sample=True, temperature=0.6)
    assert saving.check_saveable(model, tokenizer) == []
    saving.save(model, tokenizer, tmp_path / "saved")
    assert read(tmp_path / "saved" / "generation_config.json")["temperature"] == 0.6


@pytest.mark.parametrize("settings", [{"length_penalty": 2.0}, {"early_stopping": True}])
def test_what_cannot_be_saved_is_refused_before_the_training(tmp_path, settings):
    model, tokenizer = with_generation_config(tmp_path, **settings)
    with pytest.raises(UserError, match="model.path: its files could not be saved after training; fix them:"):
        saving.check_saveable(model, tokenizer)


@pytest.mark.parametrize(
    ("settings", "verdict", "says"),
    [
        ({"do_sample": False, "temperature": 0.6}, "warning", "temperature without do_sample has no effect"),
        ({"early_stopping": True}, "error", "its generation_config.json could not be saved after the training:"),
        ({"do_sample": True, "temperature": 0.6}, None, ""),
    ],
)
def test_check_reports_what_cannot_be_saved(tmp_path, settings, verdict, says):
    folder = base(tmp_path)
    file = folder / "generation_config.json"
    file.write_text(json.dumps(read(file) | settings))
    recipe = tmp_path / "s.yaml"
    recipe.write_text(SFT.replace("FOLDER", str(folder)))
    found = [f for _, f in check.check(recipes.load([str(recipe)])) if f.check == "saving"]
    assert [f.verdict for f in found] == ([verdict] if verdict else [])
    assert all(says in f.message for f in found)
