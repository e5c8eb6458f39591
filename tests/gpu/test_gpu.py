"""The same on a GPU: TRL's loss and gradient, both engines, weights that follow the policy, steps that train."""

import json
import math

import pytest
import torch
import trl
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from trl import GRPOConfig

from r1lab import engines
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import loading
from r1lab.recipe import loading as recipes

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
BASE = "embedded:tiny-qwen2"
SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
B, P, C, G = 16, 9, 30, 4
PROMPTS = ["User: who is a knight? Assistant:", "User: Zoey said that Luke is a knave. Assistant:"]


@pytest.fixture(scope="module")
def tokenizer():
    return loading.load_tokenizer(BASE)


def loss_and_gradient(cls, tokenizer, folder, inputs, *, dtype, kind="qwen2", **settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **SHAPE)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")  # the reference is read from there
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype).to(DEVICE)
    args = GRPOConfig(
        output_dir=str(folder), per_device_train_batch_size=B, num_generations=G, max_completion_length=C,
        bf16=dtype == torch.bfloat16, report_to="none", gradient_checkpointing=False, **settings,
    )  # fmt: skip
    made = cls(
        model=model, args=args, processing_class=tokenizer, reward_funcs=lambda completions, **_: [0.0] * B,
        train_dataset=Dataset.from_dict({"prompt": ["a"] * B}),
    )  # fmt: skip
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    with made.accelerator.autocast():
        loss = made.compute_loss(made.model, {key: value.to(DEVICE) for key, value in inputs.items()})
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten().float() for p in made.model.parameters()])


