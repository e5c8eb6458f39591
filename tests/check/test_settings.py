"""What `check` says of settings and of the batch, without looking at any row."""

import pytest

from r1lab import hardware
from r1lab.check.settings import batch_findings, billions, launch_findings, setting_findings
from r1lab.recipe import loading as recipes


@pytest.fixture
def loaded(grpo, tmp_path, monkeypatch):
    """A grpo recipe with sections replaced, loaded."""
    import json

    monkeypatch.chdir(tmp_path)

    def load(*words, **sections):
        (tmp_path / "r.yaml").write_text(json.dumps(grpo(**sections)), encoding="utf-8")
        return recipes.load(["r.yaml", *words])

    return load


def reported(recipe, **more):
    return [(f.verdict, ".".join(map(str, f.keys))) for f in setting_findings(recipe, **more) if f.verdict != "ok"]


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("Qwen/Qwen2.5-1.5B", 1.5),
        ("meta-llama/Llama-3.1-8B-Instruct", 8.0),
        ("HuggingFaceTB/SmolLM2-360M", 0.36),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", 32.0),
        ("deepseek-ai/DeepSeek-V3-Base", None),
        ("embedded:tiny-llama", 0.002),
    ],
)
def test_the_size_of_a_model_by_its_name(path, size):
    assert billions(path) == size


def test_the_completions_of_an_update_by_devices(loaded):
    (finding,) = batch_findings(loaded())
    assert finding.verdict == "ok"
    assert finding.seen == (
        "8 completions of each prompt; completions that an update learns from: 16 on 1 device, 32 on 2, 64 on 4, "
        "128 on 8 (train.global_batch_size makes it the same on all)"
    )
    train = {"learning_rate": 2.0e-4, "per_device_train_batch_size": 4}
    (finding,) = batch_findings(loaded(train=train, launch={"gpus": 2}))
    assert "not possible on 1 device (set train.per_device_train_batch_size to 8" in finding.seen
    assert ", 8 on 2, 16 on 4, 32 on 8 " in finding.seen


def test_the_passes_of_an_update_by_devices(loaded):
    train = {"learning_rate": 2.0e-4, "per_device_train_batch_size": 16, "global_batch_size": 64}
    (finding,) = batch_findings(loaded(train=train))
    assert finding.verdict == "ok" and finding.keys == ("train", "global_batch_size")
    shared = " on any number of devices; each device computes 16 at a time: passes per update 4 on 1 device, 2 on 2, "
    shared += "1 on 4, not possible on 8"
    assert finding.seen == "each update learns from 64 completions (8 prompts with 8 each)" + shared
    (finding,) = batch_findings(loaded(train=train | {"generation_batch_size": 128}))
    made = "16 prompts with 8 each, 128 in all, are generated for 2 updates"
    assert finding.seen == f"each update learns from 64 completions ({made})" + shared


@pytest.mark.parametrize(
    ("launch", "gpus", "said"),
    [
        ({"gpus": 1}, 2, None),
        ({"gpus": 2}, 2, None),
        ({"gpus": 4}, 2, ("4: this machine has 2 GPUs", "set launch.gpus=2")),
        ({"gpus": 4}, 0, ("4: this machine has no GPU, and 4 processes share 2 cores", "set launch.gpus=2")),
    ],
)
def test_ranks_that_this_machine_has_no_devices_for(loaded, monkeypatch, launch, gpus, said):
    monkeypatch.setattr(hardware, "gpus", lambda: gpus)
    monkeypatch.setattr(hardware, "allowed_cores", lambda: 2)
    found = launch_findings(loaded(launch=launch))
    assert [(f.verdict, f.seen, f.fix) for f in found] == ([("warning", *said)] if said else [])


@pytest.mark.parametrize(
    ("path", "rate", "fine"),
    [
        ("embedded:tiny-qwen2", 2e-4, True),
        ("embedded:tiny-qwen2", 1e-6, False),
        ("Qwen/Qwen2.5-7B", 1e-6, True),
        ("Qwen/Qwen2.5-7B", 3e-6, True),
        ("Qwen/Qwen2.5-7B", 4e-5, False),
        ("Qwen/Qwen2.5-1.5B-Instruct", 2e-5, True),
        ("Qwen/Qwen2.5-32B", 2e-6, True),
        ("some/model", 1.0, True),
    ],
)
def test_learning_rates_compared_with_published_ones(loaded, path, rate, fine):
    train = {"learning_rate": rate, "per_device_train_batch_size": 16, "max_steps": 60}
    assert reported(loaded(model={"path": path}, train=train)) == [] if fine else [("warning", "train.learning_rate")]


def test_adapters_take_more(loaded):
    train = {"learning_rate": 1e-5, "per_device_train_batch_size": 16, "max_steps": 60}
    assert reported(loaded(model={"path": "Qwen/Qwen2.5-7B", "lora": {"r": 8}}, train=train)) == []


def test_settings_of_a_tiny_recipe_belong_to_another_model(loaded):
    train = {"learning_rate": 1e-6, "per_device_train_batch_size": 16, "max_steps": 2, "beta": 0.2}
    recipe = loaded(train=train)
    assert reported(recipe, tiny=True) == []
    assert reported(recipe) == [("warning", "train.learning_rate"), ("warning", "train.beta")]


def test_rewards_by_a_schedule_may_begin_at_zero(loaded):
    rewards = [{"name": "knights_knaves", "weight": 0.0}, {"name": "length", "weight": 0.5}]
    schedule = "schedule={rewards: {knights_knaves: {0: 1.0}, length: {0: 0.0, 50: 0.5}}}"
    assert reported(loaded(schedule, rewards=rewards)) == []
    assert ("warning", "rewards.1") in reported(loaded(rewards=rewards))


def test_sleep_mode_without_a_gpu_is_an_error(loaded, monkeypatch):
    import torch

    words = ["train.vllm_enable_sleep_mode=true", "rollout.engine=vllm"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ("error", "train.vllm_enable_sleep_mode") in reported(loaded(*words))
    assert not [keys for _, keys in reported(loaded()) if "sleep" in keys]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert not [keys for _, keys in reported(loaded(*words)) if "sleep" in keys]


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ([], False),
        (["train.master_weights=false"], True),
        (["train.master_weights=false", "train.learning_rate=1e-4"], False),
        (["train.master_weights=false", "model.dtype=float32"], False),
        (["train.master_weights=false", "launch.gpus=2", "train.global_batch_size=512"], True),
        (["model.lora.r=8"], False),
    ],
)
def test_weights_in_bfloat16_lose_the_updates_of_a_low_learning_rate(settings, warned):
    found = setting_findings(recipes.load(["published/mini-r1-countdown", "launch.gpus=1", *settings]))
    lines = [finding.message for finding in found if finding.keys == ("train", "master_weights")]
    assert (
        lines
        == [
            "the trained weights are kept in bfloat16, which rounds most updates at a learning rate of 5e-07 away: "
            "remove it, or set true"
        ]
        * warned
    )


@pytest.mark.parametrize("given", [[], ["train.deepspeed=zero3.json"]])
def test_deepspeed_is_said_to_be_untested(given):
    found = setting_findings(recipes.load(["published/mini-r1-countdown", "launch.gpus=8", *given]))
    lines = [f"{finding.verdict} {finding.seen}" for finding in found if "tested" in finding.seen]
    assert lines == ["warning DeepSpeed was not tested with r1lab"] * len(given)
