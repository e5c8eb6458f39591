"""vLLM under the trainer really generates, and really receives new weights."""

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig

from r1lab.engines import Sampling, generate
from r1lab.errors import UserError
from r1lab.grpo.parity import Parity
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import loading
from r1lab.rundir import storage

vllm = pytest.importorskip("vllm")
PROMPTS = ["User: who is a knight? Assistant:", "User: Zoey said that Luke is a knave. Assistant:"]


@pytest.fixture(scope="module")
def trainer(tiny_model, tmp_path_factory):
    config = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("out")),
        use_vllm=True,
        vllm_mode="colocate",
        vllm_max_model_length=256,
        vllm_gpu_memory_utilization=0.3,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=32,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
    )
    return GRPOTrainer(
        model=loading.load_model(str(tiny_model), dtype="float32"),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS, "row": [0, 1]}),
        processing_class=loading.load_tokenizer(str(tiny_model)),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
    )


def sampled(trainer) -> list[list]:
    """Four completions of each prompt, with the engine's log-probabilities."""
    with trainer.engine() as engine:
        return generate(engine, PROMPTS, Sampling(n=4, max_tokens=32, logprobs=True))


def policy_logprobs(trainer, prompt: str, token_ids: list[int]) -> torch.Tensor:
    """Log-probabilities of a completion under the policy itself, by one forward pass."""
    prompt_ids = trainer.processing_class(prompt, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([prompt_ids + token_ids])
    with torch.inference_mode():
        logits = trainer.model.eval()(ids).logits[0, len(prompt_ids) - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, torch.tensor(token_ids)[:, None])[:, 0]


def gap(trainer, groups) -> float:
    """The largest difference between vLLM's log-probabilities and the policy's."""
    return max(
        (policy_logprobs(trainer, prompt, c.token_ids) - torch.tensor(c.logprobs)).abs().max().item()
        for prompt, group in zip(PROMPTS, groups)
        for c in group
    )


def test_vllm_log_probabilities_follow_the_policy(trainer):
    before = sampled(trainer)
    assert all(len(c.token_ids) > 0 for group in before for c in group)
    assert gap(trainer, before) < 1e-2

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    stale = sampled(trainer)  # same step: not synced yet
    assert gap(trainer, stale) > 0.1

    trainer._last_loaded_step = -1  # as after an optimizer step
    fresh = sampled(trainer)
    assert gap(trainer, fresh) < 1e-2


def test_the_parity_probe_passes_the_policys_engine_and_no_other(trainer, tmp_path):
    trainer._last_loaded_step = -1
    probe = Parity(trainer, PROMPTS, tmp_path)
    probe.on_train_begin(trainer.args, trainer.state, trainer.control)
    (row,) = storage.read_jsonl(tmp_path / "metrics.jsonl")
    assert row["phase"] == "parity" and row["mean"] < 1e-3 and row["tokens"] > 8
    kept = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    with pytest.raises(UserError, match="does not sample from the policy"):  # same step: not synced
        probe.on_train_begin(trainer.args, trainer.state, trainer.control)
    trainer.model.load_state_dict(kept)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_the_importance_ratio_of_the_training_pass_is_trls(trainer, mode, monkeypatch):
    """TRL takes it from a pass of its own; one update a rollout needs none."""
    monkeypatch.setattr(trainer, "vllm_importance_sampling_mode", mode)
    monkeypatch.setattr(trainer, "vllm_importance_sampling_clip_max", 1.001)  # so that some are cut
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = [{"prompt": PROMPTS[0], "row": 0}] * 4
    monkeypatch.setattr(trainer, "on_policy", False)
    theirs = trainer._generate_and_score_completions(batch)
    assert theirs["importance_sampling_ratio"].size(0) == 4
    theirs["advantages"] = torch.tensor([1.0, -1.0, 0.5, -0.5])
    ours = {k: v for k, v in theirs.items() if k not in ("importance_sampling_ratio", "old_per_token_logps")}
    expected = GRPOTrainer.__mro__[1]._compute_loss(trainer, trainer.model, theirs)
    assert trainer._compute_loss(trainer.model, ours).item() == pytest.approx(expected.item(), rel=1e-5)
    monkeypatch.setattr(trainer, "on_policy", True)
    assert "old_per_token_logps" not in trainer._generate_and_score_completions(batch)


@pytest.mark.slow
def test_float32_weights_are_sampled_from_in_the_dtype_of_the_engine(tiny_model, tmp_path):
    config = GRPOConfig(
        output_dir=str(tmp_path), use_vllm=True, vllm_mode="colocate", vllm_max_model_length=256,
        vllm_gpu_memory_utilization=0.3, per_device_train_batch_size=4, num_generations=4, max_completion_length=32,
        bf16=True, use_cpu=True, gradient_checkpointing=False, report_to="none",
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=loading.load_model(str(tiny_model), dtype="float32"), args=config, dtype=torch.bfloat16,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS, "row": [0, 1]}),
        processing_class=loading.load_tokenizer(str(tiny_model)),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
    )  # fmt: skip
    model = trainer.vllm_generation.llm.llm_engine.model_executor.driver_worker.model_runner.get_model()

    def dtypes():  # with AMX, vLLM's kernel adds its own float32 copy of each bias
        return {weight.dtype for weight in model.parameters() if weight.dim() > 1}

    assert dtypes() == {torch.bfloat16}
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    trainer._last_loaded_step = -1
    assert gap(trainer, sampled(trainer)) < 0.1
    assert dtypes() == {torch.bfloat16}
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
