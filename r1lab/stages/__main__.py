"""Runs stages: `python -m r1lab.stages RUN_DIR...`. The parent (`r1lab run`) has written RUN_DIR/config.yaml.

The stages run one after another until one fails. Their output goes to RUN_DIR/log.txt.
Exit status: 0 done, 1 failed, 2 invalid recipe or input, 130 interrupted (a checkpoint is saved).
"""

import importlib
import os
import sys
import time
import traceback
from pathlib import Path

from r1lab.errors import UserError


def main(run_dir: Path) -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from r1lab.recipe import loading as recipes
    from r1lab.recipe.schema import StageRecipe
    from r1lab.rundir import storage

    try:
        recipe = recipes.load([str(run_dir / "config.yaml")])
        assert isinstance(recipe, StageRecipe)  # a pipeline's parent writes a recipe per stage
        doing = {"phase": "load", "time": time.time(), "message": "importing torch and transformers"}
        storage.append_jsonl(run_dir / "metrics.jsonl", doing)
        stage = importlib.import_module(recipe.module)
        return stage.run(recipe, run_dir) or 0
    except UserError as error:
        (run_dir / "error.txt").write_text("\n".join(error.problems) + "\n")
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
        log = os.open(run_dir / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        try:
            status = main(run_dir)
        except Exception:  # the log shows it, as it would in its own process
            traceback.print_exc()
            status = 1
        if status:
            return status
    return 0


if __name__ == "__main__":
    status = run_all([Path(argument) for argument in sys.argv[1:]])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of vLLM and torch may delay an ordinary exit by seconds
