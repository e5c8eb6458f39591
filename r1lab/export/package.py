"""Writes a recipe as an environment package for verifiers, which prime-rl trains on."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from r1lab import __version__
from r1lab.environments import make
from r1lab.errors import UserError
from r1lab.models import prompts
from r1lab.recipe.acting import environment_of
from r1lab.recipe.schema import EvalRecipe, GrpoRecipe, Pipeline, Recipe, setting
from r1lab.stages import rows as stage_rows
from r1lab.stages.common import load_tokenizer

PROJECT = """\
[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "{distribution}"
version = "0.1.0"
description = "The data, environment and rewards of the r1lab recipe {name}"
requires-python = ">=3.11"
dependencies = ["r1lab>={version}", "verifiers>=0.1.12,<0.2"]

[tool.setuptools]
packages = ["{module}"]

[tool.setuptools.package-data]
"{module}" = ["*.json", "*.jsonl", "*.jinja", "own/*.py"]
"""

MODULE = '''\
"""The r1lab recipe {name} as an environment of verifiers."""

from pathlib import Path

from r1lab.export import environment


def load_environment(**arguments):
    """See `r1lab.export.environment.load`."""
    return environment.load(Path(__file__).parent, **arguments)
'''

PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""The chat template with which a server adds nothing to a prompt that is plain text."""

README = """\
# {distribution}

The rows, the environment and the rewards of the r1lab recipe `{name}` (stage `{stage}`), made by
`r1lab export verifiers` of r1lab {version}. The rubric is r1lab's own grader.

```bash
pip install --no-deps PATH/TO/r1lab .
vf-eval {distribution} -m MODEL -b http://localhost:8000/v1
```

`prime-rl.toml` has the numbers of the recipe, in the configuration of prime-rl with verifiers 0.1.
"""

README_PLAIN = """
The prompts are plain text. Start the server with `--chat-template {module}/plain.jinja`, or the model's chat template
is added around them.
"""


def write(recipe: Recipe, folder: Path) -> str:
    """Writes the package of a recipe's grpo stage, the first one of a pipeline.

    Args:
        folder: Is created, and must be empty.

    Returns:
        What was written, in one line.

    Raises:
        UserError: The recipe has no such stage, or one that cannot be exported.
    """
    stage = _stage(recipe)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"r1lab export: {folder}: is not empty: name another folder, or delete it")
    module = "r1lab_" + re.sub(r"\W+", "_", recipe.name.lower()).strip("_")
    names = {
        "name": recipe.name,
        "stage": stage.name,
        "module": module,
        "distribution": module.replace("_", "-"),
        "version": __version__,
    }
    rows = {
        "train": stage_rows.build_rows(
            stage.data, seed=stage.seed, tokenizer=load_tokenizer(stage) if stage.data.max_tokens else None
        ),
        "test": _evaluated(recipe, stage),
    }
    package = folder / module
    package.mkdir(parents=True)
    settings = _settings(stage, package)
    for split, listed in rows.items():
        lines = [json.dumps({"prompt": _prompt(row, stage), "row": row}, ensure_ascii=False) for row in listed]
        (package / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    readme = README.format(**names)
    if _is_plain(stage):
        readme += README_PLAIN.format(**names)
        (package / "plain.jinja").write_text(PLAIN, encoding="utf-8")
    texts = {
        package / "recipe.json": json.dumps(settings, indent=1, ensure_ascii=False) + "\n",
        package / "__init__.py": MODULE.format(**names),
        folder / "pyproject.toml": PROJECT.format(**names),
        folder / "README.md": readme,
        folder / "prime-rl.toml": _prime_rl(stage, names["distribution"]),
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    counts = f"{len(rows['train']):,} rows for training and {len(rows['test']):,} for evaluation"
    return f"{folder}: the package {names['distribution']}, with {counts}: pip install --no-deps {folder}"


def _stage(recipe: Recipe) -> GrpoRecipe:
    stages = recipe.stages if isinstance(recipe, Pipeline) else [recipe]
    stage = next((stage for stage in stages if isinstance(stage, GrpoRecipe)), None)
    if stage is None:
        raise UserError(
            f"r1lab export: {recipe.name}: has no grpo stage, whose data and rewards are exported: add one"
        )
    if stage.prompt.prefill:
        raise UserError("r1lab export: prompt.prefill: a server starts the assistant's turn itself: remove it")
    if any(not isinstance(tool, str) for tool in stage.tools):
        raise UserError("r1lab export: tools: of servers and of files of schemas are not exported yet: remove them")
    return stage


def _evaluated(recipe: Recipe, stage: GrpoRecipe) -> list[dict[str, Any]]:
    """The rows of the stage's evaluation, or else of the first eval stage of its pipeline; none without both."""
    stages = recipe.stages if isinstance(recipe, Pipeline) else []
    one = stage if stage.eval else next((found for found in stages if isinstance(found, EvalRecipe)), None)
    return [] if one is None else [row for rows in stage_rows.eval_tasks(one).values() for row in rows]


def _is_plain(stage: GrpoRecipe) -> bool:
    return prompts.is_plain(**stage.prompt.model_dump())


def _prompt(row: dict[str, Any], stage: GrpoRecipe) -> list[dict[str, str]]:
    """The prompt of a row as chat messages: those that a server gets in an evaluation."""
    found = prompts.messages(row["prompt"], tools=row.get("tools"), **stage.prompt.model_dump())
    return [{"role": "user", "content": found}] if isinstance(found, str) else found


def _settings(stage: GrpoRecipe, package: Path) -> dict[str, Any]:
    """What the package needs besides its rows; a user's own files are copied into it."""

    def kept(name: str) -> str:
        file, found, attribute = name.rpartition(".py:")
        if not found:
            return name
        source = Path(f"{file}.py").expanduser()
        (package / "own").mkdir(exist_ok=True)
        shutil.copy(source, package / "own" / source.name)
        return f"own/{source.name}:{attribute}"

    spec = make.spec_of(stage)
    if spec["environment"]:
        spec["environment"]["name"] = kept(spec["environment"]["name"])
    spec["tools"] = [kept(tool) for tool in spec["tools"]]
    section = environment_of(stage)
    return {
        "name": stage.name,
        "seed": stage.seed,
        "rewards": [{**reward.model_dump(), "name": kept(reward.name)} for reward in stage.rewards],
        "played": None if section is None else spec | {"max_turns": section.max_turns, "on_error": section.on_error},
    }


def _prime_rl(stage: GrpoRecipe, distribution: str) -> str:
    """The recipe's numbers as prime-rl names them."""
    model = stage.model.path
    lines = [
        "# The numbers of the recipe; not run with prime-rl by r1lab. `model.name` must be one that vLLM can serve.",
        f"max_steps = {stage.train.get('max_steps', 100)}",
        "",
        "[model]",
        f"name = {json.dumps(model)}",
        "",
        "[orchestrator]",
        f"batch_size = {_batch(stage)}",
        f"rollouts_per_example = {stage.rollout.num_generations}",
        "",
        "[orchestrator.sampling]",
        f"max_tokens = {stage.rollout.max_completion_length}",
        f"temperature = {stage.rollout.temperature}",
        "",
        "[[orchestrator.env]]",
        f"id = {json.dumps(distribution)}",
        "",
        "[trainer.optim]",
        f"lr = {float(setting(stage, 'learning_rate'))}",
        "",
        "[inference]",
        "",
    ]
    return "\n".join(lines)


def _batch(stage: GrpoRecipe) -> int:
    """The completions of an update."""
    given = stage.train.get("global_batch_size")
    per_device, steps = setting(stage, "per_device_train_batch_size"), setting(stage, "gradient_accumulation_steps")
    return int(given or per_device * steps * stage.launch.gpus)
