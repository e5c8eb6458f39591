"""The stages of a run, and what a run does with each: run it, skip it, or run it again because its inputs changed."""

from dataclasses import dataclass
from pathlib import Path

from r1lab.errors import UserError
from r1lab.recipe import launch, references
from r1lab.recipe import loading as recipes
from r1lab.recipe.schema import on_policy
from r1lab.rundir import directory, storage


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
    def gpus(self) -> int:
        return self._launch.get("gpus", 1)

    @property
    def nodes(self) -> int:
        return self._launch.get("nodes", 1)

    @property
    def ranks(self) -> int:
        if on_policy(self.kind):
            return (self.gpus - self.servers * self.split) * self.nodes
        return self.gpus // self.split * self.nodes

    @property
    def servers(self) -> int:
        """The vLLM servers of each node that generate its rollouts, if it trains."""
        if self._launch.get("rollout") != "server":
            return 0
        return self._launch.get("rollout_gpus", 1) // self.split

    @property
    def split(self) -> int:
        """The GPUs of each worker or server that generates."""
        return (self.config.get("rollout") or {}).get("tensor_parallel", 1)

    @property
    def timeout(self) -> int:
        return self._launch.get("timeout", 1800)

    @property
    def _launch(self) -> dict:
        return self.config.get("launch") or {}

    @property
    def finished(self) -> bool:
        return directory.result(self.path) is not None


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
        before, now = (launch.comparable(recipes.reread(config)) for config in (storage.read_yaml(file), stage.config))
        changed = references.changes(before, now, {s.name: s.path.name for s in stages})
        if changed and not stage.place:
            state = "finished" if stage.finished else "started"
            same = "--resume without this change continues the run as it was"
            raise UserError(f"{stage.path}: {changed[0]}{_more(changed)}, after the stage {state}: {same}, {ways}")
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


def announced(decisions: list[Decision], changed: dict[str, list[str]]) -> list[str]:
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
    if any(path.glob("checkpoints/checkpoint-*")) or directory.partial_files(path):
        return True
    return (path / "rollback.json").is_file()  # an alarm rolled it back to its start, before any checkpoint
