"""What each verb of the command does. Each function gets the arguments of its verb, and returns the exit status.

Heavy modules are imported inside the functions, so that `--help` and `ls` answer at once.
"""

import argparse
import os
import sys
from pathlib import Path

from r1lab.errors import UserError


def run_verb(arguments: argparse.Namespace) -> int:
    """`r1lab run`: nothing is written before the whole recipe has passed its checks."""
    from r1lab.run import start

    options = ("runs_dir", "name", "tiny", "resume", "overwrite", "no_check", "slurm", "submit", "debug")
    return start.start(_with_a_recipe(arguments), **{name: getattr(arguments, name) for name in options})


def eval_verb(arguments: argparse.Namespace) -> int:
    """`r1lab eval`: builds a recipe of eval stages, which is checked and run as by `r1lab run`."""
    from r1lab.evaluation import protocols
    from r1lab.recipe.yaml_source import is_assignment

    assignments = [source for source in arguments.sources if is_assignment(source)]
    models = [source for source in arguments.sources if source not in assignments]
    settings = {"protocol": arguments.protocol, "grader": arguments.grader, "assignments": assignments}
    settings |= {"size": arguments.size, "samples": arguments.samples}
    tasks = [] if arguments.tasks is None else arguments.tasks.split(",")
    arguments.sources, notes = protocols.sources(models, tasks=tasks, **settings)
    arguments.name = arguments.name or protocols.run_name(models, arguments.protocol)
    for line in notes:
        print(line)
    return run_verb(arguments)


def check_verb(arguments: argparse.Namespace) -> int:
    """`r1lab check`: exit status 3 if it finds an error that a run would reach only later."""
    from r1lab.check import check

    color, _ = _terminal()
    more = {"tiny": arguments.tiny, "probe": arguments.probe, "quiet": arguments.quiet}
    more["inputs"] = not arguments.files_were_read
    return check.run(_with_a_recipe(arguments), color=color, **more)


def plan_verb(arguments: argparse.Namespace) -> int:
    """`r1lab plan`: exit status 3 if a stage does not fit."""
    import json

    from r1lab import plan
    from r1lab.recipe import loading as recipes

    recipe = recipes.load(_with_a_recipe(arguments), tiny=arguments.tiny)
    memory = plan.parse_memory(arguments.memory) if arguments.memory else None
    planned = plan.plan(recipe, gpu=arguments.gpu, gpus=arguments.gpus, memory=memory)
    color, width = _terminal()
    text = (
        json.dumps(plan.as_json(planned), indent=2)
        if arguments.json
        else plan.as_text(planned, width=width, color=color)
    )
    print(text)
    return 0 if planned.fits else 3


def report_verb(arguments: argparse.Namespace) -> int:
    """`r1lab report`: prints the paths of the files that it writes."""
    from r1lab import report

    written = report.write(arguments.runs, out=arguments.out, format=arguments.format, png=arguments.png)
    print(*written, sep="\n")
    return 0


def doctor_verb(arguments: argparse.Namespace) -> int:
    """`r1lab doctor`: exit status 3 if something would break a run."""
    from r1lab.doctor import examine

    color, width = _terminal()
    what = {"fast": arguments.fast, "measure": arguments.measure, "runs_dir": Path(arguments.runs_dir)}
    return examine.run(**what, as_json=arguments.json, color=color, width=width)


def ask_verb(arguments: argparse.Namespace) -> int:
    """`r1lab ask`: answers one question, or each line of standard input."""
    from r1lab import ask

    options = ("compare", "template", "engine", "max_tokens", "temperature", "samples", "seed")
    ask.run(arguments.model, arguments.question, **{name: getattr(arguments, name) for name in options})
    return 0


def play_verb(arguments: argparse.Namespace) -> int:
    """`r1lab play`: an episode at the console."""
    from r1lab import play

    options = ("data", "seed", "turns", "engine", "template", "max_tokens", "temperature")
    play.run(
        arguments.environment,
        arguments.model,
        arguments.sources,
        **{name: getattr(arguments, name) for name in options},
    )
    return 0


def export_verb(arguments: argparse.Namespace) -> int:
    """`r1lab export`: a recipe's data, environment and rewards as a package."""
    from r1lab.export import package
    from r1lab.recipe import loading as recipes

    recipe = recipes.load([arguments.recipe, *arguments.sources], inputs=True, tiny=arguments.tiny)
    print(package.write(recipe, Path(arguments.folder)))
    return 0


def _terminal() -> tuple[bool, int | None]:
    """Whether to print in color, and the width of the terminal, None for a file."""
    terminal = sys.stdout.isatty()
    return terminal and "NO_COLOR" not in os.environ, os.get_terminal_size().columns if terminal else None


def show_verb(arguments: argparse.Namespace) -> int:
    """`r1lab show`: the resolved recipe as YAML, which `r1lab run` accepts."""
    from r1lab.recipe import loading as recipes

    print(recipes.dumps(recipes.load(_with_a_recipe(arguments), tiny=arguments.tiny)), end="")
    return 0


def _with_a_recipe(arguments: argparse.Namespace) -> list[str]:
    from r1lab.recipe.yaml_source import is_assignment

    if all(is_assignment(source) for source in arguments.sources):
        first = arguments.sources[0]
        raise UserError(f"{first}: no recipe given: write `r1lab {arguments.verb} quickstart {first}`")
    return arguments.sources


def ls_verb(arguments: argparse.Namespace) -> int:
    """`r1lab ls`."""
    from r1lab import listing

    color, width = _terminal()
    runs_dir = Path(arguments.runs_dir)
    print(listing.shown(arguments.what, arguments.name, runs_dir=runs_dir, color=color, width=width), end="")
    return 0


def cp_verb(arguments: argparse.Namespace) -> int:
    """`r1lab cp`: an existing file is never overwritten."""
    from r1lab.recipe.yaml_source import find

    recipe, to = find(arguments.recipe), Path(arguments.to)
    if to.is_dir():
        to = to / recipe.name
    if to.exists():
        raise UserError(f"{to}: already exists and is not overwritten: give another file name")
    if not to.parent.is_dir():
        raise UserError(f"{to.parent}: no such folder: create it first")
    to.write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")
    print(f"wrote {to}: edit it, then run it: r1lab run {to}")
    return 0
