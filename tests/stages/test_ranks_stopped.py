"""Ranks that stop, fail, roll back and resume together."""

import faulthandler
import json
import os
import signal

import pytest

from r1lab import ranks
from r1lab.rundir import storage
from r1lab.stages.__main__ import _show_stacks_on_signal
from tests.stages.several_ranks import apart, logs, losses, prepared, train_rows, updates


@pytest.fixture(scope="module")
def resumed(start, base, tmp_path_factory):
    """The folders of an sft and a grpo stage: without a break (a), and stopped on two ranks and resumed on one (b).

    The sft stage also sharded (c): stopped, resumed on two ranks, stopped again and resumed on one.
    """
    folder = tmp_path_factory.mktemp("resumed")
    settings = {"sft": {"max_steps": 5}, "grpo": {"max_steps": 3, "generation_batch_size": 64}}  # 2 updates a rollout
    sft, grpo = (prepared(base, folder / f"{s}-b", s, 2, train=settings[s]) for s in ("sft", "grpo"))
    statuses = start(2, [sft], STOP_AT="3")  # a SIGTERM to rank 1
    assert statuses == [130, 130], logs(sft)
    (grpo / "stop").touch()
    statuses = start(2, [grpo])
    assert statuses == [130, 130], logs(grpo)
    assert (grpo / "checkpoints" / "checkpoint-1" / "rollout.rank1.pt").is_file()
    (grpo / "stop").unlink()
    sharded = prepared(base, folder / "sft-c", "sft", 2, train=settings["sft"], strategy="fsdp2")
    for step in ("2", "4"):
        statuses = start(2, [sharded], STOP_AT=step)
        assert statuses == [130, 130], logs(sharded)
    found = {}
    for stage, run in (("sft", "a"), ("sft", "b"), ("sft", "c"), ("grpo", "a"), ("grpo", "b")):
        found[stage, run] = prepared(base, folder / f"{stage}-{run}", stage, 1, train=settings[stage])
    assert start(1, list(found.values())) == [0], "\n".join(map(logs, found.values()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("run", ["b", "c"])  # ddp, fsdp2
def test_a_signal_to_one_rank_stops_all_and_one_process_resumes_them(base, resumed, run):
    whole, parted = resumed["sft", "a"], resumed["sft", run]
    assert [row["step"] for row in train_rows(parted)] == [1, 2, 3, 4, 5]
    assert updates(parted) == updates(whole)
    assert losses(parted) == pytest.approx(losses(whole), abs=1e-5)
    assert apart(base / "start", whole, parted) <= 1e-4


@pytest.mark.slow
def test_a_stop_file_in_the_middle_of_a_rollout_and_a_resume_on_another_number_of_ranks(resumed):
    whole, parted = resumed["grpo", "a"], resumed["grpo", "b"]
    assert [row["step"] for row in train_rows(parted)] == [1, 2, 3]
    assert updates(parted) == updates(whole)  # the prompts of the rollout that is made anew, and those of the next
    assert [row.get("rollout") for row in train_rows(whole)] == [None, 1, None]
    assert [row.get("rollout") for row in train_rows(parted)] == [None, None, None]


@pytest.mark.slow
def test_an_alarm_rolls_all_ranks_back_and_stops_them_the_second_time(start, base, tmp_path):
    alarms = {"no_signal": {"above": 0.0, "steps": 2, "do": "rollback"}}
    run_dir = prepared(base, tmp_path / "run", "grpo", 2, alarms=alarms)
    assert start(2, [run_dir]) == [ranks.RESTART] * 2, logs(run_dir)
    assert json.loads((run_dir / "rollback.json").read_text())["alarms"] == ["no_signal"]
    assert not (run_dir / "error.txt").exists()
    assert start(2, [run_dir]) == [1, 1], logs(run_dir)
    errors = [file.read_text() for file in (run_dir / "error.txt", run_dir / "ranks" / "1.error")]
    assert errors[0] == errors[1] and "again after a rollback" in errors[0]
    assert [row["step"] for row in train_rows(run_dir)] == [1, 2]
    warnings = [row for row in storage.read_jsonl(run_dir / "metrics.jsonl") if row["phase"] == "warning"]
    assert len([row for row in warnings if "rolled back" in row["message"]]) == 1


@pytest.mark.slow
def test_a_mistake_that_only_one_rank_meets_is_in_its_own_file_and_ends_the_others(start, base, tmp_path):
    rewards = [{"name": f"{base / 'mine.py'}:fails_on_rank_1"}]
    run_dir = prepared(base, tmp_path / "run", "grpo", 2, rewards=rewards)
    assert start(2, [run_dir]) == [1, 1]
    assert "fails_on_rank_1" in (run_dir / "ranks" / "1.error").read_text()
    assert not (run_dir / "error.txt").exists()


def test_a_signal_shows_the_stacks_of_a_rank(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    ranks.beat(tmp_path)
    _show_stacks_on_signal(tmp_path)
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        faulthandler.unregister(signal.SIGUSR1)
    assert "test_a_signal_shows_the_stacks_of_a_rank" in (ranks.folder(tmp_path) / "1.stack").read_text()
