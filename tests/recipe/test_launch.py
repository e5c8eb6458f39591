"""On what a stage runs."""

import pytest

from r1lab.errors import UserError
from r1lab.recipe import loading as recipes
from r1lab.run import pipeline


def test_a_training_on_several_gpus_is_refused_before_anything_is_written(tmp_path):
    words = ["quickstart", "stages.zero.launch.gpus=2", "stages.base.launch.gpus=2"]
    loaded = recipes.load([*words, "stages.zero.train.per_device_train_batch_size=8"])
    with pytest.raises(UserError) as caught:
        pipeline.run(loaded, recipe_text="", runs_dir=tmp_path)
    (line,) = caught.value.problems  # an evaluation is the same on one
    assert line.startswith("zero: launch.gpus: 2 GPUs: a run starts only one process so far") and not list(
        tmp_path.iterdir()
    )
