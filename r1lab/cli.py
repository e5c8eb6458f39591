"""The command `r1lab`. Heavy modules are imported inside functions, so that `--help` and `ls` answer at once.

Exit status: 0 fine, 1 the run failed, 2 what was asked is wrong, 3 a check failed, 130 interrupted.
"""

import argparse
import errno
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from r1lab import __version__
from r1lab.errors import UserError
from r1lab.text import did_you_mean

VERBS = ("run", "eval", "check", "plan", "report", "doctor", "show", "ls", "cp")
TINY = "the same recipe in small: an embedded model, two steps a stage, no network"
SOURCES = """SOURCES are recipes (files, or names from `r1lab ls recipes`) and key=value words; later ones win.

  r1lab run quickstart
  r1lab run quickstart seed=1 stages.zero.train.max_steps=10 --name short
  r1lab run my.yaml overlay.yaml train.learning_rate=1e-5 rewards.0.weight=2
"""

EVALUATE = """MODEL is a folder, a Hub id or embedded:NAME; several are compared with the first. key=value words are
merged over the protocol's recipe.

  r1lab eval runs/quickstart/02-zero/model --protocol quickstart
  r1lab eval Qwen/Qwen2.5-Math-7B runs/mine/model --tasks math500,aime24 --protocol r1
  r1lab eval runs/mine/model --tasks gsm8k=data/gsm8k,mine.jsonl --grader accuracy prompt.template=r1-zero
"""


class Parser(argparse.ArgumentParser):
    """argparse, with an error in one line that says what to type next."""

    def error(self, message: str):
        raise UserError(f"{self.prog}: {message}; `{self.prog} --help` tells how it is used")


