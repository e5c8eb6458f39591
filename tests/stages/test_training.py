"""TRL's config from a recipe."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader
from transformers.training_args import ParallelMode
from trl.trainer.sft_config import SFTConfig

from r1lab.errors import UserError
from r1lab.recipe import loading
from r1lab.stages.training import trl_config

TEXT = """\
stage: sft
model: {path: "embedded:tiny-qwen2"}
data: {builder: knights_knaves, solution: evaluation, size: 4}
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="memory is pinned on a machine with a GPU")
def test_without_a_gpu_no_memory_is_pinned_unless_the_recipe_says_so(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(TEXT)
    config = trl_config(SFTConfig, loading.load([str(path)]), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(DataLoader([0, 1], pin_memory=config.dataloader_pin_memory))
    pinned = loading.load([str(path), "train.dataloader_pin_memory=true"])
    assert trl_config(SFTConfig, pinned, tmp_path).dataloader_pin_memory


def test_an_only_rank_uses_one_gpu_of_several(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    (tmp_path / "r.yaml").write_text(TEXT)
    assert SFTConfig(output_dir=str(tmp_path), bf16=False).n_gpu == 8  # transformers would use all of them
    config = trl_config(SFTConfig, loading.load([str(tmp_path / "r.yaml")]), tmp_path)
    assert config.n_gpu == 1 and config.train_batch_size == config.per_device_train_batch_size
    assert config.parallel_mode == ParallelMode.NOT_PARALLEL


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains in float16")
def test_float16_needs_a_gpu(tmp_path):
    (tmp_path / "r.yaml").write_text(TEXT)
    recipe = loading.load([str(tmp_path / "r.yaml"), "model.dtype=float16"])
    with pytest.raises(UserError, match="model.dtype: float16 cannot be trained without a GPU: set float32"):
        trl_config(SFTConfig, recipe, tmp_path)
