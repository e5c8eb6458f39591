"""Asynchronous GRPO on two ranks and one, with the same real servers: the same groups, losses and order of prompts."""

import json
from pathlib import Path

import pytest

from r1lab.models.loading import resolve
from r1lab.rundir import storage
from tests.stages.several_ranks import apart, logs, losses, prepared, sharded, train_rows

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
SIZE, GROUPS, STEPS = 4, 4, 5
MODEL = {"path": "embedded:tiny-qwen2", "dtype": "float32"}  # that of the servers


def ready(base, folder, count, servers, *, strategy="ddp", train=None, **asynchronous):
    """The run directory of a stage whose updates have four groups of four completions."""
    rollout = {
        "num_generations": SIZE, "max_completion_length": 24, "url": [server.url for server in servers],
        "async": asynchronous,
    }  # fmt: skip
    settings = {
        "per_device_train_batch_size": SIZE, "global_batch_size": SIZE * GROUPS, "max_steps": STEPS,
        "vllm_importance_sampling_mode": "token_truncate",
    }  # fmt: skip
    train = settings | (train or {})
    return prepared(base, folder, "grpo", count, strategy=strategy, model=MODEL, rollout=rollout, train=train)


def trained(run_dir, count):
    """The prompts of the groups of each rollout, in the order of the ranks' shares; the newest attempt counts."""
    found = {}
    for rank in range(count):
        lines = [json.loads(line) for line in (run_dir / f"trained.{rank}.jsonl").read_text().splitlines()]
        for step, prompts in dict(lines).items():
            found.setdefault(step, []).extend(prompts[::SIZE])
    return found


def completions(run_dir):
    """All completions by their prompts; no prompt comes twice."""
    rows = [row for file in sorted((run_dir / "samples").glob("*.jsonl")) for row in storage.read_jsonl(file)]
    found = {}
    for row in rows:
        found.setdefault(row["prompt"], []).append((row["completion"], row["reward"]))
    assert all(len(group) == SIZE for group in found.values())
    return found


@pytest.mark.parametrize(("staleness", "strategy"), [(0, "ddp"), (2, "fsdp2")])
def test_two_ranks_train_as_one_does(start, base, served, tmp_path, staleness, strategy):
    """Each completion has its own seed and is sampled by one version of the weights, so that all of them are equal."""
    section = {"staleness": staleness, "in_flight": False}
    one = ready(base, tmp_path / "one", 1, served, **section)
    two = ready(base, tmp_path / "two", 2, served, strategy=strategy, **section)
    assert start(1, [one]) == [0], logs(one)
    assert start(2, [two]) == [0, 0], logs(two)
    assert sharded(two) == (strategy == "fsdp2")
    assert trained(two, 2) == trained(one, 1) and len(trained(two, 2)) == STEPS
    assert completions(two) == completions(one)
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert not list((two / "samples").glob("*.rank1.jsonl"))
    for ours, theirs in zip(train_rows(two), train_rows(one), strict=True):
        for key in ("reward", "rewards", "rewards_none", "length"):
            assert ours[key] == pytest.approx(theirs[key]), key
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3) and ours["grad_norm"] > 0.01
        assert ours["async"]["staleness"] == theirs["async"]["staleness"] == min(ours["step"] - 1, staleness)
    assert apart(Path(resolve(MODEL["path"])), one, two) < 1e-4


def test_killed_ranks_neither_skip_nor_repeat_a_prompt(start, base, served, tmp_path):
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
    whole = ready(base, tmp_path / "whole", 2, served, train=train, **section)
    assert start(2, [whole]) == [0, 0], logs(whole)
    assert [prompt for step in trained(whole, 2).values() for prompt in step] == prompts
    for done in (run_dir, whole):
        assert [row["step"] for row in train_rows(done)] == list(range(1, 9))
        assert 0 < max(row["async"]["staleness_max"] for row in train_rows(done)) <= 2
