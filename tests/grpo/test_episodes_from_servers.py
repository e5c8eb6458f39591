"""Training on episodes that servers generate: masks, figures and versions, synchronous and ahead."""

import math

import pytest
import torch

from r1lab.engines.fleet import NoServer
from r1lab.recipe.sections import Asynchronous, DynamicSampling
from r1lab.rundir import storage
from tests.engines.fake_vllm import LOGPROB, FakeVLLM
from tests.grpo.test_episode_training import ROWS, SIZE, Long, trained

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow
VLLM = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 200,
        "vllm_importance_sampling_mode": "token_truncate", "learning_rate": 1e-3}  # fmt: skip


@pytest.fixture
def fake():
    made = FakeVLLM()
    yield made
    made.close()


def play(random_model, out, fake, staleness=None, **more):
    ahead = {} if staleness is None else {"asynchronous": Asynchronous(staleness=staleness)}
    served = {"servers": [fake.url], "timeout": 60.0, "sync_folder": out}
    return trained(random_model, out, more={"served": served} | ahead, **(VLLM | more))


@pytest.mark.parametrize("staleness", [None, 0, 2])
def test_a_training_on_episodes_from_servers(random_model, tmp_path, fake, staleness):
    made, batches, moved, logs = play(random_model, tmp_path, fake, staleness, max_steps=5)
    made.vllm_generation.close()
    assert moved > 0 and [row["step"] for row in logs] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(row["loss"]) and row["episodes/turns"] > 1 for row in logs)
    records = [row for path in sorted((tmp_path / "samples").glob("*.jsonl")) for row in storage.read_jsonl(path)]
    own = {tuple(turn["tokens"] for turn in row["turns"] if turn["own"]) for row in records}
    assert len(records) == 5 * 2 * SIZE and any(len(tokens) > 2 for tokens in own)
    assert any(row["end"] == "env_error" for row in records)
    for batch in batches:
        there = batch["completion_mask"].bool()
        mask = batch["tool_mask"].bool() & there
        scores = batch["sampling_per_token_logps"]
        assert (scores[mask] == LOGPROB).all() and scores[there & ~mask].isnan().any()
        failed = ~mask.any(dim=1)
        assert (batch["advantages"][failed] == 0).all()
    tasks = [seed for seeds in Long.seeds.values() for seed in set(seeds)]
    assert len(tasks) == 5 * 2 == len(set(tasks))  # the episodes of a group have the same task, and no others
    if staleness is not None:
        ages = [row["async/staleness_max"] for row in logs]
        assert max(ages) <= staleness and (staleness == 0) == (max(ages) == 0)
        groups = made.groups.newest
        assert all(
            [v is None for v in versions] == [not m for m in mask] or not any(mask)
            for group in groups for versions, mask in zip(group.versions, group.masks)
        )  # fmt: skip


def test_a_checkpoint_has_the_episodes_of_groups_that_are_finished(random_model, tmp_path, fake):
    train = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    made, _, _, logs = play(random_model, tmp_path, fake, 2, **train)
    made.vllm_generation.close()
    states = [torch.load(tmp_path / f"checkpoint-{n}/groups.pt", weights_only=True) for n in (1, 2)]
    finished = [ticket["group"] for state in states for ticket in state["queue"] if ticket["group"]]
    assert finished and all(len(group["figures"]) == len(group["versions"]) == SIZE for group in finished)
    made.groups.load(states[0])
    assert made.groups.pacing.version == 1 and len(made.groups.pacing.queue) == 3 * 2 - 2


def test_dynamic_sampling_drops_groups_of_episodes(random_model, tmp_path, fake):
    served = {"served": {"servers": [fake.url], "timeout": 60.0, "sync_folder": tmp_path}}
    more = served | {"asynchronous": Asynchronous(staleness=1), "dynamic_sampling": DynamicSampling(max_rounds=3)}
    made, batches, _, logs = trained(random_model, tmp_path, more=more, **VLLM)
    made.vllm_generation.close()
    assert len(batches) == 3 and any(row.get("sampled/groups", 0) > 0 for row in logs)
    assert made.groups.pacing.started >= 3 * 2 and len(set(range(ROWS)) & {int(n) for n in Long.seeds}) > 1


def test_a_server_that_is_lost_ends_the_training_with_one_line(random_model, tmp_path, fake):
    def lost(body):
        if len(fake.requests) > 20:
            fake.version = 77
            raise ConnectionAbortedError

    fake.before = lost
    with pytest.raises(NoServer, match="^no server is left: http://127.0.0.1"):
        play(random_model, tmp_path, fake, 1)
