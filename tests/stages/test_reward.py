"""A reward model is trained on pairs."""

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


def test_it_trains_on_pairs_of_a_file(tmp_path):
    pairs = [{"prompt": f"Is {n} even?", "chosen": "yes", "rejected": "no"} for n in range(0, 16, 2)]
    storage.write_jsonl(tmp_path / "pairs.jsonl", pairs)
    (tmp_path / "judge.yaml").write_text(TEXT, encoding="utf-8")
    loaded = loading.load([str(tmp_path / "judge.yaml")])
    assert reward.run(loaded, tmp_path / "run") == 0
    result = directory.result(tmp_path / "run")
    assert result["steps"] == 2 and result["pairs"] == 8
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
