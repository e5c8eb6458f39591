"""The step computes TRL's loss and gradient, with less work."""

import random

import pytest
import torch
import trl
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM
from trl import GRPOConfig

from r1lab.grpo import batches
from r1lab.grpo.batches import by_group, by_tokens, rows, trimmed
from r1lab.grpo.head import token_logps
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import loading
from r1lab.recipe.training import GrpoTrain

TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
B, P, C, G = 16, 9, 14, 4


@pytest.fixture(scope="module")
def tokenizer():
    return loading.load_tokenizer("embedded:tiny-qwen2")


def trainer(cls, tokenizer, tmp_path, kind, own=None, dtype=torch.float32, **settings):
    more = {"head_dim": 8} if kind.startswith("gemma") else {}
    if kind == "gemma3_text":
        more |= {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **TINY, **more)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=dtype)
    args = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=B // settings.get("gradient_accumulation_steps", 1),
        num_generations=G, max_completion_length=C,
        bf16=False, report_to="none", use_cpu=True, gradient_checkpointing=False, **settings,
    )  # fmt: skip
    made = cls(
        model=model, args=args, processing_class=tokenizer, reward_funcs=lambda completions, **_: [0.0] * B,
        train_dataset=Dataset.from_dict({"prompt": ["a"] * B}), **({"own": GrpoTrain(**own)} if own else {}),
    )  # fmt: skip
    made.model.train().to(dtype)
    made.current_gradient_accumulation_steps = args.gradient_accumulation_steps
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
    for key in ("completion_ids", "completion_mask"):
        inputs[key][-1] = inputs[key][-2]  # as low entropy makes them
    if off_policy:
        # vespo multiplies the ratios of a sequence, so what is far off-policy leaves float32 no five digits.
        inputs["old_per_token_logps"] = -6.6 + 0.05 * torch.randn(B, C, generator=g)
    if beta:
        inputs["ref_per_token_logps"] = -6.5 + 0.3 * torch.randn(B, C, generator=g)
    return inputs


def loss_and_gradient(made, inputs):
    """Of one update: r1lab's micro-batches, and TRL's in the order of the rows."""
    made.model.zero_grad()
    steps = made.args.gradient_accumulation_steps
    if isinstance(made, GRPOTrainer):
        micro_steps = batches.micro_steps(made, inputs)
    else:
        micro_steps = [rows(inputs, part) for part in torch.arange(B).chunk(steps)]
    total = 0.0
    for part in micro_steps:
        loss = made.compute_loss(made.model, part)
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])


def agree(ours, theirs, tolerance=1e-5):
    (loss, gradient), (loss_, gradient_) = ours, theirs
    assert loss == pytest.approx(loss_, rel=tolerance, abs=tolerance * 1e-3)
    assert (gradient - gradient_).norm() <= tolerance * gradient_.norm()
    assert gradient_.norm() > 0


def both(tokenizer, tmp_path, kind, inputs, own=None, dtype=torch.float32, **settings):
    """Loss and gradient of r1lab's trainer and of TRL's."""
    return [
        loss_and_gradient(made, {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()})
        for made in (
            trainer(GRPOTrainer, tokenizer, tmp_path, kind, own, dtype, **settings),
            trainer(trl.GRPOTrainer, tokenizer, tmp_path, kind, None, dtype, **settings),
        )
    ]


LOSSES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]


def settings_of(loss_type):
    more = {"importance_sampling_level": "sequence"} if loss_type == "luspo" else {}
    return {"loss_type": loss_type, **more}


@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("off_policy", [False, True])
def test_every_loss_has_trls_value_and_gradient(tokenizer, tmp_path, loss_type, beta, off_policy):
    inputs = batch(len(tokenizer), beta=beta, off_policy=off_policy)
    agree(*both(tokenizer, tmp_path, "qwen2", inputs, beta=beta, **settings_of(loss_type)))


@pytest.fixture
def float64(monkeypatch):
    """What computes in float32 whatever the model's dtype does so in float64: TRL's head, norms, rotary angles.

    TRL counts positions from the padding, so that even the rounding of the angles would differ in the eighth digit.
    """
    to = torch.Tensor.to
    wider = {torch.float32: torch.float64}

    def to_float64(self, *args, **kwargs):
        args = [wider.get(x, x) if isinstance(x, torch.dtype) else x for x in args]
        return to(self, *args, **{k: wider.get(x, x) if k == "dtype" else x for k, x in kwargs.items()})

    monkeypatch.setattr(torch.Tensor, "to", to_float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)

    class Head:
        @staticmethod
        def apply(hidden, weight, bias, targets, temperature, chunk, softcap, scale, outputs):
            return *token_logps(hidden, weight, bias, targets, softcap=softcap, chunked=False), None, None, None

    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", Head)


