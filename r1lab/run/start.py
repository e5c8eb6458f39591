"""The start of `r1lab run`: the recipe is loaded and checked before anything is written."""

import subprocess
import sys
from pathlib import Path

from r1lab.errors import UserError
from r1lab.recipe import loading as recipes
from r1lab.run import pipeline, slurm
from r1lab.run.stages import changed_stages
from r1lab.rundir import directory


def start(
    sources: list[str],
    *,
    runs_dir: str,
    name: str | None,
    tiny: bool,
    resume: bool,
    overwrite: bool,
    no_check: bool,
    slurm: bool,
    submit: bool,
    debug: bool,
) -> int:
    """Loads a recipe, checks it, and runs it.

    Args:
        sources: Files, names of packaged recipes, and `key=value` settings. The other arguments are the options of
            `r1lab run`.

    Returns:
        The exit status: 3 if the check found an error, otherwise that of `pipeline.run`.

    Raises:
        UserError: The recipe has a problem, or the folder of the run is in use.
    """
    folder = Path(runs_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--runs-dir {folder}: this is a file: give a folder")
    if name is not None:
        pipeline.checked_name(name)
    recipe = recipes.load(sources, inputs=True, tiny=tiny)
    run_dir = folder / pipeline.checked_name(name or recipe.name)
    # Refuse before the check, which can take minutes.
    directory.refuse_used(run_dir, resume=resume, overwrite=overwrite)
    if slurm or submit:
        if overwrite:
            why = "a job that starts again would delete its own run"
            raise UserError(f"r1lab run: --overwrite: {why}: delete {run_dir}")
        flags = [*["--tiny"] * tiny, *["--no-check"] * no_check, *["--debug"] * debug]
        options = ["--runs-dir", runs_dir, "--name", run_dir.name, *flags]
        return _on_slurm(recipes.resolved(recipe), run_dir.name, sources, options, submit)
    if resume:
        changed_stages(run_dir, pipeline.planned(recipe, run_dir)[1])
    if not no_check and (status := _checked(sources, tiny)):
        return status
    return pipeline.run(
        recipe,
        recipe_text=recipes.source_text(sources),
        runs_dir=folder,
        name=name,
        resume=resume,
        overwrite=overwrite,
        together=tiny,
    )


def _on_slurm(config: dict, name: str, sources: list[str], options: list[str], submit: bool) -> int:
    """Prints the batch script of a run, or submits it."""
    text = slurm.script(config, name=name, command=slurm.command(sources, options), folder=Path.cwd())
    print(slurm.followed(slurm.submit(text), name) if submit else text, end="\n" * submit)
    return 0


def _checked(sources: list[str], tiny: bool) -> int:
    """Checks a recipe before it runs, in a separate process, because stages do not need what the check imports."""
    print("checking the recipe (--no-check skips this)")
    command = [sys.executable, "-P", "-m", "r1lab", "check", "--quiet", "--files-were-read", *sources]
    sys.stdout.flush()
    status = subprocess.run(command + ["--tiny"] * tiny).returncode
    if status == 3:
        print("r1lab run: not started, see above; --no-check starts it anyway", file=sys.stderr)
    return status
