"""`r1lab eval`: from models, tasks and a protocol to the recipe that evaluates them, which `r1lab run` runs."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from r1lab import lookup
from r1lab.errors import UserError
from r1lab.models import loading
from r1lab.models.prompts import TEMPLATES
from r1lab.recipe import yaml_source
from r1lab.recipe.idle import effective
from r1lab.rundir import directory
from r1lab.text import did_you_mean, did_you_mean_path

PROTOCOLS = {"r1": "eval/r1", "greedy": "eval/greedy", "bfcl": "eval/bfcl", "logic-rl": "logic-rl/table"}
"""Recipes whose sections say how a model is prompted and sampled, and whose tasks can be selected by name."""

_ROWS = (".jsonl", ".json", ".parquet")
_NOT_A_NAME = re.compile(r"[^a-z0-9_]+")
_NO_NAMES = ("runs", "model", "models", "checkpoints")


def sources(
    paths: list[str],
    *,
    tasks: list[str],
    protocol: str,
    grader: str | None = None,
    size: int | None = None,
    samples: int | None = None,
    assignments: Sequence[str] = (),
) -> tuple[list[str], list[str]]:
    """The sources of `r1lab run` that evaluate models, one stage for each, all compared with the first.

    Args:
        paths: Models: folders, Hub ids, `embedded:NAME`.
        tasks: Names of the protocol's tasks or of builders, `NAME=PATH` to read one from a file or folder, or the
            user's own files of rows. If empty, all tasks of the protocol.
        protocol: A name in `PROTOCOLS`, or any recipe with stages and `eval`, whose evaluation settings are used.
        grader: The reward that grades all tasks, in place of the protocol's.
        size: Maximum questions per task, in place of the protocol's.
        samples: Answers per question, in place of the protocol's.
        assignments: `key=value` settings, which override everything else; `model...` applies to each model.

    Returns:
        The sources, and one line for the user about each setting that was chosen automatically.

    Raises:
        UserError: There is no model, or no such protocol, task or grader.
    """
    if not paths:
        raise UserError(f"{assignments[0]}: no model given: write `r1lab eval runs/NAME/model {assignments[0]}`")
    for option, value in (("--size", size), ("--samples", samples)):
        if value is not None and value < 1:
            raise UserError(f"r1lab eval: {option} {value}: should be at least 1")
    name = PROTOCOLS.get(protocol, protocol)
    plain = _read(name, protocol)
    chosen = _tasks(tasks, plain, protocol, grader)
    for task in chosen:
        task |= {key: value for key, value in (("size", size), ("num_samples", samples)) if value}
    stages, notes = _stages(paths, plain, assignments)
    made = [name, f"stages={json.dumps(stages)}", f"eval.tasks={_flow(chosen)}"]
    made.append(f"compare={json.dumps([[stages[0]['name'], stage['name']] for stage in stages[1:]])}")
    # For tasks that are not the protocol's, or a protocol without tasks, which evaluates its `data`.
    made += [f"eval.{key}={value}" for key, value in (("size", size), ("num_samples", samples)) if value]
    if grader:
        made.append(f"rewards={json.dumps([_grader(grader)])}")
    if path := next((each for each in assignments if each.startswith("model.path=")), None):
        raise UserError(f"{path}: models come before the options: write `r1lab eval {path.partition('=')[2]}`")
    sampled = plain.get("eval", {}).get("temperature", 1) > 0
    if (samples or 1) > 1 and not (sampled or any(each.startswith("eval.temperature=") for each in assignments)):
        why = f"{protocol} has temperature 0, where all answers are the same"
        raise UserError(f"--samples {samples}: {why}: set eval.temperature=1.0, or remove --samples")
    limits, more = _limits(paths, plain, assignments)
    of_models = [each for each in assignments if each.startswith("model.")]
    made += [f"stages.{stage['name']}.{each}" for each in of_models for stage in stages]
    return [*made, *limits, *(each for each in assignments if each not in of_models)], [*notes, *more]


def run_name(paths: list[str], protocol: str) -> str:
    """The default name of the run.

    >>> run_name(["embedded:tiny-qwen2", "runs/quickstart/02-zero/model"], "greedy")
    'eval-tiny-qwen2-quickstart-zero-greedy'
    """
    return "-".join(["eval", *(_name_of(path) for path in paths), _plain(Path(protocol).stem)])


def _read(name: str, protocol: str) -> dict:
    """The protocol's recipe as plain data."""
    try:
        file = yaml_source.find(name)
    except UserError as error:
        hint = did_you_mean(protocol, PROTOCOLS, otherwise=f"; available: {', '.join(PROTOCOLS)}")
        raise UserError(f"--protocol {protocol}: no such protocol or recipe{hint}") from error
    plain = yaml_source.parse_file(file).data
    if "stages" not in plain or not ("data" in plain or plain.get("eval", {}).get("tasks")):
        why = "has no `stages` that share an `eval` section with `tasks`"
        raise UserError(f"--protocol {protocol}: {file} {why}; start from a copy: `r1lab cp eval/r1`")
    return plain


