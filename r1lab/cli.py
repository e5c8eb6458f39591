"""The command `r1lab`: its arguments, and the exit status of an error; `r1lab.verbs` is what it does.

Exit status: 0 success, 1 the run failed, 2 invalid command or recipe, 3 a check failed, 130 interrupted.
"""

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable

from r1lab import __version__
from r1lab.errors import UserError
from r1lab.text import did_you_mean
from r1lab.verbs import (
    ask_verb,
    check_verb,
    cp_verb,
    doctor_verb,
    eval_verb,
    export_verb,
    ls_verb,
    plan_verb,
    play_verb,
    report_verb,
    run_verb,
    show_verb,
)

VERBS = ("run", "eval", "check", "plan", "report", "ask", "play", "export", "doctor", "show", "ls", "cp")
TINY = "scale the recipe down: an embedded model, two steps per stage, no network"
SOURCES = """SOURCES are recipes (files, or names from `r1lab ls recipes`) and key=value settings.
Later ones override earlier ones.

  r1lab run quickstart
  r1lab run quickstart seed=1 stages.zero.train.max_steps=10 --name short
  r1lab run my.yaml overlay.yaml train.learning_rate=1e-5 rewards.0.weight=2
"""

EVALUATE = """MODEL is a folder, a Hub id or embedded:NAME. Several models are compared with the first one.
key=value settings override those of the protocol's recipe.

  r1lab eval runs/quickstart/02-zero/model --protocol quickstart
  r1lab eval Qwen/Qwen2.5-Math-7B runs/mine/model --tasks math500,aime24 --protocol r1
  r1lab eval runs/mine/model --tasks gsm8k=data/gsm8k,mine.jsonl --grader accuracy prompt.template=r1-zero
"""


ASK = """Without QUESTION, each line of standard input is a question.

  r1lab ask runs/quickstart/02-zero/model "You meet 2 inhabitants: David, and Emily. ..." --compare embedded:tiny-qwen2
  r1lab ask Qwen/Qwen2.5-0.5B-Instruct --temperature 0.7
"""


PLAY = """Without MODEL you play: each line is a turn. Calls of tools are typed as in Python.

  r1lab play number_guess
  r1lab play desk embedded:tiny-qwen2 --seed 3
  r1lab play ./shop.py:Shop --data rows.jsonl
  r1lab play number_guess environment.guesses=3 environment.inside=0.1
  r1lab play desk embedded:tiny-qwen2 'tools=[calculator]'
  r1lab play my.yaml embedded:tiny-qwen2
"""


EXPORT = """The package has the rows of the recipe's grpo stage, its environment, and a rubric that is r1lab's grader.

  r1lab export verifiers quickstart exported
  pip install --no-deps ./exported
"""


class Parser(argparse.ArgumentParser):
    """argparse, with errors in one line that says what to type next."""

    def error(self, message: str):
        raise UserError(f"{self.prog}: {message}; `{self.prog} --help` shows the usage")


