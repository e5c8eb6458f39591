"""Asynchronous GRPO on episodes, on two ranks and one; and what a kill leaves.

The servers are fake: what they sample depends on the tokens so far and the seed alone. Real ones, without episodes,
are in tests/stages/test_ranks_asynchronous.py, and with episodes on one rank in tests/stages/test_episodes.py.
"""

import math

import pytest

from r1lab.rundir import storage
from tests.engines.fake_vllm import FakeVLLM
from tests.stages.several_ranks import apart, logs, losses, prepared, train_rows
from tests.stages.test_ranks_asynchronous import GROUPS, SIZE, STEPS, trained

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ENVIRONMENT = '''
class Talk:
    """Asks twice; what is right depends on the seed."""

    def reset(self, *, seed: int):
        self.seed, self.letters, self.info = seed, 0, {"task": seed}

    def step(self, turn):
        self.letters += len(turn.text)
        return "and then ?" if turn.number < 3 else None

    def get_reward(self):
        return float((self.letters + self.seed) % 2)
'''


@pytest.fixture
def served():
    """Two servers, with about the log-probability that each token of the base has, which is checked at the start."""
    made = [FakeVLLM(), FakeVLLM()]
    for server in made:
        server.logprob = -math.log(768)
    yield made
    for server in made:
        server.close()


def ready(base, folder, count, servers, *, train=None, **asynchronous):
    """The run directory of a stage whose updates have four groups of four episodes."""
    (base / "talk.py").write_text(ENVIRONMENT)
    storage.write_jsonl(base / "asked.jsonl", [{"prompt": f"say {number}"} for number in range(96)])
    settings = {
        "per_device_train_batch_size": SIZE, "global_batch_size": SIZE * GROUPS, "max_steps": STEPS,
        "vllm_importance_sampling_mode": "token_truncate",
    }  # fmt: skip
    rollout = {
        "num_generations": SIZE, "max_completion_length": 24, "url": [server.url for server in servers],
        "async": asynchronous, "temperature": 4.0,  # nearer to the fake log-probabilities, the same for all
    }  # fmt: skip
    return prepared(
        base, folder, "grpo", count, data={"path": str(base / "asked.jsonl")}, rollout=rollout,
        environment={"name": f"{base / 'talk.py'}:Talk", "max_turns": 3, "max_turn_length": 10, "workers": 1},
        rewards=[{"name": "environment"}], alarms={"drift": None}, train=settings | (train or {}),
    )  # fmt: skip


def episodes(run_dir):
    """For each prompt its episodes: all turns, the reward and the task, which the episodes of a group share."""
    rows = [row for file in sorted((run_dir / "samples").glob("*.jsonl")) for row in storage.read_jsonl(file)]
    found = {}
    for row in rows:
        turns = tuple(turn["text"] for turn in row["turns"])
        found.setdefault(row["prompt"], []).append((turns, row["reward"], row["info"]["task"]))
    assert all(len(group) == SIZE and len({task for *_, task in group}) == 1 for group in found.values())
    return found


def test_two_ranks_train_on_episodes_as_one_does(start, base, served, tmp_path):
    section = {"staleness": 2, "in_flight": False}
    one = ready(base, tmp_path / "one", 1, served, **section)
    two = ready(base, tmp_path / "two", 2, served, **section)
    assert start(1, [one]) == [0], logs(one)
    assert start(2, [two]) == [0, 0], logs(two)
    assert trained(two, 2) == trained(one, 1) and len(trained(two, 2)) == STEPS
    assert episodes(two) == episodes(one) and len(episodes(one)) == STEPS * GROUPS
    assert any(len(turns) > 2 for group in episodes(one).values() for turns, *_ in group)
    assert losses(two) == pytest.approx(losses(one), abs=1e-5) and apart(base / "start", one, two) < 1e-4
    for ours, theirs in zip(train_rows(two), train_rows(one), strict=True):
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3) and ours["grad_norm"] > 0
        for row in (ours, theirs):
            del row["episodes"]["seconds_environment"]
        assert ours["episodes"] == theirs["episodes"] and ours["reward"] == pytest.approx(theirs["reward"])
        assert ours["async"]["staleness"] == theirs["async"]["staleness"] == min(ours["step"] - 1, 2)


def test_killed_ranks_neither_skip_nor_repeat_a_group_of_episodes(start, base, served, tmp_path):
    """They are killed in the middle of a rollout of two updates, and continue on another number of ranks."""
    train = {"save_strategy": "steps", "save_steps": 1, "num_iterations": 2, "max_steps": 8}
    section = {"staleness": 2, "in_flight": True}
    run_dir = ready(base, tmp_path / "run", 2, served, train=train, **section)
    assert start(2, [run_dir], KILL_AT="4") == [-9, -9], logs(run_dir)
    before = trained(run_dir, 2)
    assert list(before) == [0, 2]
    for rank in (0, 1):
        (run_dir / f"trained.{rank}.jsonl").unlink()
    ready(base, run_dir, 1, served, train=train, **section)
    assert start(1, [run_dir]) == [0], logs(run_dir)
    after = trained(run_dir, 1)
    assert list(after) == [3, 4, 6] and after[3] == before[2]  # the rollout is shared out anew
    prompts = [prompt for step in ({**before, **after}[n] for n in (0, 2, 4, 6)) for prompt in step]
    assert len(set(prompts)) == len(prompts) == 4 * GROUPS
    assert [row["step"] for row in train_rows(run_dir)] == list(range(1, 9))
    assert 0 < max(row["async"]["staleness_max"] for row in train_rows(run_dir)) <= 2
    whole = ready(base, tmp_path / "whole", 1, served, train=train, **section)
    assert start(1, [whole]) == [0], logs(whole)
    assert [prompt for step in trained(whole, 1).values() for prompt in step] == prompts
    assert episodes(run_dir) == episodes(whole)  # those that were played again too
    assert losses(run_dir) == pytest.approx(losses(whole), abs=1e-5)
