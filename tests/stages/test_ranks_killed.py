"""Ranks that are killed continue from their last checkpoint, which rank 0 gathered or each rank wrote a part of."""

import shutil

import pytest
import torch

from r1lab.errors import UserError
from r1lab.models import shard
from r1lab.stages.training import resume_point
from tests.stages.several_ranks import apart, logs, losses, prepared, train_rows, weights

pytestmark = pytest.mark.slow
STEPS, MIDDLE = {"max_steps": 5, "save_strategy": "steps", "save_steps": 2}, {"max_steps": 3, "save_strategy": "steps"}
REFERENCE = {"beta": 0.01, "sync_ref_model": True, "ref_model_sync_steps": 2}


def killed(start, run_dirs, **environment: str) -> None:
    """Runs stages on two ranks, the last of them until all ranks kill themselves in step 4."""
    assert start(2, run_dirs, KILL_AT="4", **environment) == [-9, -9], "\n".join(map(logs, run_dirs))


def finished(start, count: int, run_dirs, **environment: str) -> None:
    assert start(count, run_dirs, **environment) == [0] * count, "\n".join(map(logs, run_dirs))


def assert_same(whole, parted) -> None:
    """Both took the same five steps, bit by bit."""
    assert [row["step"] for row in train_rows(parted)] == [1, 2, 3, 4, 5]
    assert losses(parted) == losses(whole) and any(losses(whole))
    assert torch.equal(weights(parted / "model"), weights(whole / "model"))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_killed_training_continues_as_if_it_had_not_been(start, base, tmp_path, strategy):
    whole, parted = (prepared(base, tmp_path / n, "sft", 2, strategy=strategy, train=STEPS) for n in ("a", "b"))
    killed(start, [parted])
    finished(start, 2, [parted, whole])
    assert_same(whole, parted)


@pytest.fixture(scope="module")
def shards(start, base, tmp_path_factory):
    """Trainings on two ranks that write their checkpoints in shards.

    `STAGE-a` has no break. `STAGE-b` was resumed, for sft after all ranks were killed. `sft-c` was killed too, and
    resumed on four ranks. `d` is as the kill left it.
    """
    folder = tmp_path_factory.mktemp("shards")
    small = {"HOST_MEMORY": "1000"}  # nothing fits into half of it
    stages = {"sft": {}, "sft-lora": {}, "grpo": REFERENCE}

    def part(name: str, run: str, train: dict, count: int = 2):
        return prepared(base, folder / f"{name}-{run}", name, count, strategy="fsdp2", train=train | stages[name])

    parts = [part("sft-lora", "b", MIDDLE), part("grpo", "b", MIDDLE), part("sft", "b", STEPS)]
    killed(start, parts, **small)
    shutil.copytree(folder / "sft-b", folder / "sft-c")
    shutil.copytree(folder / "sft-b", folder / "d")
    for run_dir in parts[:2]:
        (run_dir / "result.json").unlink()  # it goes on to five steps
    runs = [part(name, run, STEPS) for name in stages for run in ("a", "b")]
    finished(start, 2, runs, **small)
    finished(start, 4, [part("sft", "c", STEPS, 4)])  # a checkpoint decides the form of those that follow
    return folder


@pytest.mark.parametrize("stage", ["sft", "sft-lora", "grpo"])
def test_a_training_resumes_from_shards_bit_by_bit(shards, stage):
    assert_same(shards / f"{stage}-a", shards / f"{stage}-b")
    saved = sorted((shards / f"{stage}-b" / "checkpoints").glob("checkpoint-*"))
    for checkpoint in saved:
        assert {path.name for path in checkpoint.glob("*/")} == {
            "pytorch_model_fsdp_0", "optimizer_0", *(["reference"] if stage == "grpo" else []),
        }  # fmt: skip
        assert not list(checkpoint.glob("*.safetensors")) and not list(checkpoint.glob("*.bin"))


def test_another_number_of_ranks_resumes_from_shards(base, shards):
    whole, parted = shards / "sft-a", shards / "sft-c"
    assert [row["step"] for row in train_rows(parted)] == [1, 2, 3, 4, 5]
    assert losses(parted) == pytest.approx(losses(whole), abs=1e-5)
    assert apart(base / "start", whole, parted) <= 1e-4
    assert len(list((parted / "checkpoints" / "checkpoint-4" / "optimizer_0").glob("*.distcp"))) == 4


def test_a_checkpoint_without_all_of_its_shards_is_one_line(shards, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(shards / "d", run_dir)
    checkpoint = run_dir / "checkpoints" / "checkpoint-2"
    assert resume_point(run_dir, sharded=True) == str(checkpoint)
    with pytest.raises(UserError, match="in shards: resume with launch.strategy: fsdp2 on several ranks$"):
        resume_point(run_dir)
    second = checkpoint / shard.SHARDS / "__1_0.distcp"
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"2: shards are missing or incomplete: \w+/__1_0.distcp: copy"):
        resume_point(run_dir, sharded=True)
    second.unlink()
    (checkpoint / "optimizer_0" / ".metadata").unlink()
    with pytest.raises(UserError, match=r"incomplete: optimizer_0/.metadata, pytorch_model_fsdp_0/__1_0.distcp: copy"):
        resume_point(run_dir, sharded=True)
    (checkpoint / "trainer_state.json").unlink()  # as a kill leaves it
    assert resume_point(run_dir, sharded=True) is None and not checkpoint.exists()
