"""Groups that are generated ahead: staleness 0 is synchronous training, and a resumed training loses no prompt."""

import shutil

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig

from r1lab.grpo import asynchronous
from r1lab.grpo.pacing import Ticket
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import loading
from r1lab.recipe.sections import Asynchronous, DynamicSampling
from r1lab.recipe.training import Curriculum

ROWS, SIZE, GROUPS = 13, 4, 2  # an epoch has 6 batches, and one row is left out


def distinct(completions, **_):
    return [len(set(text)) / 10 for text in completions]


def by_row(prompts, completions, row, **_):
    """Every third row has signal."""
    return [float(i % SIZE < 1) if number % 3 == 0 else 0.0 for i, number in enumerate(row)]


class Seen(TrainerCallback):
    """The rows, losses and metrics of each update."""

    def __init__(self):
        self.rows, self.logs = [], []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.logs.append(dict(logs))


def trained(folder, out, *, resume=None, reward=distinct, own=None, **given):
    """A trainer after its training, with what it saw."""
    names = ("asynchronous", "dynamic_sampling", "curriculum")
    more = {name: given.pop(name) for name in names if name in given}
    settings = {
        "per_device_train_batch_size": GROUPS * SIZE, "num_generations": SIZE, "max_completion_length": 6,
        "max_steps": 20, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "logging_steps": 1, "bf16": False,
        "gradient_checkpointing": False, "use_cpu": True, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "seed": 5, "vllm_importance_sampling_mode": "token_truncate",
    } | given  # fmt: skip
    seen = Seen()

    class Watched(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            batch = super()._generate_and_score_completions(inputs)
            words = self.processing_class.batch_decode(batch["prompt_ids"][::SIZE], skip_special_tokens=True)
            seen.rows.append([int(text.rpartition(" ")[2]) for text in words])
            return batch

    made = Watched(
        model=loading.load_model(folder, dtype="float32"), args=GRPOConfig(output_dir=str(out), **settings),
        processing_class=loading.load_tokenizer(folder), reward_funcs=reward, callbacks=[seen],
        train_dataset=Dataset.from_dict({"prompt": [f"say {n}" for n in range(ROWS)], "row": list(range(ROWS))}),
        own=own, **more,
    )  # fmt: skip
    made.train(resume_from_checkpoint=resume)
    return made, seen


def weights(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def same(one, other):
    """Two trainings have trained on the same rows, to the same losses and weights, bit for bit."""
    (a, seen_a), (b, seen_b) = one, other
    assert seen_a.rows == seen_b.rows
    for key in ("loss", "grad_norm", "reward", "completions/mean_length", "entropy"):
        assert [row[key] for row in seen_a.logs] == [row[key] for row in seen_b.logs], key
    assert torch.equal(weights(a), weights(b))


@pytest.mark.parametrize(
    "settings",
    [{}, {"curriculum": Curriculum(learnability=True)}, {"num_iterations": 2}, {"generation_batch_size": 16}],
)
def test_without_staleness_it_is_synchronous_training_bit_for_bit(random_model, tmp_path, settings):
    plain = trained(random_model, tmp_path / "a", **settings)
    ahead = trained(random_model, tmp_path / "b", asynchronous=Asynchronous(staleness=0), **settings)
    same(plain, ahead)
    assert len(plain[1].logs) == 20
    assert not torch.equal(
        weights(plain[0]), weights(trained(random_model, tmp_path / "c", max_steps=1, **settings)[0])
    )


@pytest.mark.slow
def test_without_staleness_it_is_synchronous_training_bit_for_bit_with_vllm(tmp_path):
    pytest.importorskip("vllm")
    settings = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 64, "max_completion_length": 12,
                "vllm_gpu_memory_utilization": 0.2, "learning_rate": 1e-3}  # fmt: skip
    plain = trained("embedded:tiny-qwen2", tmp_path / "a", **settings)
    ahead = trained("embedded:tiny-qwen2", tmp_path / "b", asynchronous=Asynchronous(staleness=0), **settings)
    same(plain, ahead)
    assert len(plain[1].logs) == 20 and all("sampling/importance_sampling_ratio/mean" in row for row in plain[1].logs)
    assert len({row["reward"] for row in plain[1].logs}) > 1


@pytest.mark.parametrize("staleness", [1, 3])
def test_each_update_trains_on_weights_exactly_as_old(random_model, tmp_path, staleness):
    made, seen = trained(random_model, tmp_path, asynchronous=Asynchronous(staleness=staleness), max_steps=7)
    ages = [min(step, staleness) for step in range(7)]
    assert [row["async/staleness"] for row in seen.logs] == ages
    assert [row["async/staleness_max"] for row in seen.logs] == ages
    plain, fresh = trained(random_model, tmp_path / "b", max_steps=7)
    assert seen.rows == fresh.rows  # the order of the data is TRL's, over epochs
    assert not torch.equal(weights(made), weights(plain))
    assert not made.groups.pacing.queue  # nothing was generated that is not trained


def test_the_log_probabilities_are_those_of_the_weights_that_sampled(random_model, tmp_path, monkeypatch):
    """Recomputed with the weights of the version that each token names."""
    kept, checked, plain = {}, [], asynchronous.Groups.next

    def watched(self):
        model = self.trainer.model
        kept[self.pacing.version] = {k: v.clone() for k, v in model.state_dict().items()}
        version = self.pacing.version
        groups = plain(self)
        now = model.state_dict()
        now = {k: v.clone() for k, v in now.items()}
        for group in groups:
            (old,) = {v for versions in group.versions for v in versions}
            model.load_state_dict(kept[old])
            again = asynchronous.policy_logprobs(self.trainer, group)
            model.load_state_dict(now)
            assert [len(x) for x in again] == [len(x) for x in group.completion_ids]
            assert torch.allclose(torch.tensor(sum(again, [])), torch.tensor(sum(group.logprobs, [])), atol=1e-5)
            other = asynchronous.policy_logprobs(self.trainer, group)
            moved = (torch.tensor(sum(other, [])) - torch.tensor(sum(group.logprobs, []))).abs().max()
            assert (moved > 1e-3) == (version > old)
            checked.append(version - old)
        return groups

    monkeypatch.setattr(asynchronous.Groups, "next", watched)
    trained(random_model, tmp_path, asynchronous=Asynchronous(staleness=2), max_steps=5)
    assert sorted(set(checked)) == [0, 1, 2]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"curriculum": Curriculum(learnability=True), "num_iterations": 2},
        {"dynamic_sampling": DynamicSampling(metric="reward", max_rounds=4), "reward": by_row},
    ],
)
def test_a_resumed_training_takes_the_same_prompts(random_model, tmp_path, settings):
    made = {"asynchronous": Asynchronous(staleness=2), "max_steps": 6, "save_strategy": "steps", "save_steps": 1}
    made |= settings
    whole, seen = trained(random_model, tmp_path / "a", **made)
    step = 3
    checkpoint = tmp_path / "b" / f"checkpoint-{step}"
    shutil.copytree(tmp_path / "a" / f"checkpoint-{step}", checkpoint)
    parted, again = trained(random_model, tmp_path / "b", resume=str(checkpoint), **made)
    assert again.rows and again.rows == seen.rows[-len(again.rows) :]
    assert [row["loss"] for row in again.logs] == [row["loss"] for row in seen.logs[step:]]
    assert torch.equal(weights(whole), weights(parted))
    for before, after in zip(whole.groups.pacing.state().items(), parted.groups.pacing.state().items()):
        assert before == after


