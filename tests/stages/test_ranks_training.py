"""Two ranks train on the rows of one process, update by update, and end with its model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from r1lab.rundir import storage
from tests.stages.several_ranks import BATCH, apart, logs, losses, prepared, sharded, updates

pytestmark = pytest.mark.slow
STAGES = tuple(stage for stage in BATCH if not stage.startswith("distill"))  # test_distill.py has a teacher for those
STEPS = 3


def trained(start, base: Path, folder: Path, count: int, strategy: str = "ddp") -> dict[str, Path]:
    """The run directories of all stages, trained on a number of ranks in the same processes."""
    tasks = [{"name": "asked", "builder": "rows", "path": str(base / "test.jsonl")}]
    more = {"dpo": {"train": {"beta": 0.2}}, "grpo": {
        "eval": {"tasks": tasks, "every": 2, "num_samples": 1, "temperature": 0.0, "max_completion_length": 4},
        "train": {"beta": 0.01, "sync_ref_model": True, "ref_model_sync_steps": 2},
    }, "grpo-lora": {"train": {"beta": 0.01}}}  # fmt: skip
    folders = {
        stage: prepared(base, folder / stage, stage, count, strategy=strategy, **more.get(stage, {}))
        for stage in STAGES
    }
    statuses = start(count, list(folders.values()))
    assert statuses == [0] * count, "\n".join(map(logs, folders.values()))
    return folders


@pytest.fixture(scope="module")
def one(start, base, tmp_path_factory):
    return trained(start, base, tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def two(request, start, base, tmp_path_factory):
    return trained(start, base, tmp_path_factory.mktemp(request.param), 2, request.param)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_compute_what_one_process_does(request, base, one, two, stage):
    assert sharded(two[stage]) == ("fsdp2" in request.node.name) and not sharded(one[stage])
    assert updates(one[stage]) == updates(two[stage]) and len(updates(one[stage])) == STEPS
    assert losses(one[stage]) == pytest.approx(losses(two[stage]), abs=1e-5) and any(losses(one[stage]))
    assert apart(base / "start", one[stage], two[stage]) <= 1e-4
    for file in ("model/model.safetensors", *(["adapter/adapter_model.safetensors"] if "lora" in stage else [])):
        saved = [load_file(found[stage] / file) for found in (one, two)]
        assert saved[0].keys() == saved[1].keys()
        assert all(torch.allclose(saved[0][name], saved[1][name], atol=1e-5) for name in saved[0])


@pytest.mark.parametrize("stage", STAGES)
def test_one_rank_writes_the_messages_and_each_its_own_log(one, two, stage):
    rows = [storage.read_jsonl(found[stage] / "metrics.jsonl") for found in (one, two)]
    assert [(row["phase"], row.get("step")) for row in rows[0]] == [(row["phase"], row.get("step")) for row in rows[1]]
    assert not (one[stage] / "ranks").exists()
    assert sorted(path.name for path in (two[stage] / "ranks").iterdir()) == [
        "0.beat", "0.stack", "1.beat", "1.log", "1.stack",
    ]  # fmt: skip


def test_questions_are_dealt_to_the_ranks_and_scored_as_by_one(one, two):
    scores = [
        [row["tasks"] for row in storage.read_jsonl(found["grpo"] / "metrics.jsonl") if row["phase"] == "eval"]
        for found in (one, two)
    ]
    assert scores[0] == scores[1] and scores[0][0]["asked"]["n_questions"] == 3


def test_every_completion_is_saved_once(one, two):
    def samples(folder: Path) -> list[str]:
        rows = [row for file in (folder / "samples").glob("step_*.jsonl") for row in storage.read_jsonl(file)]
        return sorted(json.dumps([row["step"], row["prompt"], row["completion"]]) for row in rows)

    assert samples(one["grpo"]) == samples(two["grpo"])
    assert len(list((two["grpo"] / "samples").glob("*.rank1.jsonl"))) == STEPS
