"""Every packaged recipe runs in small (`--tiny`), with no network: all in one process, whose start is what costs."""

import os
import subprocess
import sys

import pytest

from r1lab.recipe import loading as recipes
from r1lab.recipe import yaml_source
from r1lab.recipe.schema import Pipeline
from r1lab.run import pipeline
from r1lab.rundir import directory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
EVERY = sorted(yaml_source.packaged_recipes())
RUN = """
import sys
from pathlib import Path
from r1lab.stages.__main__ import run_all
for line in sys.stdin:
    run_all([Path(word) for word in line.rstrip("\\n").split("\\t")])
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The stages of every recipe, after all were run."""
    root = tmp_path_factory.mktemp("runs")
    plans = {}
    for name in EVERY:
        recipe = recipes.load([name], tiny=True, inputs=True)
        run_dir = root / name.replace("/", "-")
        run_dir.mkdir()
        stages = pipeline.stage_runs(recipes.resolved(recipe), run_dir)
        folders = {stage.name: stage.path for stage in stages}
        for stage in stages:
            pipeline.prepare_stage(stage, folders)
        plans[name] = stages
    lines = ["\t".join(str(stage.path) for stage in stages) for stages in plans.values()]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", RUN], input="\n".join(lines), text=True, env=env, timeout=1400,
                          capture_output=True)  # fmt: skip
    return plans, done


@pytest.mark.parametrize("name", EVERY)
def test_a_recipe_runs_in_small(runs, name):
    plans, done = runs
    for stage in plans[name]:
        result = directory.result(stage.path)
        log, error = stage.path / "log.txt", stage.path / "error.txt"
        told = [file.read_text()[-2000:] for file in (error, log) if file.is_file()] or [done.stderr[-2000:]]
        assert result is not None, f"{stage.name}: {told[0]}"
        assert result["stage"] == stage.kind
    recipe = recipes.load([name], tiny=True)
    if isinstance(recipe, Pipeline):
        run_dir = plans[name][0].path.parent
        assert pipeline.pipeline_result(run_dir, plans[name], recipes.resolved(recipe))["stages"]
