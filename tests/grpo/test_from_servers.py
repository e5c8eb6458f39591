"""Asynchronous groups from real servers: the bound on their age, the order of the prompts, and updates in flight."""

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig

from r1lab.engines import Sampling, generate
from r1lab.grpo.alarms import LOGS
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import loading
from r1lab.recipe.sections import Asynchronous

pytest.importorskip("vllm")
ROWS, SIZE, GROUPS, STEPS = 8, 4, 2, 6


def trained(folder, url, staleness, *, in_flight=True, callbacks=(), synced=True):
    """The trainer, the prompts of each update, and the groups that it trained on; not `synced`: with the first weights
    in place of the new ones at each sync."""
    rows, groups = [], []

    class Watched(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            batch = super()._generate_and_score_completions(inputs)
            rows.append(self.processing_class.batch_decode(batch["prompt_ids"][::SIZE], skip_special_tokens=True))
            return batch

    config = GRPOConfig(
        output_dir=str(folder), use_vllm=True, vllm_mode="colocate", per_device_train_batch_size=GROUPS * SIZE,
        num_generations=SIZE, max_completion_length=48, max_steps=STEPS, learning_rate=1e-3, logging_steps=1,
        bf16=False, gradient_checkpointing=False, use_cpu=True, save_strategy="no", report_to="none",
        disable_tqdm=True, vllm_importance_sampling_mode="token_truncate", generation_kwargs={"ignore_eos": True},
    )  # fmt: skip
    made = Watched(
        model=loading.load_model("embedded:tiny-qwen2", dtype="float32"), args=config,
        processing_class=loading.load_tokenizer("embedded:tiny-qwen2"),
        reward_funcs=lambda completions, **_: [len(set(text)) / 10 for text in completions],
        train_dataset=Dataset.from_dict({"prompt": [f"User: {'who ' * n}" for n in range(ROWS)]}),
        asynchronous=Asynchronous(staleness=staleness, in_flight=in_flight),
        served={"servers": [url], "timeout": 300.0}, callbacks=list(callbacks),
    )  # fmt: skip
    for callback in callbacks:
        callback.trainer = made
    taken = made.groups.pacing.take

    def take():
        found = taken()
        groups.extend((made.groups.pacing.version - 1, ticket.group) for ticket in found)
        return found

    made.groups.pacing.take = take
    if not synced:
        first = [(name, weight.clone()) for name, weight in made.vllm_generation._iter_named_params()]
        made.vllm_generation._iter_named_params = lambda: iter(first)
    made.train()
    made.vllm_generation.fleet.close()
    made.vllm_generation.weight_sync.close()
    return made, rows, groups


@pytest.mark.slow
@pytest.mark.parametrize("staleness", [0, 2])
def test_no_token_is_older_than_the_bound_and_prompts_come_in_their_order(served, tmp_path, staleness):
    made, rows, groups = trained(tmp_path, served[0].url, staleness)
    ages = [trained_at - version for trained_at, group in groups for one in group.versions for version in one]
    assert len(groups) == STEPS * GROUPS and min(ages) >= 0 and max(ages) <= staleness
    order = [f"User: {'who ' * made.groups._order(number)}".split() for number in range(STEPS * GROUPS)]
    assert [text.split() for step in rows for text in step] == order
    logs = [row for row in made.state.log_history if "loss" in row]
    assert [row["step"] for row in logs] == list(range(1, STEPS + 1))
    assert max(row["async/staleness_max"] for row in logs) == max(ages)
    if staleness == 0:
        assert all(row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3) for row in logs)
    else:
        assert max(ages) > 0


class Evaluates(TrainerCallback):
    """Generates after each step with the new weights, as an evaluation does, while groups are in flight."""

    trainer: GRPOTrainer

    def on_step_end(self, args, state, control, **kwargs):
        with self.trainer.engine() as engine:
            generate(engine, ["User: who "], Sampling(n=1, max_tokens=4))


@pytest.mark.slow
@pytest.mark.parametrize("in_flight", [True, False])
def test_an_evaluation_does_not_change_the_versions_of_the_groups_in_flight(served, tmp_path, in_flight):
    _, _, groups = trained(tmp_path, served[0].url, 2, in_flight=in_flight, callbacks=[Evaluates()])
    ages = [at - version for at, group in groups for one in group.versions for version in one]
    assert min(ages) >= 0 and 0 < max(ages) <= 2
    if not in_flight:  # then each completion has tokens of one version
        assert all(len(set(one)) == 1 for _, group in groups for one in group.versions)


@pytest.mark.slow
def test_the_log_probabilities_are_those_of_the_weights_that_sampled(served, tmp_path):
    made, _, groups = trained(tmp_path, served[0].url, 0)
    _, group = groups[0]  # from the weights that the training started from
    start = loading.load_model("embedded:tiny-qwen2", dtype="float32").eval()
    for ids, logprobs in zip(group.completion_ids, group.logprobs, strict=True):
        with torch.inference_mode():
            logits = start(torch.tensor([group.prompt_ids + ids])).logits[0, len(group.prompt_ids) - 1 : -1]
        found = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(found, torch.tensor(logprobs), atol=1e-3, rtol=0)
    assert made.state.global_step == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("synced", [True, False])
def test_the_alarm_hears_whether_each_sync_has_brought_the_weights(served, tmp_path, synced):
    made, _, _ = trained(tmp_path, served[0].url, 2, synced=synced)
    drift = {row["step"]: row[LOGS["drift"]] for row in made.state.log_history if LOGS["drift"] in row}
    print(f"synced: {synced}; nats by step: {drift}")
    later = [value for step, value in drift.items() if step > 1]  # the first step has the first weights
    assert drift[1] <= 1e-4 and later
    assert max(later) <= 1e-4 if synced else min(later) > 0.01
