"""The trainer computes what the papers write: here once more, from their equations, in float64.

Nothing below is TRL's or r1lab's: each sequence runs alone, without padding, through a plain model, the softmax goes
over the whole vocabulary, and autograd does the rest.
"""

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM
from trl import GRPOConfig

from r1lab.grpo import batches
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.recipe.training import GrpoTrain
from tests.grpo.test_step import TINY, B, C, G, float64, tokenizer  # noqa: F401

LOW, HIGH, BETA = 0.2, 0.28, 0.04
PROMPTS = ["Zoey is a knight.", "Luke said that Zoey is a knave.", "Who?", "Zoey and Luke are knights or knaves."]
WEIGHTS = [1.0, 0.5]


def clipped(ratio, advantage):
    """min(r A, clip(r, 1 - low, 1 + high) A), with two bounds as in DAPO, arXiv:2503.14476, equation 8."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - LOW, 1 + HIGH) * advantage)


def grpo(ratios, logps, advantages):
    """DeepSeekMath, arXiv:2402.03300, equation 3: each answer's mean, then the mean over answers."""
    return [clipped(r, a) for r, a in zip(ratios, advantages)], [B * len(r) for r in ratios]


def dr_grpo(ratios, logps, advantages):
    """arXiv:2503.20783, listing 1: sums over tokens by a constant, the most tokens that an answer may have."""
    return [clipped(r, a) for r, a in zip(ratios, advantages)], [B * C] * B


def dapo(ratios, logps, advantages):
    """arXiv:2503.14476, equations 8 and 12: the mean over all tokens of the batch."""
    return [clipped(r, a) for r, a in zip(ratios, advantages)], [sum(len(r) for r in ratios)] * B


def cispo(ratios, logps, advantages):
    """arXiv:2506.13585, equations 4 and 5: REINFORCE by a ratio that is clipped from above and has no gradient."""
    weights = [r.clamp(max=1 + HIGH).detach() for r in ratios]
    return [w * a * x for w, a, x in zip(weights, advantages, logps)], [sum(len(r) for r in ratios)] * B


def gspo(ratios, logps, advantages):
    """arXiv:2507.18071, equations 5 and 7: one ratio a sequence, the geometric mean of its tokens'."""
    return grpo(sequence_ratios(ratios), logps, advantages)


def sequence_ratios(ratios):
    return [r.log().mean().exp().expand(len(r)) for r in ratios]


def k3(logps, reference):
    """DeepSeekMath, equation 4. TRL's default multiplies it by the ratio: DeepSeek-V3.2, arXiv:2512.02556."""
    return [(r - x).exp() - (r - x) - 1 for r, x in zip(reference, logps)]


LOSSES = {
    "grpo": (grpo, {"loss_type": "grpo"}),
    "bnpo": (dapo, {"loss_type": "bnpo"}),  # with one micro-batch an update the same as dapo
    "dr_grpo": (dr_grpo, {"loss_type": "dr_grpo"}),
    "dapo": (dapo, {"loss_type": "dapo"}),
    "cispo": (cispo, {"loss_type": "cispo", "epsilon_high": 1 + HIGH}),  # TRL's is the bound itself
    "gspo": (gspo, {"loss_type": "grpo", "importance_sampling_level": "sequence"}),
}


def trainer(tokenizer, tmp_path, own, **settings):  # noqa: F811
    config = AutoConfig.for_model("qwen2", vocab_size=len(tokenizer), **TINY)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    args = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": B, "num_generations": G, "epsilon": LOW,
        "max_completion_length": C, "bf16": False, "report_to": "none", "use_cpu": True, "epsilon_high": HIGH,
        "gradient_checkpointing": False, "reward_weights": WEIGHTS, "num_iterations": 2,
    }  # fmt: skip

    def tokens(completion_ids, **_):
        return [float(sum(ids) % 7) for ids in completion_ids]

    def spread(completion_ids, **_):
        return [len(set(ids)) / 3 for ids in completion_ids]

    made = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64),
        args=GRPOConfig(**args | settings), processing_class=tokenizer, reward_funcs=[tokens, spread],
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}), own=GrpoTrain(**own),
    )  # fmt: skip
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    return made