@pytest.mark.parametrize("loss_type", [*LOSSES, "gspo"])
@pytest.mark.parametrize("budget", [None, 20, 60])
def test_in_float64_the_step_is_trls_to_ten_digits(tokenizer, tmp_path, float64, loss_type, budget):
    inputs = batch(len(tokenizer), beta=0.04, off_policy=True)
    settings = {"loss_type": "grpo", "importance_sampling_level": "sequence"}
    if loss_type != "gspo":
        settings = settings_of(loss_type)
    own = {"max_tokens_per_microbatch": budget}
    for beta in (0.0, 0.04):
        agree(*both(tokenizer, tmp_path, "qwen2", inputs, own, torch.float64, beta=beta, **settings), 1e-10)


KINDS = ["qwen2", "llama", "qwen3", "gemma2", "gemma3_text"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_has_trls_value_and_gradient(tokenizer, tmp_path, kind):
    inputs = batch(len(tokenizer))
    agree(*both(tokenizer, tmp_path, kind, inputs, loss_type="dapo", beta=0.0))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_in_float64(tokenizer, tmp_path, float64, kind):
    inputs = batch(len(tokenizer))
    agree(*both(tokenizer, tmp_path, kind, inputs, None, torch.float64, loss_type="dapo", beta=0.0), 1e-10)


@pytest.mark.parametrize("off", ["pack", "share_prompts", "skip_no_signal", "sort_by_length", "chunk_logps"])
def test_every_switch_leaves_loss_and_gradient(tokenizer, tmp_path, off):
    inputs = batch(len(tokenizer), off_policy=True)
    agree(*both(tokenizer, tmp_path, "qwen2", inputs, {off: False}, loss_type="dr_grpo", beta=0.0))


@pytest.mark.parametrize("loss_type", [kind for kind in LOSSES if kind != "bnpo"])
@pytest.mark.parametrize("budget", [None, 10, 50, 200])
def test_micro_batches_add_up(tokenizer, tmp_path, loss_type, budget):
    """Whatever the token budget, and over the micro-steps of an accumulation; bnpo depends on who is together."""
    inputs = batch(len(tokenizer), off_policy=True)
    settings = settings_of(loss_type) | {"gradient_accumulation_steps": 2}
    own = {"max_tokens_per_microbatch": budget}
    agree(*both(tokenizer, tmp_path, "qwen2", inputs, own, beta=0.0, **settings))


def test_another_temperature_is_packed_and_exact(tokenizer, tmp_path):
    inputs = batch(len(tokenizer), off_policy=True)
    assert trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", temperature=0.6, beta=0.0).packs
    agree(*both(tokenizer, tmp_path, "qwen2", inputs, loss_type="dapo", beta=0.0, temperature=0.6))


def test_gradient_checkpointing_keeps_the_shared_prompts(tokenizer, tmp_path):
    inputs = batch(len(tokenizer))
    made = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", loss_type="dapo", beta=0.0)
    made.model.gradient_checkpointing_enable({"use_reentrant": False})
    theirs = trainer(trl.GRPOTrainer, tokenizer, tmp_path, "qwen2", loss_type="dapo", beta=0.0)
    agree(loss_and_gradient(made, dict(inputs)), loss_and_gradient(theirs, dict(inputs)))


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
        agree(*both(tokenizer, tmp_path, "qwen2", inputs, loss_type="dapo", beta=beta))
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


def test_micro_batches_keep_the_budget_and_lose_no_row():
    rng = random.Random(0)
    for size, budget in ((4, 30), (8, 100), (8, 1)):
        lengths, prompts = [rng.randint(1, 40) for _ in range(64)], [rng.randint(1, 20) for _ in range(64)]
        prompts = [prompts[i // size] for i in range(64)]
        order = rng.sample(range(64), 40)
        order.sort(key=lambda row: row // size)
        parts = by_tokens(order, lengths, prompts, size, budget)
        assert sorted(row for part in parts for row in part) == sorted(order)
        for part in parts:
            tokens = sum(lengths[row] for row in part) + sum(prompts[g * size] for g in {row // size for row in part})
            assert tokens <= budget or len(part) == 1
