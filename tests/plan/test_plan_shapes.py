"""Compares sizes of models with published ones and with the embedded models."""

import pytest

from r1lab.errors import UserError
from r1lab.models import loading
from r1lab.plan import shapes

PUBLISHED = {  # parameters of the checkpoints on the Hub
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-Math-7B": 7_615_616_512,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
}


@pytest.mark.parametrize("path", PUBLISHED)
def test_the_table_has_the_published_sizes(path):
    assert shapes.find(path).parameters == PUBLISHED[path]


@pytest.mark.parametrize("name", ["tiny-qwen2", "tiny-llama", "tiny-deepseek-v3"])
def test_embedded_models_have_their_own_sizes(name):
    model = loading.load_model(f"embedded:{name}")
    assert shapes.find(f"embedded:{name}").parameters == sum(p.numel() for p in model.parameters())


def test_a_mixture_of_experts_has_fewer_active_parameters():
    found = shapes.find("embedded:tiny-deepseek-v3")
    assert 0 < found.active < found.parameters
    assert found.latent == 64 + 16
    assert shapes.find("Qwen/Qwen3-30B-A3B").active == pytest.approx(3.3e9, rel=0.03)


def test_linears_are_what_lora_adapts():
    lora = pytest.importorskip("peft")
    model = loading.load_model("embedded:tiny-qwen2")
    adapted = lora.get_peft_model(model, lora.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained == 4 * sum(inputs + outputs for _, inputs, outputs in shapes.find("embedded:tiny-qwen2").linears)


def test_an_unknown_model_of_the_hub_says_what_to_type(monkeypatch):
    from r1lab.check import look

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    look.hub_reachable.cache_clear()
    with pytest.raises(UserError, match=r"model\.path: nobody/nothing: .*type model\.path=\./FOLDER"):
        shapes.find("nobody/nothing")
    look.hub_reachable.cache_clear()
