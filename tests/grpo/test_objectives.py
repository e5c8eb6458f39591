"""The objectives of asynchronous training have the value and gradient of their formulas, by plain autograd."""

import types
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from r1lab.grpo import objectives
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import loading
from r1lab.recipe.sections import Asynchronous
from tests.grpo.test_step import P, batch, loss_and_gradient, tokenizer, trainer  # noqa: F401

LOW, HIGH, EPSILON = 0.6, 1.5, 0.2


def log_probabilities(model, inputs) -> torch.Tensor:
    """(B, C), by a forward pass without packing."""
    ids, mask = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    logits = model(input_ids=ids, attention_mask=mask).logits[:, P - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, inputs["completion_ids"][..., None])[..., 0]


def formula(objective: str, c, p, b, advantages) -> torch.Tensor:
    """(B, C), the loss of each token, as the papers write it."""
    if objective == "truncated":
        return -(c.detach() - b).exp().clamp(LOW, HIGH) * advantages * (c - c.detach()).exp()
    start = p if objective == "decoupled" else b
    ratio = (c - start).exp()
    clipped = ratio.clamp(1 - EPSILON, 1 + EPSILON)
    weight = (p - b).exp().clamp(LOW, HIGH) if objective == "decoupled" else 1.0
    return -torch.min(ratio * advantages, clipped * advantages) * weight


@pytest.mark.parametrize("vllm", [False, True])
@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize("objective", ["decoupled", "truncated", "ppo"])
def test_an_objective_has_the_value_and_gradient_of_its_formula(tokenizer, tmp_path, objective, updates, vllm):  # noqa: F811
    made = trainer(
        GRPOTrainer, tokenizer, tmp_path, "qwen2", loss_type="grpo", beta=0.0, num_iterations=updates,
        vllm_importance_sampling_mode="token_truncate", vllm_importance_sampling_clip_max=HIGH,
        vllm_importance_sampling_clip_min=LOW,
    )  # fmt: skip
    made.groups = types.SimpleNamespace(settings=Asynchronous(staleness=2, objective=objective))
    made.use_vllm = vllm
    inputs, g = batch(len(tokenizer)), torch.Generator().manual_seed(3)
    model = loading.load_model(str(tmp_path / "model"), dtype="float32")
    c, mask = log_probabilities(model, inputs), inputs["completion_mask"]
    p = c.detach() + 0.3 * torch.randn(c.shape, generator=g) if updates > 1 else c.detach()
    b = p + 0.5 * torch.randn(c.shape, generator=g)
    inputs |= {"sampling_per_token_logps": b} | ({"old_per_token_logps": p} if updates > 1 else {})
    ours, gradient = loss_and_gradient(made, inputs)
    tokens = formula(objective, c, p, b, inputs["advantages"][:, None])
    expected = ((tokens * mask).sum(1) / mask.sum(1)).mean()
    expected.backward()
    gradient_ = torch.cat([q.grad.flatten() for q in model.parameters()])
    assert ours == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    assert (gradient - gradient_).norm() <= 1e-5 * gradient_.norm() and gradient_.norm() > 0
    logged = made._metrics["train"]
    assert "sampling/sampling_logp_difference/mean" not in logged  # that would be staleness, not drift
    assert 0 < sum(logged[objectives.OUTSIDE]) / len(logged[objectives.OUTSIDE]) < 1


def test_a_token_that_was_not_scored_is_not_corrected():
    nan = torch.tensor([[float("nan"), -2.0]])
    for objective in ("decoupled", "truncated", "ppo"):
        found, difference = objectives.weighted(
            {"sampling_per_token_logps": nan}, torch.full((1, 2), -1.0), torch.ones(1, 2), objective,
            "token_truncate", None, 9.0,
        )  # fmt: skip
        assert found["importance_sampling_ratio"][0, 0] == 1 and difference[0].tolist() == [0.0, 1.0]
        assert not found.get("old_per_token_logps", torch.zeros(1)).isnan().any()


def test_with_one_update_the_proximal_policy_is_the_current_one():
    inputs = {"sampling_per_token_logps": torch.tensor([[-2.0, -1.5]])}
    given = (torch.tensor([[-1.0, -3.0]]), torch.ones(1, 2))
    (a, _), (b, _) = (
        objectives.weighted(inputs, *given, kind, "token_truncate", None, 3.0) for kind in ("decoupled", "truncated")
    )
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_share_outside_is_also_logged_of_trls_own_weights():
    accelerator = SimpleNamespace(gather=lambda value: value)
    trainer = SimpleNamespace(
        vllm_importance_sampling_clip_min=None, vllm_importance_sampling_clip_max=2.0, accelerator=accelerator,
        vllm_importance_sampling_mode="token_truncate", _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    inputs = {
        "completion_mask": torch.tensor([[1, 1, 1, 0]]),
        "old_per_token_logps": torch.tensor([[-1.0, -1.0, -1.0, 0.0]]),
        "sampling_per_token_logps": torch.tensor([[-3.0, -1.0, torch.nan, -9.0]]),
    }
    assert not objectives.corrected_by_trl(trainer, inputs)
    assert objectives.corrected_by_trl(trainer, inputs | {"importance_sampling_ratio": torch.ones(1, 4)})
    assert trainer._metrics["train"][objectives.OUTSIDE] == pytest.approx([1 / 3])
