"""Training on episodes: what is masked, what is counted, and what is logged."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig
from trl.trainer.utils import pad

from r1lab.environments.base import Reply, Turn
from r1lab.environments.host import LocalHost
from r1lab.environments.toolset import Session
from r1lab.episodes.engine import Setting
from r1lab.episodes.play import Job, Limits
from r1lab.episodes.record import Episode, Segment
from r1lab.episodes.template import TurnTemplate
from r1lab.grading.grader import build
from r1lab.grpo.episodes import as_completions, sampling_of
from r1lab.grpo.parity import gaps
from r1lab.grpo.rewards import BatchRewards
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import loading
from r1lab.recipe.sections import Asynchronous, DynamicSampling
from r1lab.rundir import storage

ROWS, SIZE = 4, 4


class Long:
    """Rewards the letters of a turn, fails for a word, and gives every episode of a row the same task."""

    seeds: dict = {}

    def reset(self, *, seed: int, n: int):
        self.n, self.got = n, 0.0
        Long.seeds.setdefault(n, []).append(seed)

    def step(self, turn: Turn):
        self.got += len(set(turn.text)) / 100
        if self.n == 3 and turn.number == 2:
            raise RuntimeError("the environment broke")
        return Reply("go on, please", role="user") if turn.number < 3 else None

    def get_reward(self):
        return self.got


def trained(folder, out, *, rewards=({"name": "environment"},), more=None, resume=None, **settings):
    tokenizer = loading.load_tokenizer(folder)
    rows = [{"prompt": f"say {n}", "n": n, "task": None} for n in range(ROWS)]
    config = GRPOConfig(
        output_dir=str(out),
        **{
            "per_device_train_batch_size": 2 * SIZE, "num_generations": SIZE, "max_completion_length": 18,
            "max_steps": 3, "learning_rate": 1e-2, "logging_steps": 1, "bf16": False, "gradient_checkpointing": False,
            "use_cpu": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "seed": 5,
            "scale_rewards": "none",
        } | settings,
    )  # fmt: skip
    seen = []

    class Watched(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            seen.append(super()._generate_and_score_completions(inputs))
            return seen[-1]

    setting = Setting(
        LocalHost(lambda: Session(Long())), Limits(4, 7, 18, 200), TurnTemplate(tokenizer, template="chat"),
        lambda row, said: tokenizer(row["prompt"])["input_ids"],
    )  # fmt: skip
    graded = BatchRewards(build(list(rewards)), rows, out, size=SIZE)
    Long.seeds = {}
    made = Watched(
        model=loading.load_model(folder, dtype="float32"), args=config, processing_class=tokenizer, rendered=True,
        reward_funcs=graded.functions, rewards=graded, setting=setting,
        train_dataset=Dataset.from_dict({"prompt": [row["prompt"] for row in rows], "row": list(range(ROWS))}),
        **(more or {}),
    )  # fmt: skip
    before = torch.cat([p.detach().flatten().clone() for p in made.model.parameters()])
    made.train(resume_from_checkpoint=resume)
    moved = (torch.cat([p.detach().flatten() for p in made.model.parameters()]) - before).norm()
    return made, seen, moved, [row for row in made.state.log_history if "loss" in row]


VLLM = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 200, "vllm_gpu_memory_utilization": 0.2,
        "vllm_importance_sampling_mode": "token_truncate"}  # fmt: skip
ENGINES = pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.slow)])


@ENGINES
def test_a_training_on_episodes(random_model, tmp_path, engine):
    vllm = {}
    if engine == "vllm":
        pytest.importorskip("vllm")
        random_model, vllm = "embedded:tiny-qwen2", VLLM
    _, batches, moved, logs = trained(random_model, tmp_path, **vllm)
    assert moved > 0 and len(logs) == 3 and all(math.isfinite(row["loss"]) for row in logs)
    records = [row for path in sorted((tmp_path / "samples").glob("*.jsonl")) for row in storage.read_jsonl(path)]
    assert len(records) == 3 * 2 * SIZE and json.dumps(records)
    for i, row in enumerate(records):
        batch, place = batches[i // (2 * SIZE)], i % (2 * SIZE)
        own = [turn["tokens"] for turn in row["turns"] if turn["own"]]
        there, mask = batch["completion_mask"][place].bool(), batch["tool_mask"][place]
        broken = row["prompt"] == "say 3" and len(own) > 1
        assert row["end"] == ("env_error" if broken else row["end"]) and row["tokens"] == sum(own) <= 18
        assert int(mask[there].sum()) == (0 if broken else sum(own))
        if broken:
            assert row["rewards"] == {"environment": None} and batch["advantages"][place] == 0
            assert row["reasons"]["environment"] == "not counted: env_error"
        else:
            assert row["rewards"]["environment"] == row["reward"] > 0
        if engine == "vllm":
            engine_logps = batch["sampling_per_token_logps"][place]
            assert engine_logps[there & (mask == 0)].isnan().all() or broken
    assert all(len(set(seeds)) * SIZE == len(seeds) for seeds in Long.seeds.values())  # a task for each group
    assert any(row["end"] == "env_error" for row in records) and any(len(row["turns"]) > 3 for row in records)
    assert logs[0]["episodes/turns"] > 1 and logs[0]["completions/mean_length"] == pytest.approx(
        sum(row["tokens"] for row in records[: 2 * SIZE]) / (2 * SIZE)
    )
    replies = [turn for row in records[: 2 * SIZE] for turn in row["turns"] if not turn["own"]]
    assert logs[0]["episodes/call_errors"] == pytest.approx(sum("error" in one for one in replies) / len(replies))
    failed = sum(row["end"] == "env_error" for row in records[: 2 * SIZE]) / (2 * SIZE)
    assert logs[0]["episodes/env_errors"] == pytest.approx(failed) and "episodes/no_call" not in logs[0]
    ended = [row["tokens"] for row in records[: 2 * SIZE] if row["end"] in ("answered", "done")]
    assert logs[0]["completions/mean_terminated_length"] == pytest.approx(sum(ended) / max(1, len(ended)))
    assert logs[0]["completions/max_terminated_length"] == max(ended, default=0)
    if engine == "vllm":
        ratios = [row["sampling/importance_sampling_ratio/max"] for row in logs]
        assert max(ratios) == pytest.approx(1, abs=1e-2)


@ENGINES
def test_the_training_pass_has_the_log_probabilities_of_sampling_in_each_turn(tmp_path, engine):
    """In float32, after an update: by at most 1e-3 nats on average, before a reply and after one or two."""
    if engine == "vllm":
        pytest.importorskip("vllm")
    made, *_ = trained("embedded:tiny-qwen2", tmp_path, max_steps=1, **(VLLM if engine == "vllm" else {}))
    jobs = [Job(made.rewards.rows[n % 3], seed=n, sampling_seed=n) for n in range(24)]
    with made.engine() as generating:
        player = made.setting.player(generating, replace(sampling_of(made), logprobs=True))
        episodes = player.play(jobs)
    columns = as_completions(episodes, pad=0)
    turns = [
        [number for number, segment in enumerate(episode.trained) for _ in segment.ids] for episode in episodes
    ]  # a reply has an odd number
    assert min(len(episode.turns) for episode in episodes) > 1

    def padded(rows, value, side="right"):
        return pad([torch.tensor(row) for row in rows], padding_value=value, padding_side=side)

    prompts, completions = columns["prompt_ids"], columns["completion_ids"]
    ids = torch.cat([padded(prompts, 0, "left"), padded(completions, 0)], dim=1)
    sides = ((prompts, "left"), (completions, "right"))
    there = [padded([[1] * len(row) for row in rows], 0, side) for rows, side in sides]
    own = padded(columns["env_mask"], 0)
    made.own_tokens = own
    with torch.no_grad():
        ours, *_ = made._get_per_token_logps_and_entropies(made.model, ids, torch.cat(there, dim=1), there[1].size(1))
    theirs, turns = padded(columns["logprobs"], math.nan), padded(turns, -1)
    found = {turn // 2 + 1: gaps(ours, theirs, own * (turns == turn)) for turn in (0, 2, 4)}
    for turn, some in found.items():
        print(f"{engine}, turn {turn}: mean {some.mean():.2g}, maximum {some.max():.2g} nats of {len(some)} tokens")
        assert len(some) > 24 and some.mean() <= 1e-3


def test_the_advantages_leave_out_what_was_not_counted(random_model, tmp_path):
    _, batches, _, _ = trained(random_model, tmp_path, max_steps=2)
    for batch in batches:
        counted = batch["tool_mask"].any(dim=1).view(-1, SIZE)
        advantages = batch["advantages"].view(-1, SIZE)
        assert torch.allclose((advantages * counted).sum(dim=1), torch.zeros(2), atol=1e-6)


def test_episodes_that_a_limit_cut_can_be_masked(random_model, tmp_path):
    made, batches, _, logs = trained(random_model, tmp_path, mask_truncated_completions=True, max_completion_length=9)
    records = [row for path in sorted((tmp_path / "samples").glob("*.jsonl")) for row in storage.read_jsonl(path)]
    cut = [row["end"] in ("turns", "length", "turn_length") for row in records]
    masked = [not mask.any() for batch in batches for mask in batch["tool_mask"]]
    assert all(one for one, end in zip(masked, cut) if end) and any(cut)
    assert logs[0]["completions/clipped_ratio"] == pytest.approx(sum(cut[: 2 * SIZE]) / (2 * SIZE))


def test_dynamic_sampling_keeps_the_mask(random_model, tmp_path):
    _, batches, moved, logs = trained(
        random_model, tmp_path, more={"dynamic_sampling": DynamicSampling(metric="reward"), "tasks": [None] * ROWS}
    )
    assert moved > 0 and all("sampled/rounds" in row for row in logs)
    assert all((batch["tool_mask"] * batch["completion_mask"] < batch["completion_mask"]).any() for batch in batches)


def test_an_episode_without_a_turn_is_a_masked_token():
    empty = Episode([1, 2], [], "length")
    played = Episode(
        [1], [Segment([5, 6], True, [-1.0, -2.0]), Segment([7], False), Segment([8], True, [-3.0])], "done"
    )
    rows = as_completions([empty, played], pad=0)
    assert rows["completion_ids"] == [[0], [5, 6, 7, 8]] and rows["env_mask"] == [[0], [1, 1, 0, 1]]
    assert [math.isnan(p) for p in rows["logprobs"][1]] == [False, False, True, False]
    failed = Episode([1], [Segment([5], True, [-1.0])], "env_error")
    assert as_completions([failed], pad=0)["env_mask"] == [[0]]


def test_episodes_ahead_without_servers(random_model, tmp_path):
    """Without staleness the training is the synchronous one; with it, the episodes are those of older weights."""
    (tmp_path / "a").mkdir()
    _, ours, _, sync = trained(random_model, tmp_path)
    _, theirs, _, zero = trained(random_model, tmp_path / "a", more={"asynchronous": Asynchronous(staleness=0)})
    assert [row["loss"] for row in zero] == [row["loss"] for row in sync] and any(row["loss"] for row in sync)
    assert [row["episodes/turns"] for row in zero] == [row["episodes/turns"] for row in sync]
    assert all(torch.equal(a["completion_ids"], b["completion_ids"]) for a, b in zip(ours, theirs, strict=True))
    made, batches, _, logs = trained(random_model, tmp_path, more={"asynchronous": Asynchronous(staleness=1)})
    assert [row["async/staleness_max"] for row in logs] == [0, 1, 1]
    assert all(row["episodes/turns"] > 1 for row in logs) and all("tool_mask" in batch for batch in batches)
    for group in made.groups.newest:
        assert [[v is None for v in one] for one in group.versions] == [[not m for m in one] for one in group.masks]


@pytest.mark.parametrize(
    ("step", "more"), [(2, {}), (3, {}), (2, {"asynchronous": Asynchronous(staleness=2)})],
    ids=["between epochs", "within one", "ahead"],
)  # fmt: skip
def test_a_resumed_training_plays_the_same_episodes(random_model, tmp_path, step, more):
    """Two steps are an epoch, and each epoch has its own order of rows."""
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    whole, batches, _, logs = trained(random_model, tmp_path / "a", more=more, **settings)
    tasks, checkpoint = dict(Long.seeds), tmp_path / "b" / f"checkpoint-{step}"
    shutil.copytree(tmp_path / "a" / f"checkpoint-{step}", checkpoint)
    parted, again, _, rest = trained(random_model, tmp_path / "b", more=more, resume=str(checkpoint), **settings)
    assert len(batches) == 4 and len(again) == 4 - step
    for one, other in zip(batches[step:], again, strict=True):
        for key in ("prompt_ids", "completion_ids", "tool_mask"):
            assert torch.equal(one[key], other[key]), key
    assert [row["loss"] for row in rest] == [row["loss"] for row in logs]  # a checkpoint has those before it
    for one, other in zip(whole.model.parameters(), parted.model.parameters()):
        assert torch.equal(one, other)
    assert all(set(seeds) <= set(tasks[n]) for n, seeds in Long.seeds.items())
