"""examples/grpo_loop.py, which is there to be read, computes what the trainer computes."""

import importlib.util
from pathlib import Path

import pytest
import torch

from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import loading
from tests.grpo.test_step import B, C, G, batch, loss_and_gradient, tokenizer, trainer  # noqa: F401

PATH = Path(__file__).parents[2] / "examples" / "grpo_loop.py"


@pytest.fixture(scope="module")
def loop():
    spec = importlib.util.spec_from_file_location("grpo_loop", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("updates", [1, 2])
def test_a_step_has_the_trainers_loss_and_gradient(loop, tokenizer, tmp_path, beta, updates):  # noqa: F811
    made = trainer(
        GRPOTrainer, tokenizer, tmp_path, "qwen2",
        loss_type="grpo", beta=beta, num_iterations=updates, temperature=0.9,
        use_bias_correction_kl=False,  # TRL's default multiplies the KL by the ratio, which is not DeepSeekMath's
    )  # fmt: skip
    inputs = batch(len(tokenizer), off_policy=updates > 1)
    written = [inputs["completion_ids"][i, :n].tolist() for i, n in enumerate(inputs["completion_mask"].sum(dim=1))]
    asked = [inputs["prompt_ids"][i][inputs["prompt_mask"][i].bool()].tolist() for i in range(B)]
    rewards = torch.randn(B, generator=torch.Generator().manual_seed(2))
    made.reward_funcs = [lambda completions, **_: rewards.tolist()]
    made.rollout_func = lambda prompts, _: {"prompt_ids": asked, "completion_ids": written, "logprobs": None}
    scored = made._generate_and_score_completions([{"prompt": "a"}] * B)
    advantage = loop.advantages(rewards, G)
    assert torch.allclose(advantage, scored["advantages"], rtol=1e-5)

    model = loading.load_model(str(tmp_path / "model"), dtype="float32")
    logps = loop.token_logps(model, inputs, temperature=0.9)
    old = inputs["old_per_token_logps"] if updates > 1 else logps.detach()
    reference = logps.detach() - 0.1 * inputs["completion_mask"] if beta else None
    # A policy that has moved: the trainer's own would still be the one that it began with.
    scored |= {"old_per_token_logps": old} if updates > 1 else {}
    scored |= {"ref_per_token_logps": reference} if beta else {}
    loss, gradient = loss_and_gradient(made, scored)
    ours = loop.grpo_loss(logps, old, advantage, inputs["completion_mask"], reference=reference, beta=beta)
    ours.backward()
    gradient_ = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert ours.item() == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert (gradient - gradient_).norm() <= 1e-5 * gradient_.norm() and gradient_.norm() > 0


def test_completions_end_with_their_end_token(loop):
    model, tokenizer_ = (f("embedded:tiny-qwen2") for f in (loading.load_model, loading.load_tokenizer))
    torch.manual_seed(0)
    texts = ["User: Zoey said that Luke is a knave. Assistant:", "User: who? Assistant:"]
    batch_ = loop.sample(model, tokenizer_, texts, group=3, max_tokens=C, temperature=1.0)
    assert batch_["completion_ids"].size(0) == 6 and batch_["prompt_mask"][3].sum() < batch_["prompt_mask"][0].sum()
    end = tokenizer_.eos_token_id
    for ids, mask in zip(batch_["completion_ids"].tolist(), batch_["completion_mask"].tolist()):
        expected = ids.index(end) + 1 if end in ids else len(ids)
        assert mask == [1] * expected + [0] * (len(ids) - expected)


def test_it_runs(loop):
    words = "--steps 2 --prompts 2 --group 2 --max-tokens 8 --updates 2 --beta 0.01 --rows 3"
    assert len(loop.main(loop.parser().parse_args(words.split()))) == 2