def parser() -> Parser:
    """The arguments of all verbs."""
    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    runs = Parser(add_help=False)
    runs.add_argument(
        "--runs-dir", metavar="DIR", default="runs", help="the folder of run directories (default: runs)"
    )
    settings = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    main = Parser(prog="r1lab", description="Train and evaluate R1-style reasoning models.", **settings)
    main.add_argument("--version", action="version", version=f"r1lab {__version__}")
    verbs = main.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)

    def recipe_verb(name: str, about: str, function: Callable, *parents: Parser) -> Parser:
        """A verb that takes recipes, overlays and `key=value` settings."""
        usage = (
            SOURCES if name == "run" else SOURCES.replace("r1lab run", f"r1lab {name}").replace(" --name short", "")
        )
        verb = verbs.add_parser(name, help=about, description=usage, parents=[common, *parents], **settings)
        sources = verb.add_argument("sources", nargs="+", metavar="SOURCES", help="recipes and key=value settings")
        sources.completer = _recipe_names  # pyright: ignore[reportAttributeAccessIssue]: argcomplete's own way
        verb.add_argument("--tiny", action="store_true", help=TINY)
        verb.set_defaults(function=function)
        return verb

    run = recipe_verb("run", "run a recipe", run_verb, runs)
    run.add_argument("--name", help="the run's name, its folder under runs (default: the recipe's name)")
    run.add_argument("--resume", action="store_true", help="continue the run in the folder")
    run.add_argument("--overwrite", action="store_true", help="delete the run in the folder, and start again")
    run.add_argument("--no-check", action="store_true", help="skip the check that `r1lab check` does")
    run.add_argument("--slurm", action="store_true", help="print the batch script of a Slurm job that runs the recipe")
    run.add_argument("--submit", action="store_true", help="submit that script with sbatch")

    evaluate = verbs.add_parser(
        "eval", help="evaluate models on tasks", description=EVALUATE, parents=[common, runs], **settings
    )
    evaluate.add_argument("sources", nargs="+", metavar="MODEL", help="models, and key=value settings")
    evaluate.add_argument(
        "--tasks", metavar="TASKS", help="names, NAME=PATH or files, separated by commas (default: all)"
    )
    evaluate.add_argument(
        "--protocol",
        metavar="NAME",
        default="r1",
        help="how to prompt and sample: r1 (default), greedy, bfcl, logic-rl, or the evaluation settings of a recipe",
    )
    evaluate.add_argument("--grader", metavar="REWARD", help="the reward that grades the tasks, for your own files")
    evaluate.add_argument("--size", metavar="N", type=int, help="maximum questions per task (default: the protocol's)")
    evaluate.add_argument("--samples", metavar="N", type=int, help="answers per question (default: the protocol's)")
    evaluate.add_argument("--name", help="the run's name, its folder under runs (default: from models and protocol)")
    evaluate.add_argument("--resume", action="store_true", help="continue the evaluation in the folder")
    evaluate.add_argument("--overwrite", action="store_true", help="delete the run in the folder, and start again")
    evaluate.add_argument("--no-check", action="store_true", help="skip the check that `r1lab check` does")
    evaluate.set_defaults(function=eval_verb, tiny=False, slurm=False, submit=False)

    check = recipe_verb("check", "check a recipe before it runs", check_verb)
    check.add_argument("--probe", action="store_true", help="also sample the model on 16 prompts: can RL start?")
    check.add_argument("--files-were-read", action="store_true", help=argparse.SUPPRESS)  # set by `r1lab run`
    check.add_argument("--quiet", action="store_true", help="print warnings and errors only")

    plan = recipe_verb("plan", "estimate memory, time and disk of a recipe", plan_verb)
    plan.add_argument("--gpu", metavar="NAME", help="the GPU to plan for, as in h100 (default: this machine's)")
    plan.add_argument("--gpus", metavar="N", type=int, help="the number of GPUs (default: launch.gpus)")
    plan.add_argument("--memory", metavar="SIZE", help="memory per GPU, in place of the GPU's own, as in 24GiB")
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")

    report = verbs.add_parser(
        "report", help="write a report of runs: results, curves, completions", parents=[common], **settings
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="run directories; several are shown side by side")
    report.add_argument(
        "--format", metavar="FORMAT", help="html, or md for a README (default: the extension of --out, else html)"
    )
    report.add_argument(
        "--out",
        metavar="FILE",
        help="the file to write (default: report.html or report.md in the run, next to the first of several runs)",
    )
    report.add_argument("--png", action="store_true", help="also write each curve as a PNG")
    report.set_defaults(function=report_verb)

    doctor = verbs.add_parser(
        "doctor", help="check that this machine can run r1lab", parents=[common, runs], **settings
    )
    doctor.add_argument("--fast", action="store_true", help="do not start vLLM")
    doctor.add_argument(
        "--measure", action="store_true", help="also measure how fast this machine is, for `r1lab plan`"
    )
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON, for a bug report")
    doctor.set_defaults(function=doctor_verb)

    ask = verbs.add_parser("ask", help="answer a question with a model", description=ASK, parents=[common], **settings)
    ask.add_argument("model", metavar="MODEL", help="a model folder, a Hub id or embedded:NAME")
    ask.add_argument("question", nargs="?", metavar="QUESTION", help="default: read questions from the terminal")
    ask.add_argument("--compare", metavar="MODEL", action="append", default=[], help="another model to answer it too")
    ask.add_argument(
        "--template", metavar="NAME", help="the prompt template (default: that of its training, or the model's own)"
    )
    ask.add_argument(
        "--engine", choices=("transformers", "vllm"), default="transformers", help="default: transformers"
    )
    ask.add_argument("--max-tokens", metavar="N", type=int, help="the maximum length of an answer")
    ask.add_argument("--temperature", metavar="T", type=float, default=0.0, help="default: 0, greedy decoding")
    ask.add_argument("--samples", metavar="N", type=int, default=1, help="answers per model (default: 1)")
    ask.add_argument("--seed", metavar="N", type=int, default=0, help="default: 0")
    ask.set_defaults(function=ask_verb)

    play = verbs.add_parser(
        "play", help="play an episode of an environment", description=PLAY, parents=[common], **settings
    )
    play.add_argument(
        "environment", metavar="ENV", help="a name from `r1lab ls environments`, ./env.py:Class, or a recipe"
    )
    play.add_argument("model", nargs="?", metavar="MODEL", help="the player (default: you)")
    play.add_argument(
        "sources", nargs="*", metavar="KEY=VALUE", help="environment.KEY=VALUE or tools=[NAME]; of a recipe any key"
    )
    play.add_argument(
        "--data", metavar="DATA", help="a builder or a file of rows (default: the recipe's, or that of ENV's name)"
    )
    play.add_argument(
        "--seed", metavar="N", type=int, default=0, help="what the row and the episode draw (default: 0)"
    )
    play.add_argument("--turns", metavar="N", type=int, help="the maximum number of turns (default: max_turns)")
    play.add_argument("--template", metavar="NAME", help="the prompt template (default: the recipe's, or the model's)")
    play.add_argument(
        "--engine", choices=("transformers", "vllm"), default="transformers", help="default: transformers"
    )
    play.add_argument("--max-tokens", metavar="N", type=int, help="the maximum length of a turn")
    play.add_argument("--temperature", metavar="T", type=float, default=0.0, help="default: 0, greedy decoding")
    play.set_defaults(function=play_verb)

    export = verbs.add_parser(
        "export", help="export a recipe for another trainer", description=EXPORT, parents=[common], **settings
    )
    export.add_argument("target", choices=("verifiers",), help="verifiers: an environment package, as for prime-rl")
    export.add_argument("recipe", metavar="RECIPE", help="a name from `r1lab ls recipes`, or a file")
    export.add_argument("folder", metavar="FOLDER", help="the folder of the package, which must not exist")
    export.add_argument("sources", nargs="*", metavar="SOURCES", help="overlays and key=value settings")
    export.add_argument("--tiny", action="store_true", help=TINY)
    export.set_defaults(function=export_verb)

    recipe_verb("show", "print a recipe with all defaults of its sections", show_verb)

    ls = verbs.add_parser(
        "ls", help="list recipes, rewards, data builders, environments, runs", parents=[common, runs], **settings
    )
    ls.add_argument(
        "what", nargs="?", metavar="WHAT", help="recipes, rewards, data, environments, runs (default: all), or keys"
    )
    ls.add_argument("name", nargs="?", metavar="NAME", help="print the parameters and an example of one of them")
    ls.set_defaults(function=ls_verb)

    cp = verbs.add_parser("cp", help="copy a recipe, to edit it", parents=[common], **settings)
    cp.add_argument("recipe", metavar="RECIPE", help="a name from `r1lab ls recipes`, or a file")
    cp.add_argument("to", nargs="?", metavar="TO", default=".", help="a file or folder (default: this folder)")
    cp.set_defaults(function=cp_verb)
    return main


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status. Each problem is printed for the user in one line."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions; argcomplete answers and exits
        import argcomplete

        argcomplete.autocomplete(parser())
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
        # The user can look at a path or a full disk. Anything else, such as a broken connection, is a bug, and its
        # traceback is needed to find it.
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        if "--debug" in argv:
            traceback.print_exc()
        print(f"{error.filename or 'r1lab'}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _recipe_names(prefix: str, **_) -> list[str]:
    """Completions of a recipe: packaged recipes, files and folders."""
    from argcomplete.completers import FilesCompleter

    from r1lab.recipe.yaml_source import packaged_recipes

    return [*(name for name in packaged_recipes() if name.startswith(prefix)), *FilesCompleter()(prefix)]


def parse(argv: list[str]) -> argparse.Namespace | None:
    """The arguments of a command line, None for an empty one. SOURCES may come before, between and after options.

    Raises:
        UserError: The verb does not take them.
    """
    if not argv:
        return None
    if not argv[0].startswith("-") and argv[0] not in VERBS:
        hint = did_you_mean(argv[0], VERBS, otherwise=f"; there are: {', '.join(VERBS)}")
        raise UserError(f"r1lab: no such verb: {argv[0]}{hint}; `r1lab --help` describes them")
    arguments, rest = parser().parse_known_args(argv)
    if not hasattr(arguments, "function"):
        raise UserError(f"r1lab: no verb given: add one of {', '.join(VERBS)}; `r1lab --help` describes them")
    options = [word for word in rest if word.startswith("-")]
    if not options and hasattr(arguments, "sources"):
        arguments.sources += rest
    elif rest:
        raise UserError(f"r1lab {arguments.verb}: {_stray((options or rest)[0], arguments)}")
    return arguments


def _stray(word: str, arguments: argparse.Namespace) -> str:
    flags = [f"--{name.replace('_', '-')}" for name in vars(arguments)] + ["--help"]
    flags = [
        flag
        for flag in flags
        if flag not in (word, "--function", "--verb", "--sources", "--what", "--recipe", "--to", "--environment")
    ]
    if not word.startswith("-"):
        return f"{word}: unexpected argument; `r1lab {arguments.verb} --help` shows the usage"
    hint = did_you_mean(word.partition("=")[0], flags)
    if not hint and hasattr(arguments, "sources") and word.startswith("--"):
        key, _, value = word[2:].partition("=")
        hint = f"; to set a value of the recipe, write {key}={value or 'VALUE'} without dashes"
    return f"{word}: no such option{hint or '; there are: ' + ', '.join(flags)}"
