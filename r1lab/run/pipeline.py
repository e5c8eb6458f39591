"""Runs a recipe: its stages in order, each in its own processes; finished stages are skipped.

A recipe of one stage runs in `runs/NAME/`, a pipeline in `runs/NAME/NN-STAGE/`. `@base/model` and `@base/samples` in a
stage's recipe become paths in its `config.yaml`, so that it can be run again by itself.
"""

import errno
import shlex
import shutil
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from r1lab import hardware, interrupts, ranks
from r1lab.errors import UserError
from r1lab.evaluation import comparison
from r1lab.interrupts import StopRequests
from r1lab.recipe import launch, references
from r1lab.recipe import loading as recipes
from r1lab.run import group, nodes, summary, watch
from r1lab.run.display import StageDisplay
from r1lab.run.group import INTERRUPTED, Group
from r1lab.run.stages import StageRun, announced, changed_stages, decide, has_begun, stage_runs
from r1lab.rundir import directory, manifest, storage
from r1lab.text import rough_duration

_POLL = 0.2  # seconds between two checks of the child and its metrics
_RECENT = 8  # steps whose time is that of the current one; with several updates per rollout, one of them generates


def run(
    recipe: recipes.Recipe,
    *,
    recipe_text: str,
    runs_dir: str | Path,
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    together: bool = False,
    console: Console | None = None,
) -> int:
    """Runs a recipe, single-stage or pipeline, and shows it as it runs.

    Args:
        recipe: A recipe from `r1lab.recipe.loading.load`.
        recipe_text: The recipe as written, for `recipe.yaml`.
        runs_dir: The folder of run directories.
        name: The name of the run, by default the recipe's.
        resume: Continue the run in the directory, or start it if there is none.
        overwrite: Delete the contents of the directory and start again.
        together: Run all stages in one process, for stages that are shorter than the start of a process.
        console: The output, by default standard output.

    Returns:
        The exit status: 0 finished, 1 a stage failed, 2 a stage found its recipe invalid, 130 interrupted.

    Raises:
        UserError: The directory is in use, or has a run of another recipe, or a stage needs more GPUs than there are.
    """
    console = console or Console()
    run_dir = Path(runs_dir) / checked_name(name or recipes.resolved(recipe)["name"])
    config, stages = planned(recipe, run_dir)
    directory.refuse_used(run_dir, resume=resume, overwrite=overwrite)
    changed = changed_stages(run_dir, stages) if resume else {}
    run_dir.mkdir(parents=True, exist_ok=True)
    with directory.locked(run_dir), interrupts.stop_requests() as stop:
        console.on_broken_pipe = stop.hang_up  # rich would exit, and the steps since the last checkpoint be lost
        directory.prepare(recipe_text, config, run_dir, resume=resume, overwrite=overwrite)
        manifest.write_manifest(run_dir, config)
        return _run_stages(console, run_dir, stages, config, stop, changed, together)


def planned(recipe: recipes.Recipe, run_dir: Path) -> tuple[dict, list[StageRun]]:
    """The resolved recipe for this machine, and its stages.

    Raises:
        UserError: A stage needs more GPUs than there are.
    """
    config = recipes.resolved(recipe)
    stages = stage_runs(config, run_dir)
    if any(stage.gpus * stage.nodes > 1 for stage in stages):
        here, in_job = hardware.gpus(), hardware.nodes()
        refused = [(stage.name, launch.refused(stage.gpus, stage.nodes, here, in_job)) for stage in stages]
        if problems := [f"{name}: {'.'.join(map(str, why[0]))}: {why[1]}: {why[2]}" for name, why in refused if why]:
            raise UserError(problems)
        config = launch.resolved(config, gpu=here > 0)
        stages = stage_runs(config, run_dir)
    return config, stages


def checked_name(name: str) -> str:
    """Returns a run's name unchanged if it is valid.

    Raises:
        UserError: It is not the name of one folder.
    """
    if not name or name in (".", "..") or "/" in name or name.startswith("-"):
        raise UserError(f"--name {name}: not a folder name: use letters, digits, - and _")
    return name


# Running