def _tasks(given: list[str], protocol: dict, name: str, grader: str | None) -> list[dict]:
    listed = protocol.get("eval", {}).get("tasks", [])
    named = [{"name": t["builder"], **t} if isinstance(t, dict) else {"name": t, "builder": t} for t in listed]
    own = {task["name"]: task for task in named}
    if not given:
        return [dict(task) for task in own.values()]
    found = []
    for word in map(str.strip, given):
        known, equals, path = word.partition("=")
        if not known or (equals and not path):
            raise UserError(f"--tasks {','.join(given)}: a name is missing: write it as in math500,gsm8k=data/gsm8k")
        if Path(word).suffix in _ROWS and not path:
            if not Path(word).is_file():
                hint = did_you_mean_path(word, lambda file: file.suffix in _ROWS)
                raise UserError(f"--tasks {word}: no such file{hint}")
            if not grader:
                rewards = ", ".join(lookup.names("rewards"))
                raise UserError(f"--tasks {word}: no grader: add --grader NAME, one of {rewards}")
            found.append({"name": _plain(Path(word).stem), "builder": "rows", "path": str(Path(word).resolve())})
            continue
        builders = lookup.names("data")
        if known not in own and known not in builders:
            hint = did_you_mean(known, [*own, *builders], otherwise=f"; the protocol {name} has {', '.join(own)}")
            raise UserError(f"--tasks {known}: no such task{hint}; the name of your own file ends in .jsonl")
        task = dict(own.get(known, {"name": known, "builder": known}))
        if path:
            task |= {"path": str(Path(path).expanduser().resolve()) if Path(path).expanduser().exists() else path}
        found.append(task)
    names = [task["name"] for task in found]
    if twice := [task for task in names if names.count(task) > 1]:
        raise UserError(f"--tasks {twice[0]}: given twice: remove one")
    return found


def _grader(name: str) -> dict:
    if ".py:" in name:
        file, _, function = name.rpartition(":")
        return {"name": f"{Path(file).expanduser().resolve()}:{function}"}
    have = lookup.names("rewards")
    if name.endswith(".py"):
        raise UserError(f"--grader {name}: no function given: name a function, as in --grader {name}:score")
    if "." not in name and name not in have:
        hint = did_you_mean(name, have, otherwise=f"; available: {', '.join(have)}")
        raise UserError(f"--grader {name}: no such reward{hint}")
    return {"name": name}


