"""Runs stages: `python -m r1lab.stages RUN_DIR...`. The parent (`r1lab run`) has written RUN_DIR/config.yaml.

The stages run one after another until one fails. Their output goes to RUN_DIR/log.txt. Several ranks, started with the
environment variables that `r1lab.ranks` reads, run them together: rank R > 0 writes to RUN_DIR/ranks/R.log, and its
user's mistakes to RUN_DIR/ranks/R.error in place of RUN_DIR/error.txt. On SIGUSR1 a rank writes the stacks of its
threads to RUN_DIR/ranks/R.stack, and an only rank to its log.

Exit status: 0 done, 1 failed, 2 invalid recipe or input, 75 (`ranks.RESTART`) several ranks that rolled back and have
to be started again, 130 interrupted (a checkpoint is saved).
"""

import faulthandler
import importlib
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from r1lab import ranks
from r1lab.errors import UserError
from r1lab.stages.allocation import keep_freed_memory, use_huge_pages


def main(run_dir: Path) -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from r1lab.recipe import loading as recipes
    from r1lab.recipe.schema import StageRecipe
    from r1lab.rundir import storage

    try:
        recipe = recipes.load([str(run_dir / "config.yaml")])
        assert isinstance(recipe, StageRecipe)  # a pipeline's parent writes a recipe per stage
        ranks.beat(run_dir)
        if ranks.is_main():
            doing = {"phase": "load", "time": time.time(), "message": "importing torch and transformers"}
            storage.append_jsonl(run_dir / "metrics.jsonl", doing)
        if recipe.stage in ("grpo", "distill"):
            use_huge_pages()
            keep_freed_memory()
        stage = importlib.import_module(recipe.module)
        return stage.run(recipe, run_dir) or 0
    except UserError as error:
        ranks.error_file(run_dir).write_text("\n".join(error.problems) + "\n")
        return error.status
    except KeyboardInterrupt:
        return 130


def run_all(run_dirs: list[Path]) -> int:
    """Runs the stages of all folders, and returns the status of the first that fails."""
    for run_dir in run_dirs:
        if (run_dir / "result.json").is_file():  # finished before a rollback restarted this process
            continue
        sys.stdout.flush()
        sys.stderr.flush()
        if ranks.world_size() > 1:
            ranks.folder(run_dir).mkdir(exist_ok=True)
        log = os.open(ranks.log_file(run_dir), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        _show_stacks_on_signal(run_dir)
        try:
            status = main(run_dir)
        except Exception:  # the log shows it, as it would in its own process
            traceback.print_exc()
            status = 1
        if status:
            return status
    return 0


def _show_stacks_on_signal(run_dir: Path) -> None:
    """Makes SIGUSR1 write the stacks of all threads, also while the process waits for other ranks."""
    if ranks.world_size() == 1:
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        return
    stacks = (ranks.folder(run_dir) / f"{ranks.rank()}.stack").open("w")  # stays open: faulthandler has its descriptor
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    _STACKS.append(stacks)


_STACKS = []
"""The open files for stacks; closed, their descriptors would go to other files."""

if __name__ == "__main__":
    status = run_all([Path(argument) for argument in sys.argv[1:]])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of vLLM and torch may delay an ordinary exit by seconds
