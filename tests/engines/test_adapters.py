"""Adapters of a LoRA policy on a real server: sent alone, loaded by the name of their version."""

import time

import httpx
import pytest
import torch
from peft import get_peft_model

from r1lab.engines import processes
from r1lab.engines.fleet import Fleet, NoServer
from r1lab.engines.sync import WeightSync, adapter_name
from r1lab.models import loading
from r1lab.models.lora import adapter, lora_config
from r1lab.recipe.schema import GrpoRecipe
from r1lab.recipe.sections import Lora
from r1lab.stages import serving
from tests.engines.conftest import PROMPTS
from tests.engines.test_fleet import LONG, wait_for
from tests.engines.test_sync import SETTINGS

SERVED = {
    "name": "s", "stage": "grpo", "model": {"path": "embedded:tiny-qwen2", "lora": {"r": 4}},
    "data": {"builder": "arithmetic"}, "rewards": [{"name": "length"}], "launch": {"gpus": 2, "rollout": "server"},
}  # fmt: skip


def recipe(**sections):
    return GrpoRecipe.model_validate(SERVED | sections)


def model_section(**lora):
    return {"path": "embedded:tiny-qwen2", "lora": {"r": 4} | lora}


def test_adapters_that_vllm_cannot_apply_are_merged():
    assert serving.adapter_rank(recipe()) == 8
    assert serving.adapter_rank(recipe(model=model_section(r=100))) == 128
    for lora in ({"r": 1000}, {"quantize": "4bit"}, {"target_modules": ["q_proj", "embed_tokens"]}):
        assert serving.adapter_rank(recipe(model=model_section(**lora))) is None
    assert serving.adapter_rank(recipe(model={"path": "embedded:tiny-qwen2"})) is None
    assert serving.adapter_rank(recipe(rollout={"options": {"enable_lora": False}})) is None
    others = recipe(rollout={"url": "http://127.0.0.1:8000", "sync_folder": "/tmp"}, launch={})
    assert serving.adapter_rank(others) is None  # they were not started for it


@pytest.fixture
def policy():
    """A LoRA policy whose adapters are not zero."""
    base = loading.load_model("embedded:tiny-qwen2", dtype="float32")
    found = get_peft_model(base, lora_config(Lora(r=4))).eval()
    move(found, 1)
    return found


def move(policy, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))


def logprobs(policy, prompt: list[int], one) -> torch.Tensor:
    """The policy's log-probability of each token of a completion."""
    with torch.inference_mode():
        found = policy(torch.tensor([prompt + one.token_ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return found.gather(-1, torch.tensor(one.token_ids)[:, None])[:, 0]


@pytest.mark.slow
def test_a_server_samples_from_the_adapter_of_the_version_that_it_was_asked_for(policy, tmp_path):
    pytest.importorskip("vllm")
    options = {"options": {"enforce_eager": True, "max_num_seqs": 8}}
    made = recipe(model=model_section() | {"dtype": "float32"}, rollout=options)
    (server,) = started = serving.start(made, tmp_path, 512)
    assert "--enable-lora --max-lora-rank 8 --enforce-eager --max-num-seqs 8" in " ".join(server.process.args)
    fleet, sender = Fleet([server.url], timeout=600), WeightSync([server.url], folder=tmp_path / "sync", timeout=600)
    prompt = loading.load_tokenizer("embedded:tiny-qwen2")(PROMPTS[0], add_special_tokens=False)["input_ids"]

    def send(version: int):
        config, weights = adapter(policy)
        done = sender.send(version, weights, adapter=config)
        assert done.failed == {} and list(sender.folder.iterdir()) == []
        fleet.synced(version, model=adapter_name(version))
        return done

    try:
        processes.wait(started)
        done = send(1)
        whole = sum(weight.nbytes for weight in policy.get_base_model().parameters())
        assert 0 < done.bytes < whole / 10
        ((one, two),) = fleet.complete([(prompt, 2)], SETTINGS)
        before = [logprobs(policy, prompt, sampled) for sampled in (one, two)]
        gaps = torch.cat([(ours - torch.tensor(s.logprobs)).abs() for ours, s in zip(before, (one, two))])
        print(f"{done.bytes} bytes in place of {whole}; {gaps.mean().item():.1g} nats")
        assert gaps.mean() <= 1e-4
        future = fleet.submit(prompt, 4, LONG)
        wait_for(lambda: len(fleet._lines[0].tasks) > 0)
        time.sleep(0.5)
        with policy.disable_adapter():
            assert (logprobs(policy, prompt, one) - before[0]).abs().mean() > 0.01
        old = {name: weight.clone() for name, weight in policy.state_dict().items()}
        with fleet.paused():
            move(policy, 2)
            send(2)
        group = future.result(600)
        assert {version for sampled in group for version in sampled.versions} == {1, 2}
        new = [logprobs(policy, prompt, sampled) for sampled in group]
        policy.load_state_dict(old)
        for sampled, after in zip(group, new, strict=True):
            versions = torch.tensor(sampled.versions)
            expected = torch.where(versions == 1, logprobs(policy, prompt, sampled), after)
            assert (expected - torch.tensor(sampled.logprobs)).abs().mean() <= 1e-4
        served = [model["id"] for model in httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"]]
        assert served[1:] == [adapter_name(2)]
        fleet.synced(3, model=adapter_name(3))  # which it was not sent
        with pytest.raises(NoServer, match="status 404: .*r1lab-adapter-3"):
            fleet.complete([(prompt, 1)], SETTINGS)
    finally:
        fleet.close()
        sender.close()
        processes.stop(started)