def _run_stages(
    console: Console,
    run_dir: Path,
    stages: list[StageRun],
    config: dict,
    stop: StopRequests,
    changed: dict[str, list[str]],
    together: bool,
) -> int:
    folders = {stage.name: stage.path for stage in stages}
    decisions = decide(stages, changed)
    for line in announced(decisions, changed):
        console.print(line, soft_wrap=True, highlight=False)
    # Delete everything stale before the first stage runs: an interruption must not leave the old output of a stage
    # next to the new output of one that it depends on.
    for decision in decisions:
        if decision.stale:
            directory.drop_outputs(decision.stage.path)
    left = [decision.stage for decision in decisions if not decision.skipped]
    shared = None
    if left and left[0].path != run_dir:
        (run_dir / "result.json").unlink(missing_ok=True)
    if together and left and all(stage.ranks == 1 for stage in left):
        for stage in left:
            prepare_stage(stage, folders)
        shared = group.start(stage_command(*(stage.path for stage in left)), run_dir)
    for stage in left:
        started = time.time()
        status = run_stage(console, stage, folders, stop, shared)
        row = {"phase": "stage", "stage": stage.name, "status": status, "seconds": time.time() - started}
        storage.append_jsonl(run_dir / "metrics.jsonl", row | {"time": time.time()})
        if status:
            return status
    if "stages" in config and (left or directory.result(run_dir) is None):
        storage.write_json_atomic(run_dir / "result.json", pipeline_result(run_dir, stages, config))
    _write_cards(run_dir, stages)
    console.print()
    result = directory.finished_result(run_dir)
    shown = [(stage.name, stage.kind, stage.path) for stage in stages]
    summary.show(console, run_dir, shown, result, then=_without_tiny())
    return 0


def _write_cards(run_dir: Path, stages: list[StageRun]) -> None:
    """Writes the card of each model at the end of the run, because a model's evaluations come after it."""
    from r1lab.report import card

    for stage in stages:
        if (stage.path / "model").is_dir():
            card.write(run_dir, stage=stage.path)


def prepare_stage(stage: StageRun, folders: dict[str, Path]) -> None:
    """Prepares the folder of a stage for its process, and deletes output that it cannot resume from."""
    if not has_begun(stage.path):
        directory.drop_outputs(stage.path)
    stage.path.mkdir(exist_ok=True)
    (stage.path / "error.txt").unlink(missing_ok=True)
    storage.write_yaml(stage.path / "config.yaml", references.with_folders(stage.config, folders))


def run_stage(
    console: Console,
    stage: StageRun,
    folders: dict[str, Path],
    stop: StopRequests,
    shared: Group | None = None,
) -> int:
    """Runs one stage to its end in its own process, or in one for each rank.

    Args:
        console: The output.
        stage: The stage.
        folders: The folder of each stage, for references.
        stop: Counts the stop signals of this process.
        shared: A process that runs this stage and others, if there is one; it is killed if the stage fails.

    Returns:
        0, or the exit status of the whole run after an error was printed.
    """
    if stop.count:
        return _interrupted(stage)
    if shared is None:
        prepare_stage(stage, folders)
    several = f"{stage.ranks} ranks" if stage.ranks > 1 and not shared else ""
    place = ", ".join(part for part in (stage.place, several) if part)
    display = StageDisplay(console, stage.path, name=stage.name, kind=stage.kind, doing="starting", place=place)
    running = group.of_stage(shared, stage.path) if shared else _start(stage)
    wait, faults = (nodes.wait, nodes.faults) if stage.nodes > 1 else (group.wait, watch.faults)
    status, error = None, []
    try:
        with display:
            while status is None:
                status = wait(running, _POLL)
                if status is None:
                    _pass_on(running, stop, display)
                    status = 0 if shared and stage.finished else None
                elif status == ranks.RESTART and not stop.count:
                    group.kill(running)
                    running, status = _start(stage), None
                if several and (found := faults(running, stage.timeout, stopping=stop.count > 0)):
                    status, error = watch.error(found, stage.path)
                try:
                    display.update()
                except OSError as error_of_terminal:
                    if error_of_terminal.errno != errno.EIO:  # rich handles a broken pipe itself
                        raise
                    stop.hang_up()  # a closed terminal raises this error before the signal is handled
    finally:
        if shared is None or status != 0:
            group.kill(running)
    assert status is not None  # the loop ends with one
    if stop.count and not (status == 0 and stage.finished):
        return _interrupted(stage)
    if status == 0 and stage.finished:
        took = time.time() - display.started
        result = directory.finished_result(stage.path)
        display.say(summary.stage_line(stage.name, stage.kind, stage.path, result, took))
        return 0
    if not error and status in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
        return _interrupted(stage)
    for line in error or watch.why(running, 0, status):
        _print_error(f"{stage.name}: {line}")
    return 2 if status == 2 else 1


