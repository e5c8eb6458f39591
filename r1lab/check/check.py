"""`r1lab check`: checks a recipe before it runs; each finding has a verdict and, if needed, a fix."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from r1lab.check.seen import Seen
from r1lab.errors import UserError
from r1lab.findings import COLORS, Finding
from r1lab.recipe import loading as recipes
from r1lab.recipe.schema import DistillRecipe, GrpoRecipe, Pipeline, Recipe, StageRecipe

Report = Callable[[StageRecipe, Finding], None]
Add = Callable[[StageRecipe, list[Finding]], None]


def check(
    recipe: Recipe, *, tiny: bool = False, probe: bool = False, report: Report | None = None
) -> list[tuple[StageRecipe, Finding]]:
    """The findings for each stage of a recipe that loaded without problems.

    Writes only to a temporary folder.

    Args:
        tiny: The recipe was scaled down by `--tiny`: its limits are short, and it evaluates on its training rows.
        probe: Also sample from the model of the first grpo stage whose model exists, with the stage's engine.
        report: Called with each finding as soon as it is known.
    """
    found: list[tuple[StageRecipe, Finding]] = []
    unreached: list[tuple[StageRecipe, Finding]] = []

    def add(stage: StageRecipe, findings: list[Finding]) -> None:
        for finding in findings:
            if finding.unreached and len(stages) > 1:  # one line for all stages, at the end
                unreached.append((stage, finding))
                continue
            found.append((stage, finding))
            if report:
                report(stage, finding)

    stages = recipe.stages if isinstance(recipe, Pipeline) else [recipe]
    with tempfile.TemporaryDirectory(prefix="r1lab-check-") as scratch:
        seen = _check_stages(stages, Path(scratch), add, tiny)
        if probe:
            _probe(seen, add)
    if unreached:
        names = dict.fromkeys(name for _, finding in unreached for name in finding.unreached)
        what = f"the Hub cannot be reached: {', '.join(names)} could not be checked"
        found.append((unreached[0][0], Finding("warning", "data", what, "check again online")))
        if report:
            report(*found[-1])
    return found


def _check_stages(stages: list[StageRecipe], scratch: Path, add: Add, tiny: bool) -> list[Seen]:
    """Adds the findings for each stage; returns the inputs of each stage."""
    from r1lab.check.look import hub_reachable, hub_settings, is_of_the_hub, look, start_of

    by_name = {stage.name: stage for stage in stages}
    starts = [start_of(stage.model.path, by_name) for stage in stages]
    teachers = [start_of(stage.teacher.path, by_name) for stage in stages if isinstance(stage, DistillRecipe)]
    if any(map(is_of_the_hub, [*starts, *teachers])):
        hub_reachable()  # before importing transformers, which reads the environment
    from transformers.utils import logging

    from r1lab.check.building import building_findings
    from r1lab.check.environments import environment_findings
    from r1lab.check.lengths import length_findings
    from r1lab.check.prompts import prompt_findings
    from r1lab.check.rewards import reward_findings
    from r1lab.check.rows import row_findings
    from r1lab.check.saved import saved_findings
    from r1lab.check.settings import batch_findings, launch_findings, row_count_findings, setting_findings
    from r1lab.check.shared import replaced_findings
    from r1lab.check.teacher import teacher_findings

    logging.set_verbosity_error()  # the checks cover what it warns about, in one line each
    inputs = [look(stage, by_name, scratch) for stage in stages]
    seen_stages = [seen for seen, _ in inputs]
    evaluations = [seen for seen in seen_stages if seen.recipe.stage == "eval" and seen.data and not tiny]
    for stage, start, (seen, found) in zip(stages, starts, inputs):
        settings = hub_settings(start, scratch)
        add(stage, launch_findings(stage) + batch_findings(stage) + row_count_findings(seen, tiny=tiny))
        add(stage, [] if tiny else replaced_findings(stage))
        add(stage, setting_findings(stage, tiny=tiny) + found + teacher_findings(seen, by_name, scratch))
        add(stage, building_findings(stage, start, settings, scratch))
        add(stage, prompt_findings(seen, start, settings) + saved_findings(seen, start, settings))
        add(stage, [] if tiny else length_findings(seen, start, settings))
        add(stage, row_findings(seen, evaluations, tiny=tiny))
        add(stage, environment_findings(seen, tiny=tiny))
        if seen.rewards and seen.rows:
            add(stage, reward_findings(seen))
    return seen_stages


def _probe(seen_stages: list[Seen], add: Add) -> None:
    from r1lab.check.probe import probe, probe_findings

    for seen in seen_stages:
        recipe = seen.recipe
        if isinstance(recipe, GrpoRecipe) and seen.rows and not recipe.model.path.startswith("@"):
            return add(recipe, probe_findings(probe(recipe, seen)))
    add(seen_stages[0].recipe, [Finding("warning", "probe", "no grpo stage starts from a model that already exists")])


def line(stage: StageRecipe, finding: Finding) -> str:
    """A finding as one line: verdict, place, key, what was found, and the fix."""
    return f"{finding.verdict:<7} {placed(stage, finding)}"


def placed(stage: StageRecipe, finding: Finding) -> str:
    """A finding without its verdict; a finding that is ok needs no place."""
    if finding.verdict == "ok":
        return f"{finding.check}: {finding.message}"
    return stage._document.problem((*stage._keys, *finding.keys), finding.message)


def lines(sources: list[str], *, tiny: bool = False, probe: bool = False) -> list[str]:
    """The lines that `r1lab check` prints for the sources, including problems of the recipe itself."""
    try:
        recipe = recipes.load(sources, inputs=True, tiny=tiny)
        found = check(recipe, tiny=tiny, probe=probe)
    except UserError as error:
        return [f"{'error':<7} {problem}" for problem in error.problems]
    return list(dict.fromkeys(line(stage, finding) for stage, finding in found))


def run(
    sources: list[str],
    *,
    tiny: bool = False,
    probe: bool = False,
    quiet: bool = False,
    color: bool = False,
    inputs: bool = True,
) -> int:
    """`r1lab check`: prints the findings stage by stage; returns the exit status, 3 if there is an error.

    Args:
        quiet: Print only warnings, errors and the summary.
        inputs: Let `recipes.load` read model folders and row files, and log what `tiny` changed; False if the caller
            has just done so.
    """
    started = time.monotonic()
    recipe = recipes.load(sources, inputs=inputs, tiny=tiny, quiet=not inputs)
    printed: set[str] = set()
    counts: Counter[str] = Counter()
    heads: list[str] = []
    several = isinstance(recipe, Pipeline)

    def report(stage: StageRecipe, finding: Finding) -> None:
        text = placed(stage, finding)
        if f"{finding.verdict} {text}" in printed:
            return
        printed.add(f"{finding.verdict} {text}")
        counts[finding.verdict] += 1
        if quiet and finding.verdict == "ok":
            return
        if several and not quiet and heads[-1:] != [stage.name]:
            print(f"\n{_styled(f'{stage.name} ({stage.stage})', '1', color)}", flush=True)
            heads.append(stage.name)
        print(f"{_styled(f'{finding.verdict:<7}', COLORS[finding.verdict], color)} {text}", flush=True)

    check(recipe, tiny=tiny, probe=probe, report=report)
    seconds = time.monotonic() - started
    errors, warnings = counts["error"], counts["warning"]
    summary = f"{counts['ok']} ok, {_counted(warnings, 'warning')}, {_counted(errors, 'error')}, {seconds:.0f} s"
    print(f"{'' if quiet else chr(10)}checked {recipe.name}: {summary}", flush=True)
    return 3 if errors else 0


def _styled(text: str, style: str, color: bool) -> str:
    return f"\033[{style}m{text}\033[0m" if color else text


def _counted(n: int, word: str) -> str:
    return f"{n} {word}{'s' * (n != 1)}"
