"""Settings that a library refuses only when it builds the trainer are found before the run."""

import json
import os
import socket
import subprocess
import sys

import pytest

SFT = {
    "stage": "sft",
    "model": {"path": "embedded:tiny-qwen2"},
    "data": {"builder": "arithmetic", "size": 8, "solution": True},
    "prompt": {"template": "r1-zero"},
}


@pytest.mark.parametrize(
    ("model", "train", "key", "said"),
    [
        ({}, {"optim": "paged_adamw_32bit"}, "train.optim", "bitsandbytes"),
        ({}, {"lr_scheduler_type": "cosine_with_min_lr"}, "train.lr_scheduler_type", "min_lr"),
        ({}, {"lr_scheduler_kwargs": {"nonsense": 1}}, "train.lr_scheduler_kwargs", "nonsense"),
        ({"lora": {"target_modules": ["c_attn"]}}, {}, "model.lora.target_modules", "c_attn"),
        (
            {"lora": {"target_modules": ["q_proj", "v_porj"]}},
            {},
            "model.lora.target_modules",
            "did you mean `v_proj`",
        ),
        (
            {"lora": {"target_modules": ["q_proj", "lm_head"]}},
            {},
            "model.lora.target_modules",
            "adapter on lm_head",
        ),
        ({}, {"fsdp": "full_shard"}, "train.fsdp", "FSDP shards a model over GPUs"),
        ({"attn_implementation": "flash2"}, {}, "model.attn_implementation", "flash2"),
        ({}, {"load_best_model_at_end": True}, "train", "load_best_model_at_end"),
    ],
)
def test_what_cannot_be_built_is_an_error_before_the_run(found, model, train, key, said):
    errors = found(SFT | {"model": SFT["model"] | model, "train": train}, "error")
    assert [line for line in errors if f" {key}: " in line and said in line], errors


def test_what_can_be_built_says_nothing(found):
    good = {"model": SFT["model"] | {"lora": {"r": 4}, "attn_implementation": "eager"}, "train": {"optim": "sgd"}}
    assert [line for line in found(SFT | good) if "cannot be built" in line] == []


def test_check_joins_no_process_group(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps(SFT | {"train": {"max_steps": 2}}))
    with socket.socket() as taken:  # the port of a training that runs
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-m", "r1lab", "check", str(recipe)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | group, cwd=tmp_path)
    assert "Traceback" not in done.stderr and done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"vocab_size": 600}, "such as model.embed_tokens.weight: [564, 128], not [600, 128]"),
        ({"num_hidden_layers": 6, "layer_types": None}, "config.json says 6 layers, but the weights have 4"),
        ({"model_type": "qwen99"}, "its config.json cannot be used: "),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized by gptq and cannot be trained"),
    ],
)
def test_a_config_that_does_not_belong_to_its_weights_is_an_error(found, model, config, said):
    folder = model(config=config)
    errors = found(SFT | {"model": {"path": str(folder)}}, "error")
    assert len(errors) == 1 and said in errors[0] and "tokenizer" not in errors[0], errors


def test_a_tokenizer_that_is_not_there_is_named(found, model):
    folder = model()
    (folder / "tokenizer.json").unlink()
    errors = found(SFT | {"model": {"path": str(folder)}}, "error")
    assert len(errors) == 1 and "the folder has no tokenizer.json: copy it" in errors[0], errors
