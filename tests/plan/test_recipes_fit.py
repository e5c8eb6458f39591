"""Every recipe for GPUs fits on those that its header names."""

import re

import pytest

from r1lab import listing, plan
from r1lab.plan import layouts
from r1lab.recipe import loading as recipes
from r1lab.recipe import yaml_source

GPUS = {"24": "l4", "48": "a40", "80": "h100", "141": "h200"}
"""Of the GPUs that are sold with so many GB, one with the least memory."""

MEMORY = {name: found[1] for name, *_, needs, _ in listing.recipes() if (found := re.search(r"x (\d+) GB", needs))}


@pytest.mark.slow
@pytest.mark.parametrize("name", MEMORY)
def test_a_recipe_fits_on_the_gpus_that_its_header_names(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    planned = plan.plan(recipes.load([name]), gpu=GPUS[MEMORY[name]])
    assert planned.fits, {stage.name: stage.short or stage.peak for stage in planned.stages if not stage.fits}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MEMORY if name.startswith("templates/")])
def test_the_header_of_a_template_has_the_memory_of_its_plan(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    header = yaml_source.packaged_recipes()[name].read_text(encoding="utf-8")
    said = re.search(r"# By r1lab plan --gpu (\S+): ([\d.]+) of", header)
    assert said and f"r1lab plan own.yaml --gpu {said[1]}`" in header
    planned = plan.plan(recipes.load([name]), gpu=said[1])
    (stage,) = planned.stages
    (found,) = planned.layouts.values()
    assert "Its own layout is the fastest" not in header or not layouts.fastest(found).words
    assert stage.peak.total / 2**30 == pytest.approx(float(said[2]), rel=0.02)
