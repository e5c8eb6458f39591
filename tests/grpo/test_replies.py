"""Tokens that the model did not sample, such as an environment's replies: they are read, and nothing else."""

import math

import pytest
import torch
import trl

from r1lab.grpo import packed_model
from r1lab.grpo.trainer import GRPOTrainer
from tests.grpo.test_step import (  # noqa: F401
    LOSSES,
    B,
    C,
    agree,
    batch,
    loss_and_gradient,
    settings_of,
    tokenizer,
    trainer,
)


def episodes(size, **given):
    """A batch of episodes of one to three turns; in one a turn is empty, and equal ones remain equal."""
    inputs = batch(size, **given)
    own = torch.ones(B, C, dtype=torch.long)
    for i in range(B):
        own[i, 1 + i % 3 : 3 + i % 3] = 0  # a reply
        own[i, 7 : 7 + i % 4] = 0
    own[0] = 1  # a single turn
    own[1, 0] = 0  # the first turn is empty
    own[-1] = own[-2]
    inputs["tool_mask"] = own
    inputs["num_items_in_batch"] = (inputs["completion_mask"] * own).sum()
    return inputs


@pytest.mark.parametrize("own", [{}, {"share_prompts": False}, {"pack": False}], ids=str)
@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize("given", [{}, {"beta": 0.04, "off_policy": True}], ids=str)
def test_every_loss_has_trls_value_and_gradient(tokenizer, tmp_path, loss_type, given, own):  # noqa: F811
    inputs = episodes(len(tokenizer), **given)
    settings = settings_of(loss_type) | {"beta": given.get("beta", 0.0)}
    if loss_type == "bnpo":  # TRL's is a mean over a micro-batch, r1lab's over the update, which is one here
        settings["gradient_accumulation_steps"] = 1
    ours, theirs = (
        loss_and_gradient(trainer(cls, tokenizer, tmp_path, "qwen2", some, **settings), inputs)
        for cls, some in ((GRPOTrainer, own), (trl.GRPOTrainer, None))
    )
    agree(ours, theirs)


def test_the_head_computes_the_sampled_tokens_and_no_others(tokenizer, tmp_path, monkeypatch):  # noqa: F811
    inputs, computed, head = episodes(len(tokenizer), no_signal=False), [], packed_model.token_logps

    def counted(hidden, weight, bias, targets, **settings):
        computed.append(len(targets))
        return head(hidden, weight, bias, targets, **settings)

    monkeypatch.setattr(packed_model, "token_logps", counted)
    made = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", {"skip_no_signal": False}, beta=0.0)
    computed.clear()  # packing has been tried with a few rows
    loss_and_gradient(made, inputs)
    own = int((inputs["completion_mask"] * inputs["tool_mask"]).sum())
    equal = int((inputs["completion_mask"] * inputs["tool_mask"])[-1].sum())  # the last two episodes are the same
    assert sum(computed) == own - equal
    assert own < 0.8 * int(inputs["completion_mask"].sum())


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
@pytest.mark.parametrize("off_policy", [False, True])
def test_what_the_engine_says_of_replies_does_not_matter(tokenizer, tmp_path, mode, off_policy):  # noqa: F811
    made = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", {"skip_no_signal": False}, beta=0.0, loss_type="dapo")
    made.use_vllm, made.vllm_importance_sampling_mode = True, mode
    inputs = episodes(len(tokenizer), no_signal=False, off_policy=off_policy)
    engine = -6.6 + 0.05 * torch.randn(B, C, generator=torch.Generator().manual_seed(3))
    seen = []
    for filler in (0.0, math.nan, -5.0, -math.inf, 300.0):
        inputs["sampling_per_token_logps"] = torch.where(inputs["tool_mask"].bool(), engine, filler)
        if off_policy:
            old = inputs["old_per_token_logps"]
            inputs["old_per_token_logps"] = torch.where(inputs["tool_mask"].bool(), old, filler)
        made._metrics["train"].clear()
        loss, gradient = loss_and_gradient(made, inputs)
        seen.append((loss, gradient, {name: list(values) for name, values in made._metrics["train"].items()}))
    assert math.isfinite(seen[0][0]) and seen[0][1].norm() > 0 and len(seen[0][2]) > 3
    for loss, gradient, metrics in seen[1:]:
        assert loss == seen[0][0] and torch.equal(gradient, seen[0][1]) and metrics == seen[0][2]


def test_a_loss_of_the_users_own_sees_the_sampled_tokens(tokenizer, tmp_path):  # noqa: F811
    from r1lab.grpo import losses

    inputs = episodes(len(tokenizer))
    masks = []

    def score(logps, mask, advantages):
        masks.append(mask)
        return -logps * advantages

    logps = torch.zeros(B, C, requires_grad=True)
    losses.as_advantages(score, inputs, logps, "token")
    assert torch.equal(masks[0], inputs["completion_mask"] * inputs["tool_mask"])
