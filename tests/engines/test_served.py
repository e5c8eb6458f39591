"""GRPO on a real server trains as with vLLM in the trainer's process."""

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig

from r1lab.engines import Sampling, generate
from r1lab.errors import UserError
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import loading
from r1lab.recipe.training import GrpoTrain

pytest.importorskip("vllm")
SAYINGS = ["User: who is a knight? Assistant:", "User: Zoey said that Luke is a knave. Assistant:"]
# Greedy completions of a group are equal, so that nothing would be learned relative to their mean.
ADVANTAGE = "def above_one(rewards):\n    return rewards - 1\n"


class Rewards:
    """Longer words are better; hears of each completion as early as `r1lab.grpo.rewards.BatchRewards` does."""

    any_thread = True

    def __init__(self):
        self.texts: list[list[str]] = []
        self.heard: list[tuple[int, list[int]]] = []
        self.ids: list[list[int]] = []

    def started(self, rows, decode):
        self.heard = []

    def finished(self, i, token_ids):
        self.heard.append((i, list(token_ids)))

    def __call__(self, completions, completion_ids, **_):
        assert [ids for _, ids in sorted(self.heard)] == completion_ids
        self.texts.append(completions)
        return [len(text) / max(1, len(text.split())) / 4 for text in completions]


def trained(tmp_path, **settings):
    """The rewards, the losses and the completions of three steps."""
    advantage = tmp_path / "mine.py"
    advantage.write_text(ADVANTAGE)
    config = GRPOConfig(
        output_dir=str(tmp_path), use_vllm=True, vllm_mode="colocate", vllm_max_model_length=256, temperature=1.0,
        vllm_gpu_memory_utilization=0.3, per_device_train_batch_size=4, num_generations=2, max_completion_length=24,
        generation_kwargs={"temperature": 0.0}, max_steps=3, optim="sgd", learning_rate=0.05, logging_steps=1,
        lr_scheduler_type="constant", bf16=False, gradient_checkpointing=False, use_cpu=True, save_strategy="no",
        report_to="none", disable_tqdm=True, vllm_importance_sampling_correction=False, max_grad_norm=10.0,
    )  # fmt: skip
    rewards = Rewards()

    def reward(completions, completion_ids, **columns):
        return rewards(completions, completion_ids)

    trainer = GRPOTrainer(
        model=loading.load_model("embedded:tiny-qwen2", dtype="float32"), args=config,
        train_dataset=Dataset.from_dict({"prompt": SAYINGS, "row": [0, 1]}),
        processing_class=loading.load_tokenizer("embedded:tiny-qwen2"), reward_funcs=reward, rewards=rewards,
        own=GrpoTrain(advantage=f"{advantage}:above_one"), options={"enforce_eager": True}, **settings,
    )  # fmt: skip
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    return trainer, [(row["reward"], row["loss"]) for row in rows], rewards.texts


@pytest.mark.slow
def test_three_steps_on_a_server_are_those_of_the_engine_in_process(served, tmp_path):
    ours, figures, texts = trained(tmp_path, served={"servers": [served[0].url]})
    theirs, wanted, others = trained(tmp_path)
    assert texts == others and texts[0] != texts[2]  # the weights moved, and the server has them
    assert len(figures) == 3 and all(abs(loss) > 1e-3 for _, loss in figures)
    torch.testing.assert_close(torch.tensor(figures), torch.tensor(wanted), atol=1e-4, rtol=1e-4)
    distance = sum((a - b).abs().max() for a, b in zip(ours.model.parameters(), theirs.model.parameters()))
    assert distance < 1e-3
    generation = ours.vllm_generation
    assert generation.version == 3 and generation.fleet.version == 3
    assert generation.weight_sync.folder.is_dir() and not list(generation.weight_sync.folder.iterdir())
    ours._last_loaded_step = -1
    with ours.engine() as engine:
        sampling = Sampling(n=2, max_tokens=8, temperature=0.0)
        one, other = generate(engine, SAYINGS, sampling)
    assert one[0] == one[1] and one != other and generation.version == 4
    generation.fleet.close()
    generation.weight_sync.close()


@pytest.mark.slow
def test_weights_that_no_server_takes_are_one_line(tmp_path):
    with pytest.raises(UserError, match="^no server took the weights: http://127.0.0.1:9: ConnectError: .*: look at"):
        trained(tmp_path, served={"servers": ["http://127.0.0.1:9/v1"]})
