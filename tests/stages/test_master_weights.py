"""A model that computes in bfloat16 is trained in float32, and saved in bfloat16."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.stages.several_ranks import apart, logs, prepared, sharded, train_rows

pytestmark = pytest.mark.slow
LOW = {"learning_rate": 1e-6, "max_steps": 3, "save_strategy": "steps", "save_steps": 1}
STAGES = ("sft", "sft-lora", "dpo", "reward", "grpo")


def in_bfloat16(base: Path, folder: Path, stage: str, count: int = 1, **more) -> Path:
    """The run directory of a stage whose model is in bfloat16; `more` as for `prepared`."""
    model = {"path": str(base / "start"), "dtype": "bfloat16"} | ({"lora": {"r": 4}} if stage == "sft-lora" else {})
    beta = {"dpo": {"beta": 0.2}, "grpo": {"beta": 0.01, "sync_ref_model": True, "ref_model_sync_steps": 2}}
    train = more.pop("train", {}) | beta.get(stage, {})
    return prepared(base, folder, stage, count, model=model, train=train, **more)


def last(run_dir: Path) -> dict[str, torch.Tensor]:
    """The trained weights of the last checkpoint."""
    (file,) = (run_dir / "checkpoints" / "checkpoint-3").glob("*model.safetensors")
    return load_file(file)


def dtypes(run_dir: Path) -> list[str | None]:
    """The dtypes of the policy and of the reference model during training."""
    return json.loads((run_dir / "dtypes.0.json").read_text())


@pytest.fixture(scope="module")
def trained(start, base, tmp_path_factory):
    """All stages after three steps at a low learning rate, by name; `rounded` is sft without float32 weights."""
    folder = tmp_path_factory.mktemp("masters")
    found = {stage: in_bfloat16(base, folder / stage, stage, train=LOW) for stage in STAGES}
    found["rounded"] = in_bfloat16(base, folder / "rounded", "sft", train=LOW | {"master_weights": False})
    assert start(1, list(found.values())) == [0], "\n".join(map(logs, found.values()))
    return found


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    """The share of the layers' weights that differ; the embeddings of tokens that no row has do not."""
    names = [name for name in after if ".layers." in name]
    return sum((before[n] != after[n]).sum().item() for n in names) / sum(after[n].numel() for n in names)


@pytest.mark.parametrize("stage", ["sft", "dpo", "reward", "grpo"])
def test_small_updates_move_the_weights_which_are_saved_rounded(base, trained, stage):
    before, after = load_file(base / "start" / "model.safetensors"), last(trained[stage])
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    assert moved(before, after) > 0.8
    assert dtypes(trained[stage]) == ["torch.float32", "torch.bfloat16" if stage in ("dpo", "grpo") else None]
    saved = load_file(trained[stage] / "model" / "model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.bfloat16} and saved.keys() == after.keys()
    assert all(torch.equal(saved[name], after[name].to(torch.bfloat16)) for name in saved)
    config = json.loads((trained[stage] / "model" / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"


def test_without_float32_weights_nearly_all_of_them_stay_as_they_were(base, trained):
    before = {n: w.to(torch.bfloat16) for n, w in load_file(base / "start" / "model.safetensors").items()}
    after = last(trained["rounded"])
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    assert moved(before, after) < 0.1


def test_adapters_are_trained_in_float32_on_a_base_in_bfloat16(trained):
    after = last(trained["sft-lora"])
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    assert all(weight.any() for name, weight in after.items() if "lora_B" in name)  # which starts at 0
    saved = load_file(trained["sft-lora"] / "model" / "model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.bfloat16}


def test_a_resumed_training_continues_with_the_same_bits(start, base, trained, tmp_path):
    parted = in_bfloat16(base, tmp_path / "parted", "sft", train=LOW)
    assert start(1, [parted], STOP_AT="2") == [130], logs(parted)
    assert start(1, [parted]) == [0], logs(parted)
    whole = trained["sft"]
    losses = [[row["loss"] for row in train_rows(run)] for run in (whole, parted)]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    weights, others = last(whole), last(parted)
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.fixture(scope="module")
def one(start, base, tmp_path_factory):
    """An sft and a dpo stage on one process."""
    folder = tmp_path_factory.mktemp("one")
    found = {stage: in_bfloat16(base, folder / stage, stage) for stage in ("sft", "dpo")}
    assert start(1, list(found.values())) == [0], "\n".join(map(logs, found.values()))
    return found


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_train_like_one_process(start, base, one, tmp_path, strategy):
    # Greedy completions of a random model depend on rounding, so that of grpo only the dtypes are compared.
    two = {s: in_bfloat16(base, tmp_path / s, s, 2, strategy=strategy) for s in ("sft", "dpo", "grpo")}
    assert start(2, list(two.values())) == [0, 0], "\n".join(map(logs, two.values()))
    for stage, run in one.items():
        losses = [[row["loss"] for row in train_rows(found)] for found in (run, two[stage])]
        assert losses[0] == pytest.approx(losses[1], abs=1e-3)
        assert apart(base / "start", run, two[stage]) < 0.1
    for stage, run in two.items():
        assert dtypes(run) == ["torch.float32", None if stage == "sft" else "torch.bfloat16"]
        assert sharded(run) == (strategy == "fsdp2")
        saved = load_file(run / "model" / "model.safetensors")
        assert {weight.dtype for weight in saved.values()} == {torch.bfloat16}