def _stages(paths: list[str], protocol: dict, assignments: Sequence[str]) -> tuple[list[dict], list[str]]:
    """An eval stage for each model, with the prompt that it was trained on, and lines that report these prompts."""
    stages, names = [], [_name_of(path) for path in paths]
    notes: dict[str, list[str]] = {}
    given = any(each.startswith("prompt") for each in assignments) or _template(protocol) != "chat"
    for index, path in enumerate(paths):
        name = names[index] if names.count(names[index]) == 1 else f"{names[index]}-{index + 1}"
        while name in (stage["name"] for stage in stages):  # such as a folder with exactly this name
            name = f"{name}-{index + 1}"
        stage = {"name": name, "stage": "eval", "model": {"path": _absolute(path)}}
        prompt, why = (None, "") if given else _prompt_of(path)
        if prompt:
            stage["prompt"] = prompt
            what = "text" if prompt.get("text") is not None else f"template {prompt['template']}"
            notes.setdefault(f"prompt {what}, {why}", []).append(name)
        stages.append(stage)
    ways = "prompt.template=chat uses the model's own template"
    return stages, [f"{', '.join(some)}: {what}; {ways}" for what, some in notes.items()]


def _template(protocol: dict) -> str:
    return protocol.get("prompt", {}).get("template", "chat")


def _absolute(path: str) -> str:
    folder = Path(path).expanduser()
    return str(folder.resolve()) if folder.is_dir() else path


def _prompt_of(path: str) -> tuple[dict | None, str]:
    """The prompt section that a model was trained with, if r1lab trained it, and where it was found."""
    recipe, where = directory.trained_by(path)
    prompt = recipe.get("prompt")
    template = prompt.get("template", "chat") if isinstance(prompt, dict) else "chat"
    own = isinstance(prompt, dict) and (prompt.get("text") is not None or Path(template).suffix == ".jinja")
    if not own and template not in set(TEMPLATES) - {"chat"}:
        return None, ""
    return effective("eval", {"prompt": prompt})["prompt"], where


def _limits(paths: list[str], protocol: dict, assignments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Shorter completions than the protocol's, for models whose context is too short for these."""
    rollout = protocol.get("rollout", {})
    contexts = [(context, path) for path in paths if (context := _context(path))]
    if not contexts:
        return [], []
    context, path = min(contexts)
    made, notes = [], []
    by_transformers = "rollout.engine=transformers" in assignments  # which does not use max_model_length
    if rollout.get("max_model_length", 0) > context and not by_transformers:
        made.append(f"rollout.max_model_length={context}")
    limit = context - min(2048, context // 2)
    lengths = ("rollout.max_completion_length=", "eval.max_completion_length=")
    given = any(each.startswith(lengths) for each in assignments)
    if rollout.get("max_completion_length", 0) > limit and not given:
        made.append(f"rollout.max_completion_length={limit}")
        usual = rollout["max_completion_length"]
        why = f"{path} has a context of {context:,}"
        notes.append(f"completions are limited to {limit:,} tokens (protocol: {usual:,}), because {why}")
    return made, notes


def _context(path: str) -> int | None:
    """The context length of a model on this disk, in tokens."""
    try:
        folder = Path(loading.resolve(path)).expanduser()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (UserError, OSError, ValueError):  # reported by the check
        return None
    return config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")


def _name_of(path: str) -> str:
    """A short name for a model: for one of a run, the names of the run, the stage and the checkpoint.

    >>> _name_of("runs/quickstart/02-zero/model/"), _name_of("Qwen/Qwen2.5-7B"), _name_of("embedded:tiny-qwen2")
    ('quickstart-zero', 'qwen2-5-7b', 'tiny-qwen2')
    """
    if path.startswith("embedded:"):
        return _plain(path.removeprefix("embedded:"))
    parts = [re.sub(r"^\d\d-", "", part) for part in Path(path).parts]
    words = [part for part in parts if part not in (*_NO_NAMES, "/", ".", "..", "~")]
    last = Path(path).name
    count = 3 if "checkpoint-" in last else 2 if last in _NO_NAMES else 1
    return _plain("-".join(words[-count:])) or "model"


def _flow(value: object) -> str:
    """A value as YAML on one line: JSON, but numbers may be keys.

    >>> _flow([{"people": {2: 3}, "name": "k"}])
    '[{"people": {2: 3}, "name": "k"}]'
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return json.dumps(value)


def _plain(text: str) -> str:
    return _NOT_A_NAME.sub("-", text.lower()).strip("-")
