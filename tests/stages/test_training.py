"""TRL's config from a recipe."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader
from trl.trainer.sft_config import SFTConfig

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
