"""Every packaged recipe runs scaled down (`--tiny`), with no network: on two ranks if it is for several GPUs.

What costs is the start of processes, so that the same ones run the stages of many recipes.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1lab import ranks
from r1lab.recipe import launch, yaml_source
from r1lab.recipe import loading as recipes
from r1lab.run import group, pipeline
from r1lab.run.stages import StageRun, stage_runs
from r1lab.rundir import directory
from tests.stages.several_ranks import logs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
EVERY = sorted(yaml_source.packaged_recipes())
RUN = """
import os, sys, time
from pathlib import Path
from r1lab.stages.__main__ import run_all

given = dict(os.environ)
for run_dir in map(Path, sys.argv[1:]):
    if status := run_all([run_dir]):
        os._exit(status)
    while not (run_dir / "result.json").is_file():  # rank 0 still writes what the next stage reads
        time.sleep(0.1)
    os.environ.clear()  # a rank that generates has hidden the devices of the others
    os.environ |= given
os._exit(0)
"""


def planned(root: Path) -> Iterator[tuple[str, dict, list[StageRun]]]:
    """The names, the resolved recipes and the stages of all recipes, scaled down and ready to start.

    Every second one for several GPUs has the strategy that it has on them, the others that of a CPU.
    """
    sharded = False
    for name in EVERY:
        several = any(stage.ranks > 1 for stage in stage_runs(recipes.resolved(recipes.load([name])), root))
        recipe = recipes.load([name, *["launch.gpus=2"] * several], tiny=True, inputs=True)
        sharded ^= several
        config = launch.resolved(recipes.resolved(recipe), gpu=several and sharded)
        run_dir = root / name.replace("/", "-")
        run_dir.mkdir()
        stages = stage_runs(config, run_dir)
        for stage in stages:
            pipeline.prepare_stage(stage, {stage.name: stage.path for stage in stages})
        yield name, config, stages


def run(plans: list[list[StageRun]], root: Path) -> None:
    """Runs recipes on the same ranks; after one that fails, the others run on new ones."""
    while plans:
        command = [sys.executable, "-P", "-c", RUN, *(str(stage.path) for stages in plans for stage in stages)]
        ends = time.time() + 2400
        running = group.start(command, root, plans[0][0].ranks)
        try:
            while group.wait(running, 1) is None and time.time() < ends:
                pass
        finally:
            group.kill(running)
        plans = [stages for stages in plans if not all(stage.finished for stage in stages)][1:]


def strategy(stages: list[StageRun]) -> str:
    """That of the stages of a recipe that train on several ranks."""
    return max((stage.config["launch"].get("strategy", "") for stage in stages if stage.ranks > 1), default="")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The resolved recipe and the stages of every recipe, after all were run."""
    root = tmp_path_factory.mktemp("runs")
    plans = {name: (config, stages) for name, config, stages in planned(root)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        for kind in ("", "ddp", "fsdp2"):  # accelerate keeps the strategy for the rest of a process
            run([stages for _, stages in plans.values() if strategy(stages) == kind], root)
    return plans


@pytest.mark.parametrize("name", EVERY)
def test_a_recipe_runs_in_small(runs, name):
    config, stages = runs[name]
    for stage in stages:
        assert stage.finished, f"{stage.name}: {logs(stage.path)}"
        result = directory.finished_result(stage.path)
        assert result["stage"] == stage.kind
        beats = sorted(file.name for file in ranks.folder(stage.path).glob("*.beat"))
        assert beats == (["0.beat", "1.beat"] if stage.ranks > 1 else [])
    if "stages" in config:
        assert pipeline.pipeline_result(stages[0].path.parent, stages, config)["stages"]


def test_recipes_run_on_one_process_and_on_two_ranks_by_both_strategies(runs):
    assert {strategy(stages) for _, stages in runs.values()} == {"", "ddp", "fsdp2"}