def _start(stage: StageRun) -> Group:
    if stage.nodes > 1:
        return nodes.start(stage_command(stage.path), stage.path, stage.nodes)
    return group.start(stage_command(stage.path), stage.path, stage.ranks)


def stage_command(*paths: Path) -> list[str]:
    """The command that runs the stages of folders in order. With `-P`, a file in the current folder does not shadow a
    library."""
    return [sys.executable, "-P", "-m", "r1lab.stages", *map(str, paths)]


def _pass_on(running: Group, stop: StopRequests, display: StageDisplay) -> None:
    """Forwards the first stop request once, and kills the processes at the second."""
    if stop.count >= 2:
        group.kill(running)
    elif stop.count and not stop.passed_on:
        stop.passed_on = True
        group.interrupt(running)
        if display.kind in ("eval", "sample"):
            kept = "the answers written so far are kept"
            display.say(f"stopping, which may take a minute or two; Ctrl-C again stops at once; either way, {kept}")
        else:
            display.read()
            state = display.state()
            seconds = [row["seconds"] for row in state.history[-_RECENT:] if "seconds" in row]
            took = f" (recent steps took up to {rough_duration(max(seconds))})" if seconds else ""
            what = "evaluation" if (state.doing or "").startswith("evaluating") else f"step{took}"
            display.say(f"stopping after this {what} and saving a checkpoint; Ctrl-C again stops at once, without one")


def _interrupted(stage: StageRun) -> int:
    _print_error(f"{stage.name}: interrupted; to continue: {resume_command(stage)}")
    return INTERRUPTED


def resume_command(stage: StageRun) -> str:
    """The command that resumes a run: the one that was typed, with `--resume`."""
    if typed := _typed():
        arguments = [argument for argument in typed if argument not in ("--overwrite", "--resume")]
    else:
        run_dir = stage.path.parent if stage.place else stage.path
        arguments = ["run", run_dir / "config.yaml", "--runs-dir", run_dir.parent, "--name", run_dir.name]
    return shlex.join([*_program(), *map(str, arguments), "--resume"])


def _without_tiny() -> str:
    """The command that was typed, without `--tiny` and what belongs to that run; empty if it was not scaled down."""
    typed = _typed()
    if "--tiny" not in typed:
        return ""
    left_out = ("--tiny", "--overwrite", "--resume", "--name")
    pairs = pairwise(["", *typed])
    arguments = [word for before, word in pairs if before != "--name" and word.partition("=")[0] not in left_out]
    return shlex.join([*_program(), *arguments])


def _typed() -> list[str]:
    """The words after `r1lab` on the command line; empty if this is no `r1lab run` or `r1lab eval`."""
    typed = sys.argv[1:]
    mine = typed[:1] in (["run"], ["eval"]) and Path(sys.argv[0]).stem in ("r1lab", "__main__")
    return typed if mine else []


def _program() -> list[str]:
    if shutil.which("r1lab"):
        return ["r1lab"]
    script = Path(sys.executable).parent / "r1lab"  # of an environment that is not activated
    if script.is_file():
        return [str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)]
    return [sys.executable, "-m", "r1lab"]


def _print_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def pipeline_result(run_dir: Path, stages: list[StageRun], config: dict) -> dict:
    """The results of all stages, the total time of all attempts, and the differences from before to after."""
    evals = [stage for stage in stages if stage.kind == "eval"]
    pairs = config.get("compare") or ([[evals[0].name, evals[-1].name]] if len(evals) > 1 else [])
    folders = {stage.name: stage.path for stage in stages}
    return {
        "stage": "pipeline",
        "seconds": round(directory.seconds(run_dir), 1),
        "stages": {stage.name: directory.result(stage.path) for stage in stages},
        "compare": [row for before, after in pairs for row in comparison.compare(before, after, folders)],
    }
