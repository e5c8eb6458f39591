"""Every recipe for several GPUs fits on those that its header names."""

import pytest

from r1lab import plan
from r1lab.recipe import loading as recipes
from r1lab.recipe import yaml_source

GPUS = {
    "published/dr-grpo": "a100",
    "published/deepscaler": "a100",
    "published/open-rs": "a40",
    "open-r1/distil/llama-70b": "h200",
}
"""The GPU of a header that names another one than 80 GB or H100."""

SEVERAL = [name for name, path in yaml_source.packaged_recipes().items() if "launch: {gpus: " in path.read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL)
def test_a_recipe_fits_sharded_on_the_gpus_that_its_header_names(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = recipes.load([name])
    planned = plan.plan(recipe, gpu=GPUS.get(name, "h100"))
    assert planned.fits, {stage.name: stage.short or stage.peak for stage in planned.stages if not stage.fits}