def test_groups_without_signal_are_replaced_by_the_next_prompts(random_model, tmp_path):
    dynamic = DynamicSampling(metric="reward", max_rounds=4)
    made, seen = trained(
        random_model,
        tmp_path,
        asynchronous=Asynchronous(staleness=1),
        dynamic_sampling=dynamic,
        reward=by_row,
        max_steps=6,
    )
    assert all(row % 3 == 0 for rows in seen.rows for row in rows)
    order = [made.groups._order(number) for number in range(made.groups.pacing.started)]
    useful = [row for row in order if row % 3 == 0]
    assert sum(seen.rows, []) == useful  # in the order of the data
    assert made.groups.pacing.dropped == len(order) - len(useful) > 0
    assert [row["async/staleness_max"] <= 1 for row in seen.logs] == [True] * 6


def test_the_drift_of_servers_is_that_of_tokens_that_the_present_weights_have_sampled(random_model, tmp_path):
    made, _ = trained(random_model, tmp_path, max_steps=2, asynchronous=Asynchronous(staleness=2))
    source = asynchronous.InProcess(made, 1, scored=True)
    source.start([Ticket(0, 0, made.groups.pacing.version)])
    ((_, group),) = source.finished()
    present, scores = made.groups.pacing.version, group.logprobs
    group.logprobs = [[row[0] - 5, *(value - 0.25 for value in row[1:])] for row in scores]
    logged = made._metrics["train"]["sampling/sampling_logp_difference/mean"]
    logged.clear()

    def log() -> None:
        own = [version == present for row in group.versions for version in row]
        asynchronous.log_drift(made, group, torch.tensor(own))

    group.versions = [[present - 1, *[present] * (len(row) - 1)] for row in scores]
    log()
    assert logged == [pytest.approx(0.25, abs=1e-3)]
    group.versions = [[present - 1] * len(row) for row in scores]
    log()
    assert len(logged) == 1