def parser() -> Parser:
    """The arguments of all verbs."""
    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    runs = Parser(add_help=False)
    runs.add_argument("--runs-dir", metavar="DIR", default="runs", help="where run directories lie (default: runs)")
    settings = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    main = Parser(prog="r1lab", description="Train and evaluate R1-style reasoning models.", **settings)
    main.add_argument("--version", action="version", version=f"r1lab {__version__}")
    verbs = main.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)

    def recipe_verb(name: str, about: str, function: Callable, *parents: Parser) -> Parser:
        """A verb that takes recipes, overlays and `key=value` words."""
        told = SOURCES if name == "run" else SOURCES.replace("r1lab run", f"r1lab {name}").replace(" --name short", "")
        verb = verbs.add_parser(name, help=about, description=told, parents=[common, *parents], **settings)
        verb.add_argument("sources", nargs="+", metavar="SOURCES", help="recipes and key=value words")
        verb.add_argument("--tiny", action="store_true", help=TINY)
        verb.set_defaults(function=function)
        return verb

    run = recipe_verb("run", "run a recipe", run_verb, runs)
    run.add_argument("--name", help="the run's name, its folder under runs (default: the recipe's name)")
    run.add_argument("--resume", action="store_true", help="go on with the run that the folder holds")
    run.add_argument("--overwrite", action="store_true", help="delete the run that the folder holds, and start again")
    run.add_argument("--no-check", action="store_true", help="do not check it first, as `r1lab check` does")

    evaluate = verbs.add_parser(
        "eval", help="evaluate models on tasks", description=EVALUATE, parents=[common, runs], **settings
    )
    evaluate.add_argument("sources", nargs="+", metavar="MODEL", help="models, and key=value words")
    evaluate.add_argument("--tasks", metavar="TASKS", help="names, NAME=PATH or files, with commas (default: all)")
    evaluate.add_argument(
        "--protocol", metavar="NAME", default="r1", help="r1 (default), greedy, logic-rl, or a recipe: as it asks"
    )
    evaluate.add_argument("--grader", metavar="REWARD", help="the reward that grades the tasks, for files of your own")
    evaluate.add_argument("--size", metavar="N", type=int, help="questions a task at most (default: the protocol's)")
    evaluate.add_argument("--samples", metavar="N", type=int, help="answers a question (default: the protocol's)")
    evaluate.add_argument("--name", help="the run's name, its folder under runs (default: after models and protocol)")
    evaluate.add_argument("--resume", action="store_true", help="go on with the evaluation that the folder holds")
    evaluate.add_argument("--overwrite", action="store_true", help="delete what the folder holds, and start again")
    evaluate.add_argument("--no-check", action="store_true", help="do not check it first, as `r1lab check` does")
    evaluate.set_defaults(function=eval_verb, tiny=False)

    check = recipe_verb("check", "say what would go wrong with a recipe, before it runs", check_verb)
    check.add_argument("--probe", action="store_true", help="sample the model itself on 16 prompts: can RL start?")
    check.add_argument("--files-were-read", action="store_true", help=argparse.SUPPRESS)  # by `r1lab run`, just now
    check.add_argument("--quiet", action="store_true", help="print warnings and errors only")

    plan = recipe_verb("plan", "say whether a recipe fits, what it takes and how long", plan_verb)
    plan.add_argument("--gpu", metavar="NAME", help="the GPU to plan for, as in h100 (default: what is here)")
    plan.add_argument("--gpus", metavar="N", type=int, help="how many of them (default: launch.gpus)")
    plan.add_argument("--memory", metavar="SIZE", help="the memory of each in place of the GPU's own, as in 24GiB")
    plan.add_argument("--json", action="store_true", help="print it as JSON")

    report = verbs.add_parser(
        "report", help="show runs as one page: what was run, what came of it, curves, completions", parents=[common],
        **settings,
    )  # fmt: skip
    report.add_argument("runs", nargs="+", metavar="RUN", help="run directories, several side by side")
    report.add_argument("--format", metavar="FORMAT", help="html, or md for a README (default: what --out ends in)")
    report.add_argument(
        "--out",
        metavar="FILE",
        help="where to write it (default: report.html or .md in the run; of several beside the first)",
    )
    report.add_argument("--png", action="store_true", help="also write each curve as a PNG")
    report.set_defaults(function=report_verb)

    doctor = verbs.add_parser(
        "doctor", help="say what of this machine stands in the way of a run", parents=[common, runs], **settings
    )
    doctor.add_argument("--fast", action="store_true", help="do not start vLLM")
    doctor.add_argument("--json", action="store_true", help="print it as JSON, for a bug report")
    doctor.set_defaults(function=doctor_verb)

    recipe_verb("show", "print a recipe with all defaults of its sections filled in", show_verb)

    ls = verbs.add_parser("ls", help="list recipes, rewards, data builders, runs", parents=[common, runs], **settings)
    ls.add_argument("what", nargs="?", metavar="WHAT", help="recipes, rewards, data, runs (default: all), or keys")
    ls.add_argument("name", nargs="?", metavar="NAME", help="one of them: print its parameters and an example")
    ls.set_defaults(function=ls_verb)

    cp = verbs.add_parser("cp", help="copy a recipe out, to edit it", parents=[common], **settings)
    cp.add_argument("recipe", metavar="RECIPE", help="a name from `r1lab ls recipes`, or a file")
    cp.add_argument("to", nargs="?", metavar="TO", default=".", help="a file or folder (default: this folder)")
    cp.set_defaults(function=cp_verb)
    return main


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status. What goes wrong for a user is told in one line a problem."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        arguments = parse(argv)
        if arguments is None:
            parser().print_help(sys.stderr)
            return 2
        status = arguments.function(arguments)
        sys.stdout.flush()
        return status
    except UserError as error:
        if "--debug" in argv:
            traceback.print_exc()
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return error.status
    except BrokenPipeError:  # `r1lab show quickstart | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # A path that the user can look at, or a full disk. Anything else, such as a broken connection, is a fault of
        # the program, and its traceback is needed to find it.
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        if "--debug" in argv:
            traceback.print_exc()
        print(f"{error.filename or 'r1lab'}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parse(argv: list[str]) -> argparse.Namespace | None:
    """The arguments of a command line, None for an empty one. SOURCES may stand before, between and after options.

    Raises:
        UserError: They are not what the verb takes.
    """
    if not argv:
        return None
    if not argv[0].startswith("-") and argv[0] not in VERBS:
        hint = did_you_mean(argv[0], VERBS, otherwise=f"; there are: {', '.join(VERBS)}")
        raise UserError(f"r1lab: no verb {argv[0]}{hint}; `r1lab --help` tells what they do")
    arguments, rest = parser().parse_known_args(argv)
    if not hasattr(arguments, "function"):
        raise UserError(f"r1lab: which verb? One of {', '.join(VERBS)}; `r1lab --help` tells what they do")
    options = [word for word in rest if word.startswith("-")]
    if not options and hasattr(arguments, "sources"):
        arguments.sources += rest
    elif rest:
        raise UserError(f"r1lab {arguments.verb}: {_stray((options or rest)[0], arguments)}")
    return arguments


def _stray(word: str, arguments: argparse.Namespace) -> str:
    flags = [f"--{name.replace('_', '-')}" for name in vars(arguments)] + ["--help"]
    flags = [
        flag for flag in flags if flag not in (word, "--function", "--verb", "--sources", "--what", "--recipe", "--to")
    ]
    if not word.startswith("-"):
        return f"{word}: one word too many; `r1lab {arguments.verb} --help` tells how it is used"
    hint = did_you_mean(word.partition("=")[0], flags)
    if not hint and hasattr(arguments, "sources") and word.startswith("--"):
        key, _, value = word[2:].partition("=")
        hint = f"; to set a value of the recipe write {key}={value or 'VALUE'}, without dashes"
    return f"{word}: no such option{hint or '; there are: ' + ', '.join(flags)}"


def run_verb(arguments: argparse.Namespace) -> int:
    """`r1lab run`: nothing is written before all of the recipe has been found in order."""
    from r1lab.recipe import loading as recipes
    from r1lab.run import pipeline
    from r1lab.rundir import directory

    runs_dir = Path(arguments.runs_dir)
    if runs_dir.exists() and not runs_dir.is_dir():
        raise UserError(f"--runs-dir {runs_dir}: is a file: name a folder")
    if arguments.name is not None:
        pipeline.checked_name(arguments.name)
    recipe = recipes.load(_with_a_recipe(arguments), inputs=True, tiny=arguments.tiny)
    run_dir = runs_dir / pipeline.checked_name(arguments.name or recipe.name)
    directory.refuse_used(
        run_dir, resume=arguments.resume, overwrite=arguments.overwrite
    )  # before the minutes of a check
    if not arguments.no_check and (status := _checked(arguments)):
        return status

    return pipeline.run(
        recipe,
        recipe_text=recipes.written(arguments.sources),
        runs_dir=runs_dir,
        name=arguments.name,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        together=arguments.tiny,
    )


def eval_verb(arguments: argparse.Namespace) -> int:
    """`r1lab eval`: the recipe that it stands for is written, checked and run as by `r1lab run`."""
    from r1lab.evaluation import protocols
    from r1lab.recipe.yaml_source import is_assignment

    words = [word for word in arguments.sources if is_assignment(word)]
    models = [word for word in arguments.sources if word not in words]
    if not models:
        raise UserError(f"{words[0]}: of which model? As in `r1lab eval runs/NAME/model {words[0]}`")
    for option, value in (("--size", arguments.size), ("--samples", arguments.samples)):
        if value is not None and value < 1:
            raise UserError(f"r1lab eval: {option} {value}: at least 1")
    settings = {"protocol": arguments.protocol, "grader": arguments.grader, "words": words}
    settings |= {"size": arguments.size, "samples": arguments.samples}
    tasks = [] if arguments.tasks is None else arguments.tasks.split(",")
    arguments.sources, told = protocols.sources(models, tasks=tasks, **settings)
    arguments.name = arguments.name or protocols.run_name(models, arguments.protocol)
    for line in told:
        print(line)
    return run_verb(arguments)


def _checked(arguments: argparse.Namespace) -> int:
    """Checks a recipe before it runs, in a process of its own: what it imports is not needed while stages run."""
    print("checking the recipe (--no-check skips this)")
    command = [sys.executable, "-P", "-m", "r1lab", "check", "--quiet", "--files-were-read", *arguments.sources]
    sys.stdout.flush()
    status = subprocess.run(command + ["--tiny"] * arguments.tiny).returncode
    if status == 3:
        print("r1lab run: not started, see above; --no-check runs it as it is", file=sys.stderr)
    return status


def check_verb(arguments: argparse.Namespace) -> int:
    """`r1lab check`: exit status 3 where something is wrong that a run would show only later."""
    from r1lab.check import check

    color, _ = _terminal()
    more = {"tiny": arguments.tiny, "probe": arguments.probe, "quiet": arguments.quiet}
    more["inputs"] = not arguments.files_were_read
    return check.run(_with_a_recipe(arguments), color=color, **more)


def plan_verb(arguments: argparse.Namespace) -> int:
    """`r1lab plan`: exit status 3 where a stage does not fit."""
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
    """`r1lab report`: prints the files that it wrote."""
    from r1lab import report

    written = report.write(arguments.runs, out=arguments.out, format=arguments.format, png=arguments.png)
    print(*written, sep="\n")
    return 0


def doctor_verb(arguments: argparse.Namespace) -> int:
    """`r1lab doctor`: exit status 3 where something would break a run."""
    import json

    from r1lab.doctor import examine

    color, width = _terminal()
    tell = (
        None if arguments.json else lambda finding: print(examine.page(finding, color=color, width=width), flush=True)
    )
    findings = examine.examine(fast=arguments.fast, runs_dir=Path(arguments.runs_dir), tell=tell)
    errors, warnings = (sum(f.verdict == verdict for f in findings) for verdict in ("error", "warning"))
    if arguments.json:
        print(json.dumps(examine.report(findings), indent=2))
    else:
        print(f"\nlooked at {len(findings)} things: {warnings} to know of, {errors} to mend")
    return 3 if errors else 0


def _terminal() -> tuple[bool, int | None]:
    """Whether to print in colour, and how wide the terminal is, None for a file."""
    terminal = sys.stdout.isatty()
    return terminal and "NO_COLOR" not in os.environ, os.get_terminal_size().columns if terminal else None


def show_verb(arguments: argparse.Namespace) -> int:
    """`r1lab show`: the resolved recipe as YAML, which `r1lab run` takes back."""
    from r1lab.recipe import loading as recipes

    print(recipes.dumps(recipes.load(_with_a_recipe(arguments), tiny=arguments.tiny)), end="")
    return 0


def _with_a_recipe(arguments: argparse.Namespace) -> list[str]:
    from r1lab.recipe.yaml_source import is_assignment

    if all(is_assignment(source) for source in arguments.sources):
        first = arguments.sources[0]
        raise UserError(
            f"{first}: of which recipe? key=value words change one, as in `r1lab {arguments.verb} quickstart {first}`"
        )
    return arguments.sources


def ls_verb(arguments: argparse.Namespace) -> int:
    """`r1lab ls`."""
    from r1lab import listing

    there = (*listing.SECTIONS, "keys")
    if arguments.what not in (None, *there):
        hint = did_you_mean(arguments.what, there, otherwise=f"; there are: {', '.join(there)}")
        raise UserError(f"r1lab ls: {arguments.what}: nothing of this name to list{hint}")
    if arguments.what is not None and (arguments.name or arguments.what == "keys"):
        print(listing.reference(arguments.what, arguments.name or ""), end="")
        return 0
    color, width = _terminal()
    what = [arguments.what] if arguments.what else listing.SECTIONS
    print(listing.page(what, runs_dir=Path(arguments.runs_dir), color=color, width=width), end="")
    return 0


def cp_verb(arguments: argparse.Namespace) -> int:
    """`r1lab cp`: an existing file is never overwritten."""
    from r1lab.recipe.yaml_source import find

    recipe, to = find(arguments.recipe), Path(arguments.to)
    if to.is_dir():
        to = to / recipe.name
    if to.exists():
        raise UserError(f"{to}: exists already and is left as it is: name another file")
    if not to.parent.is_dir():
        raise UserError(f"{to.parent}: no such folder to copy into: make it first")
    to.write_text(recipe.read_text(encoding="utf-8"), encoding="utf-8")
    print(f"{to} is yours to edit; then: r1lab run {to}")
    return 0
