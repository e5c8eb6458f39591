"""Runs a recipe: its stages in order, each in its own process; finished stages are skipped.

A recipe of one stage runs in `runs/NAME/`, a pipeline in `runs/NAME/NN-STAGE/`. `@base/model` and `@base/samples` in a
stage's recipe become paths in its `config.yaml`, so that it can be run again by itself.
"""

import errno
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from r1lab import hardware, interrupts
from r1lab.errors import UserError
from r1lab.evaluation import comparison
from r1lab.interrupts import StopRequests
from r1lab.recipe import launch, references
from r1lab.recipe import loading as recipes
from r1lab.recipe.schema import trains
from r1lab.run import children, summary
from r1lab.run.display import StageDisplay
from r1lab.rundir import directory, manifest, storage

INTERRUPTED = 130
_POLL = 0.2  # seconds between two checks of the child and its metrics


@dataclass(frozen=True)
class StageRun:
    """One stage of a run: its name, its folder, its recipe with references as written, and its place in a pipeline."""

    name: str
    path: Path
    config: dict
    place: str = ""

    @property
    def kind(self) -> str:
        return self.config["stage"]

    @property
    def ranks(self) -> int:
        given = self.config.get("launch", {})
        return given.get("gpus", 1) * given.get("nodes", 1)

    @property
    def finished(self) -> bool:
        return directory.result(self.path) is not None


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
        UserError: The directory is in use, or has a run of another recipe, or a stage needs several GPUs.
    """
    console = console or Console()
    config = recipes.resolved(recipe)
    run_dir = Path(runs_dir) / checked_name(name or config["name"])
    if any(stage.ranks > 1 for stage in stage_runs(config, run_dir)):
        config = launch.resolved(config, gpu=hardware.gpus() > 0)
    stages = stage_runs(config, run_dir)
    refused = [(stage.name, launch.problem(stage.ranks)) for stage in stages if trains(stage.kind)]
    if problems := [f"{name}: launch.gpus: {why}" for name, why in refused if why]:
        raise UserError(problems)
    directory.refuse_used(run_dir, resume=resume, overwrite=overwrite)
    changed = changed_stages(run_dir, stages) if resume else {}
    run_dir.mkdir(parents=True, exist_ok=True)
    with directory.locked(run_dir), interrupts.stop_requests() as stop:
        console.on_broken_pipe = stop.hang_up  # rich would exit, and the steps since the last checkpoint be lost
        directory.prepare(recipe_text, config, run_dir, resume=resume, overwrite=overwrite)
        manifest.write_manifest(run_dir, config)
        return _run_stages(console, run_dir, stages, config, stop, changed, together)


def checked_name(name: str) -> str:
    """Returns a run's name unchanged if it is valid.

    Raises:
        UserError: It is not the name of one folder.
    """
    if not name or name in (".", "..") or "/" in name or name.startswith("-"):
        raise UserError(f"--name {name}: not a folder name: use letters, digits, - and _")
    return name


def stage_runs(config: dict, run_dir: Path) -> list[StageRun]:
    """The stages of a resolved recipe in order, each with its folder."""
    if "stages" not in config:
        return [StageRun(config["name"], run_dir, config)]
    parts = config["stages"]
    return [
        StageRun(part["name"], run_dir / f"{number:02d}-{part['name']}", part, f"stage {number} of {len(parts)}")
        for number, part in enumerate(parts, start=1)
    ]


def changed_stages(run_dir: Path, stages: list[StageRun]) -> dict[str, list[str]]:
    """Stages of a pipeline that started with another recipe and will run again, with the keys that changed.

    Raises:
        UserError: A run of one stage has changed, so that nothing of it could be kept, or the stages are not those of
            the directory.
    """
    ways = f"--overwrite deletes it and starts again, --name NEW keeps {run_dir} and starts a new run"
    folders = {stage.path.name for stage in stages}
    root = run_dir / "config.yaml"
    if root.is_file() and ("stages" in storage.read_yaml(root)) != bool(stages[0].place):
        raise UserError(f"{root}: stages: only one of the two recipes is a pipeline: {ways}")
    others = [path for path in sorted(run_dir.glob("[0-9][0-9]-*")) if path.is_dir() and path.name not in folders]
    if others:
        raise UserError(f"{others[0]}: stages: the recipe no longer has this stage at this place: {ways}")
    found = {}
    for stage in stages:
        file = stage.path / "config.yaml"
        if not file.is_file() or not (stage.finished or has_begun(stage.path)):
            continue
        before, now = recipes.reread(storage.read_yaml(file)), recipes.reread(stage.config)
        changed = references.changes(before, now, {s.name: s.path.name for s in stages})
        if changed and not stage.place:
            state = "finished" if stage.finished else "started"
            raise UserError(f"{stage.path}: {changed[0]}{_more(changed)}, after the stage {state}: {ways}")
        if changed:
            found[stage.name] = changed
    return found


@dataclass(frozen=True)
class Decision:
    """What a run does with a stage.

    Attributes:
        stage: The stage.
        skipped: It has finished, and none of its inputs has changed or runs again.
        because: The first stage in this run that it depends on, directly or not; empty for none.
        stale: Its output was made from other inputs and is deleted.
    """

    stage: StageRun
    skipped: bool
    because: str
    stale: bool


def decide(stages: list[StageRun], changed: dict[str, list[str]]) -> list[Decision]:
    """The decisions for all stages, before any of them runs; `changed` is the result of `changed_stages`."""
    found: list[Decision] = []
    running: set[str] = set()
    for stage in stages:  # references point backwards only
        builds_on = references.stages(stage.config)
        because = next((d.stage.name for d in found if d.stage.name in running and d.stage.name in builds_on), "")
        begun = stage.finished or has_begun(stage.path)
        skipped = stage.finished and stage.name not in changed and not because
        found.append(Decision(stage, skipped, because, begun and (stage.name in changed or bool(because))))
        if not skipped:
            running.add(stage.name)
    return found


def _announced(decisions: list[Decision], changed: dict[str, list[str]]) -> list[str]:
    """A line for each stage that is skipped, and for each that runs again although it had started."""
    lines = []
    for decision in decisions:
        name = decision.stage.name
        if decision.skipped:
            lines.append(f"{name}  already finished, skipped")
        elif name in changed:
            lines.append(f"{name}  runs again: {changed[name][0]}{_more(changed[name])}")
        elif decision.stale:
            lines.append(f"{name}  runs again, because it depends on {decision.because}")
    return lines


def _more(changed: list[str]) -> str:
    return f" and {len(changed) - 1} more ({', '.join(c.split(':')[0] for c in changed[1:])})" if changed[1:] else ""


def has_begun(path: Path) -> bool:
    """Whether a stage has something to resume from."""
    if any(path.glob("checkpoints/checkpoint-*")) or (path / "samples" / "partial.jsonl").is_file():
        return True
    return (path / "rollback.json").is_file()  # an alarm rolled it back to its start, before any checkpoint


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
    for line in _announced(decisions, changed):
        console.print(line, soft_wrap=True, highlight=False)
    # Delete everything stale before the first stage runs: an interruption must not leave the old output of a stage
    # next to the new output of one that it depends on.
    for decision in decisions:
        if decision.stale:
            directory.drop_outputs(decision.stage.path)
    left = [decision.stage for decision in decisions if not decision.skipped]
    child = None
    if left and left[0].path != run_dir:
        (run_dir / "result.json").unlink(missing_ok=True)
    if together and left:
        for stage in left:
            prepare_stage(stage, folders)
        with (run_dir / "log.txt").open("ab") as output:
            child = children.start(stage_command(*(stage.path for stage in left)), output)
    for stage in left:
        started = time.time()
        status = run_stage(console, stage, folders, stop, child)
        if stage.path != run_dir:
            row = {"phase": "stage", "stage": stage.name, "status": status, "seconds": time.time() - started}
            storage.append_jsonl(run_dir / "metrics.jsonl", row | {"time": time.time()})
        if status:
            return status
    if "stages" in config and (left or directory.result(run_dir) is None):
        storage.write_json_atomic(run_dir / "result.json", pipeline_result(run_dir, stages, config))
    _write_cards(run_dir, stages)
    console.print()
    result = directory.finished_result(run_dir)
    summary.show(console, run_dir, [(stage.name, stage.kind, stage.path) for stage in stages], result)
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
    shared: subprocess.Popen | None = None,
) -> int:
    """Runs one stage to its end in its own process.

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
    error_file, log = stage.path / "error.txt", stage.path / "log.txt"
    if shared is None:
        prepare_stage(stage, folders)
    log_from = log.stat().st_size if log.is_file() else 0
    display = StageDisplay(console, stage.path, name=stage.name, kind=stage.kind, doing="starting", place=stage.place)
    child = shared
    if child is None:
        with log.open("ab") as output:
            child = children.start(stage_command(stage.path), output)
    status = None
    try:
        with display:
            while status is None:
                try:
                    status = child.wait(_POLL)
                except subprocess.TimeoutExpired:
                    _pass_on(child, stop, display)
                    status = 0 if shared and stage.finished else None
                try:
                    display.update()
                except OSError as error:
                    if error.errno != errno.EIO:  # rich handles a broken pipe itself
                        raise
                    stop.hang_up()  # a closed terminal raises this error before the signal is handled
    finally:
        if shared is None or status != 0:
            children.kill(child)
    assert status is not None  # the loop ends with one
    if stop.count and not (status == 0 and stage.finished):
        return _interrupted(stage)
    if status == 0 and stage.finished:
        took = time.time() - display.started
        result = directory.finished_result(stage.path)
        display.say(summary.stage_line(stage.name, stage.kind, stage.path, result, took))
        return 0
    if status in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
        return _interrupted(stage)
    for line in children.failure(status, error_file, log, log_from):
        _print_error(f"{stage.name}: {line} (log: {log})")
    return 2 if status == 2 else 1


