"""Run one stage: `python -m r1lab.stages RUN_DIR`. The parent (`r1lab run`) has written RUN_DIR/config.yaml.

Exit status: 0 done, 1 failed, 2 what was asked is wrong, 130 interrupted (a checkpoint is saved).
"""

import importlib
import os
import sys
from pathlib import Path

from r1lab.errors import UserError


def main(run_dir: Path) -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from r1lab import recipe as recipes

    try:
        recipe = recipes.load([str(run_dir / "config.yaml")])
        stage = importlib.import_module(f"r1lab.stages.{recipe.stage}")
        return stage.run(recipe, run_dir) or 0
    except UserError as error:
        (run_dir / "error.txt").write_text("\n".join(error.problems) + "\n")
        return error.status
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    status = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # vLLM's and torch's threads may hold an ordinary exit for seconds
