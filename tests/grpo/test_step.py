"""The step computes TRL's loss and gradient, with less work."""

import random

import pytest
import torch
import trl
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM
from trl import GRPOConfig

from r1lab import models
from r1lab.grpo.trainer import GRPOTrainer, by_group, rows, trimmed

TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
B, P, C, G = 16, 9, 14, 4


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer("embedded:tiny-qwen2")


def trainer(cls, tokenizer, tmp_path, kind, **settings):
    more = {"head_dim": 8} if kind.startswith("gemma") else {}
    if kind == "gemma3_text":
        more |= {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **TINY, **more)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    args = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=B, num_generations=G, max_completion_length=C,
        bf16=False, report_to="none", use_cpu=True, gradient_checkpointing=False, **settings,
    )  # fmt: skip
    made = cls(
        model=model, args=args, processing_class=tokenizer, reward_funcs=lambda completions, **_: [0.0] * B,
        train_dataset=Dataset.from_dict({"prompt": ["a"] * B}),
    )  # fmt: skip
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    return made


def batch(size, *, beta=0.0, off_policy=False, no_signal=True):
    g = torch.Generator().manual_seed(1)
    prompts = torch.randint(5, size, (B // G, P), generator=g)
    masks = torch.ones_like(prompts)
    masks[1, :4] = masks[2, :2] = 0
    lengths = torch.randint(1, C + 1, (B,), generator=g)
    mask = (torch.arange(C) < lengths[:, None]).long()
    advantages = torch.randn(B, generator=g)
    if no_signal:
        advantages[G : 2 * G] = 0.0
    inputs = {
        "prompt_ids": (prompts * masks).repeat_interleave(G, 0),
        "prompt_mask": masks.repeat_interleave(G, 0),
        "completion_ids": torch.randint(5, size, (B, C), generator=g) * mask,
        "completion_mask": mask,
        "advantages": advantages,
        "num_items_in_batch": mask.sum(),
    }
    if off_policy:
        inputs["old_per_token_logps"] = -6.5 + 0.3 * torch.randn(B, C, generator=g)
    if beta:
        inputs["ref_per_token_logps"] = -6.5 + 0.3 * torch.randn(B, C, generator=g)
    return inputs


def loss_and_gradient(made, inputs):
    made.model.zero_grad()
    loss = made.compute_loss(made.model, inputs)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])


def agree(ours, theirs):
    (loss, gradient), (loss_, gradient_) = ours, theirs
    assert loss == pytest.approx(loss_, rel=1e-5, abs=1e-8)
    assert (gradient - gradient_).norm() <= 1e-5 * gradient_.norm()
    assert gradient_.norm() > 0


LOSSES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]


@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("off_policy", [False, True])
def test_every_loss_has_trls_value_and_gradient(tokenizer, tmp_path, loss_type, beta, off_policy):
    settings = {"loss_type": loss_type, "beta": beta}
    if loss_type == "luspo":
        settings["importance_sampling_level"] = "sequence"
    inputs = batch(len(tokenizer), beta=beta, off_policy=off_policy)
    ours, theirs = (
        loss_and_gradient(trainer(cls, tokenizer, tmp_path, "qwen2", **settings), dict(inputs))
        for cls in (GRPOTrainer, trl.GRPOTrainer)
    )
    agree(ours, theirs)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "qwen3", "gemma2", "gemma3_text"])
def test_every_kind_of_model_has_trls_value_and_gradient(tokenizer, tmp_path, kind):
    inputs = batch(len(tokenizer))
    ours, theirs = (
        loss_and_gradient(trainer(cls, tokenizer, tmp_path, kind, loss_type="dapo", beta=0.0), dict(inputs))
        for cls in (GRPOTrainer, trl.GRPOTrainer)
    )
    agree(ours, theirs)


@pytest.mark.parametrize("settings", [{"entropy_coef": 0.01}, {"top_entropy_quantile": 0.5}])
def test_what_pulls_at_rows_without_advantage_keeps_them(tokenizer, tmp_path, settings):
    inputs = batch(len(tokenizer))
    made = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", loss_type="dr_grpo", beta=0.0, **settings)
    assert not made.skips_no_signal
    theirs = trainer(trl.GRPOTrainer, tokenizer, tmp_path, "qwen2", loss_type="dr_grpo", beta=0.0, **settings)
    agree(loss_and_gradient(made, dict(inputs)), loss_and_gradient(theirs, dict(inputs)))


def test_a_batch_without_any_signal_has_no_gradient(tokenizer, tmp_path):
    inputs = batch(len(tokenizer)) | {"advantages": torch.zeros(B)}
    made = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", loss_type="dr_grpo", beta=0.0)
    loss, gradient = loss_and_gradient(made, inputs)
    assert loss == 0 and gradient.norm() == 0 and len(gradient) == sum(p.numel() for p in made.model.parameters())


def test_completions_masked_as_a_whole_count_nothing(tokenizer, tmp_path):
    inputs = batch(len(tokenizer), beta=0.04)
    inputs["completion_mask"][:3] = 0
    for beta in (0.0, 0.04):
        ours, theirs = (
            loss_and_gradient(trainer(cls, tokenizer, tmp_path, "qwen2", loss_type="dapo", beta=beta), dict(inputs))
            for cls in (GRPOTrainer, trl.GRPOTrainer)
        )
        agree(ours, theirs)
    made = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", loss_type="dapo", beta=0.04)
    loss, gradient = loss_and_gradient(made, inputs | {"completion_mask": torch.zeros(B, C, dtype=torch.long)})
    assert loss == 0 and gradient.norm() == 0


def test_groups_stay_together_and_like_lengths_meet():
    lengths = random.Random(0).choices(range(1, 100), k=64)
    for updates in (1, 2, 4):
        order = by_group(lengths, 8, updates, rng=random.Random(1))
        assert sorted(order) == list(range(64))
        assert all(order[i : i + 8] == list(range(order[i], order[i] + 8)) for i in range(0, 64, 8))
        for part in range(updates):
            groups = order[part * 64 // updates : (part + 1) * 64 // updates : 8]
            longest = [max(lengths[g : g + 8]) for g in groups]
            assert longest == sorted(longest, reverse=True)


def test_rows_and_columns_are_cut():
    inputs = batch(50) | {"importance_sampling_ratio": torch.ones(B, 1)}
    some = rows(inputs, torch.tensor([3, 5]))
    assert some["prompt_ids"].shape == (2, P) and some["num_items_in_batch"] == inputs["num_items_in_batch"]
    cut = trimmed(some)
    longest = int(some["completion_mask"].sum(1).max())
    assert cut["completion_ids"].shape == (2, longest) and cut["prompt_ids"].shape == (2, P)
    assert cut["importance_sampling_ratio"].shape == (2, 1)
