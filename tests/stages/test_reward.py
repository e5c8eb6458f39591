"""A reward model is trained on pairs."""

import torch

from r1lab.recipe import loading
from r1lab.rundir import directory, storage
from r1lab.stages import reward

TEXT = """
stage: reward
name: judge
model: {path: embedded:tiny-qwen2}
data: {builder: rows, path: ./pairs.jsonl}
train: {max_steps: 2, per_device_train_batch_size: 2}
"""


def recipe(folder):
    pairs = [{"prompt": f"Is {n} even?", "chosen": "yes", "rejected": "no"} for n in range(0, 16, 2)]
    storage.write_jsonl(folder / "pairs.jsonl", pairs)
    (folder / "judge.yaml").write_text(TEXT, encoding="utf-8")
    return loading.load([str(folder / "judge.yaml")])


def test_it_trains_on_pairs_of_a_file(tmp_path):
    loaded = recipe(tmp_path)
    assert reward.run(loaded, tmp_path / "run") == 0
    result = directory.result(tmp_path / "run")
    assert result["steps"] == 2 and result["pairs"] == 8
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_the_new_head_depends_only_on_the_seed(tmp_path):
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # as a process begins with a random one
        assert reward.run(recipe(tmp_path), tmp_path / str(seed)) == 0
        rows = storage.read_jsonl(tmp_path / str(seed) / "metrics.jsonl")
        losses.append([row["loss"] for row in rows if row["phase"] == "train"])
    assert losses[0] == losses[1]
