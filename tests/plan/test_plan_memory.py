"""Compares the bytes of the formulas with those that autograd keeps of real models."""

import pytest
import torch

from r1lab.plan import memory
from r1lab.plan.shapes import shape
from r1lab.plan.training import Adapters, Precision, Sharding, Training, packed, padded

SIZES = {
    "vocab_size": 500,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
ROWS, LENGTH = 2, 80
FULL, HALF = Precision(4, 4), Precision(2, 2)


def config(kind: str = "llama", **more):
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **(SIZES | more))


def kept(found, *, dtype=torch.float32, autocast=False, rank=0, checkpointing=False, pad=False) -> int:
    """Bytes of the tensors that autograd keeps of a forward pass up to the head, weights left out."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(found, dtype=dtype).train()
    base = model.model
    if rank:
        from peft import LoraConfig, get_peft_model

        get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ids = torch.randint(5, found.vocab_size, (ROWS, LENGTH))
    mask = torch.ones_like(ids)
    if pad:
        mask[0, :4] = 0
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no place is used twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        out = base(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    assert out.requires_grad
    return sum(size for size, _ in seen.values())


def work(found, precision: Precision = FULL, *, masked: bool = False, **more) -> Training:
    return Training(shape=shape(found), precision=precision, layout=padded(ROWS, LENGTH, masked=masked), **more)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_activations_of_a_full_model(kind):
    assert memory.activations(work(config(kind)))[0] == pytest.approx(kept(config(kind)), rel=0.03)


def test_activations_in_bfloat16():
    found = kept(config(), dtype=torch.bfloat16)
    assert memory.activations(work(config(), HALF))[0] == pytest.approx(found, rel=0.03)


def test_activations_of_float32_under_autocast():
    found = kept(config(), autocast=True)
    assert memory.activations(work(config(), Precision(4, 2)))[0] == pytest.approx(found, rel=0.1)


def test_activations_with_a_mask_count_it_and_each_querys_own_keys():
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 48}
    plain, padding = kept(config(**sizes)), kept(config(**sizes), pad=True)
    assert padding > plain
    assert memory.activations(work(config(**sizes), masked=True))[0] == pytest.approx(padding, rel=0.05)


def test_activations_of_lora():
    linears = shape(config()).linears
    parameters = 8 * sum(inputs + outputs for _, inputs, outputs in linears)
    lora = Adapters(parameters, rank=8, layers=len(linears))
    assert memory.activations(work(config(), lora=lora))[0] == pytest.approx(kept(config(), rank=8), rel=0.05)


def test_checkpointing_keeps_the_layers_inputs():
    found = kept(config(), checkpointing=True)
    whole, one = memory.activations(work(config(), checkpointing=True))
    assert whole == pytest.approx(found, rel=0.25)
    assert whole + one < kept(config())


def test_a_mixture_of_experts():
    from transformers import AutoConfig

    from r1lab.models.loading import EMBEDDED

    found = AutoConfig.from_pretrained(EMBEDDED / "tiny-deepseek-v3")
    assert memory.activations(work(found))[0] == pytest.approx(kept(found), rel=0.15)


def test_full_training_in_float32_is_sixteen_bytes_a_parameter():
    made = work(config())
    held = memory.weights(made) + memory.gradients(made) + memory.optimizer(made)
    assert held == 16 * made.shape.parameters


@pytest.mark.parametrize(("stage", "each"), [(1, 2 + 2 + 12 / 4), (2, 2 + 2 / 4 + 12 / 4), (3, 16 / 4)])
def test_zero_spreads_sixteen_bytes(stage, each):
    """ZeRO, table 1: of 2 + 2 + 12 bytes, the optimizer's, then the gradients', then the weights' are spread."""
    made = work(config(), HALF, sharding=Sharding(4, stage), mixed=True)
    held = memory.weights(made) + memory.gradients(made) + memory.optimizer(made)
    assert held == pytest.approx(each * made.shape.parameters, rel=1e-3)


def test_qlora_holds_the_base_in_four_bits():
    found = shape(config())
    plain = Training(found, HALF, padded(1, 8, masked=False), lora=Adapters(1000, 16, 21))
    four = Training(found, HALF, padded(1, 8, masked=False), lora=Adapters(1000, 16, 21, quantize="4bit"))
    linear = found.linear_parameters
    saved = memory.weights(plain) - memory.weights(four)
    assert saved == pytest.approx(linear * (2 - 4.127 / 8) - (found.parameters - linear) * 2 + 1000 * 2, abs=2)


def test_the_cache_of_generate_is_what_formulas_say():
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config()).eval()
    with torch.no_grad():
        cache = model(torch.randint(5, 500, (ROWS, LENGTH)), use_cache=True).past_key_values
    held = sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))
    assert held == ROWS * LENGTH * memory.kv_bytes(shape(config()), 4)


def test_packing_shares_prompts():
    row = packed(8, 4, 100, 11, shared=True, masked=True)
    assert (row.tokens, row.keys, row.scored) == (2 * 100 + 8 * 10, 2 * 100 + 8 * 110, 88)
    assert packed(8, 4, 100, 11, shared=False, masked=True).tokens == 8 * 110


def test_generating_keeps_the_logits_of_one_token_however_long_the_completions_are():
    short, long = (memory.generating(shape(config()), rows=64, length=length, size=4) for length in (64, 4096))
    assert short.logits == long.logits == 64 * 500 * 4 * 4 and short.kv_cache < long.kv_cache
