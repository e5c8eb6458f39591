"""What the loss takes from the engine's log-probabilities, and from the entropy of the policy."""

import math

import pytest
import torch

from r1lab.grpo.parity import gaps
from r1lab.grpo.trainer import GRPOTrainer
from tests.grpo.test_step import B, C, batch, loss_and_gradient, tokenizer, trainer  # noqa: F401


@pytest.mark.parametrize("own", [{}, {"pack": False}, {"chunk_logps": False}], ids=str)
@pytest.mark.parametrize("bonus", [{}, {"entropy_coef": 0.01}], ids=str)
def test_entropies_have_a_gradient_only_where_a_bonus_asks_for_it(tokenizer, tmp_path, own, bonus):  # noqa: F811
    made = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", own, beta=0.0, **bonus)
    inputs = batch(len(tokenizer))
    ids, masks = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    logps, entropies, _ = made._get_per_token_logps_and_entropies(made.model, ids, masks, C, compute_entropy=True)
    assert logps.requires_grad and entropies.requires_grad == bool(bonus)
    assert entropies[inputs["completion_mask"].bool()].min() > 0


def test_tokens_that_the_engine_could_not_score_are_no_evidence_of_a_drift(tokenizer, tmp_path):  # noqa: F811
    made = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", {"skip_no_signal": False}, beta=0.0, loss_type="dapo")
    made.use_vllm, made.vllm_importance_sampling_mode = True, "token_truncate"
    inputs = batch(len(tokenizer), no_signal=False)
    ids, masks = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    with torch.no_grad():
        policy, *_ = made._get_per_token_logps_and_entropies(made.model, ids, masks, C)
    engine = policy - 0.5
    engine[:, 0] = math.nan  # one token of each completion
    gradients = []
    for answered in (0, 2):  # and then with tokens of a tool, which the engine has not sampled
        tools = torch.ones(B, C, dtype=torch.long)
        tools[:, 1 : 1 + answered] = 0
        inputs["tool_mask"] = tools
        inputs["sampling_per_token_logps"] = torch.where(tools.bool(), engine, engine - 100)
        made._metrics["train"].clear()
        loss, gradient = loss_and_gradient(made, inputs)
        metrics = made._metrics["train"]
        (difference,), (most,) = (metrics[f"sampling/sampling_logp_difference/{name}"] for name in ("mean", "max"))
        assert difference == pytest.approx(0.5, rel=1e-4) and most == pytest.approx(0.5, rel=1e-4)
        ratios = [metrics[f"sampling/importance_sampling_ratio/{name}"][0] for name in ("min", "max")]
        assert ratios == pytest.approx([1.0, math.exp(0.5)], rel=1e-4)  # without a score there is no correction
        assert math.isfinite(loss) and gradient.isfinite().all()
        gradients.append(gradient)
    assert (gradients[0] - gradients[1]).norm() > 0.01 * gradients[0].norm()


def test_the_probe_before_a_run_leaves_them_out_too():
    ours, theirs = torch.tensor([[-1.0, -2.0, 0.0]]), torch.tensor([[-1.2, math.nan, 0.0]])
    assert gaps(ours, theirs, torch.tensor([[1, 1, 0]])).tolist() == pytest.approx([0.2])