def batch(size: int) -> dict:
    """Groups with a prompt each, ragged on both sides; one group without signal; a policy that has moved."""
    g = torch.Generator().manual_seed(1)
    prompts = torch.randint(5, size, (B // G, P), generator=g)
    masks = torch.ones_like(prompts)
    masks[1, :4] = masks[2, :2] = 0
    mask = (torch.arange(C) < torch.randint(1, C + 1, (B,), generator=g)[:, None]).long()
    advantages = 0.5 + torch.randn(B, generator=g)  # of both signs, and a loss that is not a small difference
    advantages[G : 2 * G] = 0.0
    return {
        "prompt_ids": (prompts * masks).repeat_interleave(G, 0),
        "prompt_mask": masks.repeat_interleave(G, 0),
        "completion_ids": torch.randint(5, size, (B, C), generator=g) * mask,
        "completion_mask": mask,
        "advantages": advantages,
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": -6.5 + 0.3 * torch.randn(B, C, generator=g),
        "ref_per_token_logps": -6.5 + 0.3 * torch.randn(B, C, generator=g),
    }


# The wide clip keeps every token inside: a token at the edge that rounding moves across it would lose its gradient.
# bfloat16 keeps 8 bits, so that one rounding is off by up to 0.4 %; attention, the head and their gradients round
# several times, in another order here than in TRL.
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("loss_type", ["dr_grpo", "dapo", "grpo", "cispo"])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_loss_and_gradient_are_trls(tokenizer, tmp_path, dtype, tolerance, loss_type, kind):
    settings = {"dtype": dtype, "kind": kind, "loss_type": loss_type, "beta": 0.04, "epsilon": 5.0}
    inputs = batch(len(tokenizer))
    (loss, gradient), (loss_, gradient_) = (
        loss_and_gradient(cls, tokenizer, tmp_path, inputs, **settings) for cls in (GRPOTrainer, trl.GRPOTrainer)
    )
    assert loss == pytest.approx(loss_, rel=tolerance, abs=tolerance * 1e-2)
    assert gradient_.norm() > 0
    assert (gradient - gradient_).norm() <= tolerance * gradient_.norm()


def logprobs(model, tokenizer, prompt: str, token_ids: list[int]) -> torch.Tensor:
    """Log-probabilities of one completion by one forward pass."""
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([prompt_ids + token_ids], device=DEVICE)
    with torch.inference_mode():
        logits = model.eval()(ids).logits[0, len(prompt_ids) - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, torch.tensor(token_ids, device=DEVICE)[:, None])[:, 0].cpu()


def gap(model, tokenizer, groups) -> float:
    """The mean difference between an engine's log-probabilities and the policy's."""
    differences = [
        logprobs(model, tokenizer, prompt, c.token_ids) - torch.tensor(c.logprobs)
        for prompt, group in zip(PROMPTS, groups)
        for c in group
    ]
    return torch.cat(differences).abs().mean().item()


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_transformers_generates_and_tells_its_log_probabilities(dtype, tolerance):
    engine = engines.load(BASE, engine="transformers", dtype=dtype)
    assert engine.model.device.type == DEVICE
    groups = engines.generate(engine, PROMPTS, engines.Sampling(n=4, max_tokens=32))
    assert [len(group) for group in groups] == [4, 4] and all(c.token_ids for group in groups for c in group)
    assert gap(engine.model, engine.tokenizer, groups) < tolerance
    first, second = (
        engines.generate(engine, PROMPTS, engines.Sampling(max_tokens=32, temperature=0.0)) for _ in range(2)
    )
    assert [g[0].token_ids for g in first] == [g[0].token_ids for g in second]


def run_stage(run, folder, text: str) -> tuple[list[dict], dict]:
    """The training rows of a stage's metrics, and its result."""
    path, run_dir = folder / "recipe.yaml", folder / "run"
    path.write_text(text)
    run_dir.mkdir()
    assert run(recipes.load([str(path)]), run_dir) == 0
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["phase"] == "train"], json.loads((run_dir / "result.json").read_text())


@pytest.mark.parametrize("lora", ["null", "{r: 4}"], ids=["full", "lora"])
def test_a_grpo_stage_trains(tmp_path, lora):
    from r1lab.stages import grpo

    (tmp_path / "short.py").write_text(
        "def short_reward(completions, **columns):\n    return [1 / (1 + len(turn)) for turn in completions]\n"
    )
    rows, result = run_stage(
        grpo.run,
        tmp_path,
        f"""
stage: grpo
name: gpu
model: {{path: "{BASE}", lora: {lora}}}
data: {{builder: knights_knaves, people: 2, size: 16}}
prompt: {{template: r1-zero}}
rewards: [{{name: ./short.py:short_reward}}]
rollout: {{engine: transformers, num_generations: 4, max_completion_length: 48}}
train: {{max_steps: 3, per_device_train_batch_size: 8, learning_rate: 1.0e-3, beta: 0.0, save_strategy: "no"}}
""",
    )
    assert [row["step"] for row in rows] == [1, 2, 3] and result["steps"] == 3
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    before = loading.load_model(BASE, dtype="bfloat16").state_dict()
    moved = [name for name, weight in after.items() if not torch.equal(weight.to(torch.bfloat16), before[name])]
    assert any("q_proj.weight" in name for name in moved) and any("down_proj.weight" in name for name in moved)


def test_an_sft_stage_learns(tmp_path):
    from r1lab.stages import sft

    rows, result = run_stage(
        sft.run,
        tmp_path,
        """
stage: sft
name: gpu
model: {path: "scratch:tiny-qwen2", dtype: float32}
data: {builder: knights_knaves, people: 2, size: 480, copies: 10, solution: evaluation}
prompt: {template: r1-zero}
train: {max_steps: 30, per_device_train_batch_size: 16, learning_rate: 2.0e-3, save_strategy: "no"}
""",
    )
    assert result["steps"] == len(rows) == 30
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


def test_vllm_log_probabilities_follow_the_policy(tmp_path, tokenizer):
    pytest.importorskip("vllm")
    args = GRPOConfig(
        output_dir=str(tmp_path), use_vllm=True, vllm_mode="colocate", vllm_max_model_length=256,
        vllm_gpu_memory_utilization=0.2, per_device_train_batch_size=4, num_generations=4, max_completion_length=32,
        bf16=True, gradient_checkpointing=False, report_to="none",
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=loading.load_model(BASE, dtype="bfloat16"), args=args, processing_class=tokenizer,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS, "row": [0, 1]}),
    )  # fmt: skip

    def generate():
        with trainer.engine() as engine:
            return engines.generate(engine, PROMPTS, engines.Sampling(n=4, max_tokens=32, logprobs=True))

    assert gap(trainer.model, tokenizer, generate()) < 0.1
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert gap(trainer.model, tokenizer, generate()) > 1.0  # the same step: not synced yet
    trainer._last_loaded_step = -1  # as after an optimizer step
    assert gap(trainer.model, tokenizer, generate()) < 0.1