def stage_command(*paths: Path) -> list[str]:
    """The command that runs the stages of folders in order. With `-P`, a file in the current folder does not shadow a
    library."""
    return [sys.executable, "-P", "-m", "r1lab.stages", *map(str, paths)]


def _pass_on(child: subprocess.Popen, stop: StopRequests, display: StageDisplay) -> None:
    """Forwards the first stop request once, and kills the process at the second."""
    if stop.count >= 2:
        children.kill(child)
    elif stop.count and not stop.passed_on:
        stop.passed_on = True
        child.send_signal(signal.SIGINT)
        if display.kind in ("eval", "sample"):
            display.say("stopping: everything written so far is kept")
        else:
            display.say("stopping after this step and saving a checkpoint; Ctrl-C again stops at once")


def _interrupted(stage: StageRun) -> int:
    _print_error(f"{stage.name}: interrupted; to continue: {resume_command(stage)}")
    return INTERRUPTED


def resume_command(stage: StageRun) -> str:
    """The command that resumes a run: the one that was typed, with `--resume`."""
    typed = sys.argv[1:]
    if typed[:1] in (["run"], ["eval"]) and Path(sys.argv[0]).stem in ("r1lab", "__main__"):
        arguments = [argument for argument in typed if argument not in ("--overwrite", "--resume")]
    else:
        run_dir = stage.path.parent if stage.place else stage.path
        arguments = ["run", run_dir / "config.yaml", "--runs-dir", run_dir.parent, "--name", run_dir.name]
    return shlex.join([*_program(), *map(str, arguments), "--resume"])


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
    attempts = storage.read_jsonl(run_dir / "metrics.jsonl")
    evals = [stage for stage in stages if stage.kind == "eval"]
    pairs = config.get("compare") or ([[evals[0].name, evals[-1].name]] if len(evals) > 1 else [])
    folders = {stage.name: stage.path for stage in stages}
    return {
        "stage": "pipeline",
        "seconds": round(sum(row["seconds"] for row in attempts), 1),
        "stages": {stage.name: directory.result(stage.path) for stage in stages},
        "compare": [row for before, after in pairs for row in comparison.compare(before, after, folders)],
    }