def rollout(made, size: int):
    """What the trainer's `_generate` returns, with completions of every length, as no sampling from noise gives."""
    g = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, C + 1, (B,), generator=g).tolist()
    ids = [torch.randint(5, size, (length,), generator=g).tolist() for length in lengths]
    prompts, *_ = made._tokenize_prompts([p for p in PROMPTS for _ in range(G)])
    return prompts, ids, None, made.processing_class.batch_decode(ids), None, {}, None, []


def sequences(scored):
    """Each row's prompt and completion, without padding."""
    return [
        (prompt[keep.bool()], answer[mask.bool()])
        for prompt, keep, answer, mask in zip(
            *(scored[f"{part}_{kind}"] for part in ("prompt", "completion") for kind in ("ids", "mask"))
        )
    ]


def logps_of(model, pairs):
    """Log-probabilities of each completion's tokens, sequence by sequence."""
    found = []
    for prompt, answer in pairs:
        logits = model(input_ids=torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1]
        found.append(logits.log_softmax(-1).gather(-1, answer[:, None])[:, 0])
    return found


def padded(values):
    return torch.stack([torch.nn.functional.pad(x, (0, C - len(x))) for x in values])


@pytest.mark.parametrize("kl", [None, "k3", "unbiased"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("budget", [None, 40])
@pytest.mark.parametrize("scale", ["group", "none"])
def test_loss_gradient_and_advantages_are_the_papers(
    tokenizer,  # noqa: F811
    tmp_path,
    float64,  # noqa: F811
    name,
    kl,
    budget,
    scale,
):
    objective, settings = LOSSES[name]
    own = {"max_tokens_per_microbatch": budget}
    settings = settings | {"beta": BETA if kl else 0.0, "use_bias_correction_kl": kl == "unbiased"}
    made = trainer(tokenizer, tmp_path, own, scale_rewards=scale, **settings)
    made._generate = lambda prompts: rollout(made, len(tokenizer))
    scored = made._generate_and_score_completions([{"prompt": p} for p in PROMPTS for _ in range(G)])
    pairs = sequences(scored)
    assert len({len(answer) for _, answer in pairs}) > 5

    # Advantages: DeepSeekMath, section 4.1.2 (with TRL's 1e-4), and Dr. GRPO, which leaves the deviation out.
    rewards = torch.tensor(
        [WEIGHTS[0] * (sum(ids) % 7) + WEIGHTS[1] * len(set(ids)) / 3 for ids in (a.tolist() for _, a in pairs)],
        dtype=torch.float64,
    ).view(-1, G)
    advantages = rewards - rewards.mean(1, keepdim=True)
    if scale == "group":
        advantages = advantages / (rewards.std(1, keepdim=True) + 1e-4)
    advantages = advantages.flatten()
    assert (scored["advantages"] - advantages).abs().max() < 1e-5  # rewards are kept in float32

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64).train()
    logps = logps_of(model, pairs)
    g = torch.Generator().manual_seed(3)
    old, reference = (
        [x.detach() + size * torch.randn(len(x), generator=g, dtype=torch.float64) for x in logps]
        for size in (0.4, 0.3)
    )
    ratios = [(x - o).exp() for x, o in zip(logps, old)]
    assert 0.05 < torch.cat([(r < 1 - LOW) | (r > 1 + HIGH) for r in ratios]).double().mean() < 0.95
    terms, divisors = objective(ratios, logps, advantages)
    if kl:
        penalties = k3(logps, reference)
        if kl == "unbiased":
            weights = sequence_ratios(ratios) if name == "gspo" else ratios
            penalties = [w * k for w, k in zip(weights, penalties)]
        terms = [t - BETA * k for t, k in zip(terms, penalties)]
    loss = -sum(t.sum() / d for t, d in zip(terms, divisors))
    loss.backward()

    inputs = scored | {"advantages": advantages, "old_per_token_logps": padded(old)}
    if kl:
        inputs["ref_per_token_logps"] = padded(reference)
    width = scored["completion_ids"].size(1)
    inputs = {k: v[:, :width] if k.endswith("_per_token_logps") else v for k, v in inputs.items()}
    (parts,) = batches.micro_steps(made, inputs)
    assert len(parts) > 1 or budget is None
    found = made.compute_loss(made.model, parts)
    found.backward()
    assert found.item() == pytest.approx(loss.item(), rel=1e-10)
    expected = dict(model.named_parameters())
    for key, parameter in made.model.named_parameters():
        assert expected[key].grad.norm() > 0, key
        assert (parameter.grad - expected[key].grad).norm() <= 1e-10 * expected[key].grad.norm(), key
