"""The metrics of a step do not depend on how its completions were divided into micro-batches."""

import pytest
import torch

from r1lab.grpo import batches, metrics
from r1lab.grpo.trainer import GRPOTrainer
from tests.grpo.test_step import B, C, G, batch, tokenizer, trainer  # noqa: F401


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["dapo", "cispo", "vespo"])
def test_micro_batches_of_other_sizes_log_the_same(tokenizer, tmp_path, level, loss_type):  # noqa: F811
    settings = {"loss_type": loss_type, "importance_sampling_level": level, "beta": 0.04, "epsilon": 0.05}
    made = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", **settings)
    made.use_vllm, made.vllm_importance_sampling_mode = True, f"{level}_truncate"
    inputs = batch(len(tokenizer), beta=0.04, off_policy=True)
    inputs["sampling_per_token_logps"] = -6.5 + 0.1 * torch.randn(B, C, generator=torch.Generator().manual_seed(2))
    logged = []
    for sizes in ([B], [1, 2, 5, B - 8], [G] * (B // G)):
        made._metrics["train"].clear()
        for some in torch.arange(B).split(sizes):
            made._part_loss(made.model, batches.rows(inputs, some))
        metrics.merge(made)
        logged.append(dict(made._metrics["train"]))
    whole, *others = logged
    assert {"entropy", "kl", "sampling/importance_sampling_ratio/min"} <= whole.keys()
    for other in others:
        assert other.keys() == whole.keys()
        for name, values in whole.items():
            assert other[name] == pytest.approx(values, rel=1e-4, abs=1e-6), name


def test_forgotten_micro_batches_log_nothing(tokenizer, tmp_path):  # noqa: F811
    made = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", loss_type="dapo", beta=0.0)
    inputs = batch(len(tokenizer))
    made._part_loss(made.model, batches.rows(inputs, torch.arange(5)))
    before = {name: list(values) for name, values in made._metrics["train"].items()}
    for some in (torch.arange(5, 9), torch.arange(9, B)):
        made._part_loss(made.model, batches.rows(inputs, some))
    assert made._metrics["train"] != before
    metrics.forget(made, 2)
    assert made._metrics["train"] == before and all(len(weights) == 1 for weights in made.weights.values())
