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
from r1lab.rundir import storage
from r1lab.text import did_you_mean

PROTOCOLS = {"r1": "eval/r1", "greedy": "eval/greedy", "logic-rl": "logic-rl/table"}
"""Recipes whose sections say how a model is asked, and whose tasks can be picked by name."""

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
    words: Sequence[str] = (),
) -> tuple[list[str], list[str]]:
    """What `r1lab run` would be given to evaluate models, one stage each, all compared with the first.

    Args:
        paths: Models: folders, Hub ids, `embedded:NAME`.
        tasks: Names of the protocol's tasks or of builders, `NAME=PATH` to read one from a file or folder, or files of
            rows of one's own. All of the protocol's if empty.
        protocol: A name in `PROTOCOLS`, or any recipe with stages and `eval`, which says how that recipe asks.
        grader: The reward that grades all tasks, in place of the protocol's.
        size: Questions a task at most, in place of the protocol's.
        samples: Answers a question, in place of the protocol's.
        words: `key=value` words, merged over all else; `model...` holds for each model.

    Returns:
        The sources, and lines that tell what was chosen for the person who typed.

    Raises:
        UserError: There is no such protocol, task or grader.
    """
    name = PROTOCOLS.get(protocol, protocol)
    plain = _read(name, protocol)
    chosen = _tasks(tasks, plain, protocol, grader)
    for task in chosen:
        task |= {key: value for key, value in (("size", size), ("num_samples", samples)) if value}
    stages, told = _stages(paths, plain, words)
    made = [name, f"stages={json.dumps(stages)}", f"eval.tasks={_flow(chosen)}"]
    made.append(f"compare={json.dumps([[stages[0]['name'], stage['name']] for stage in stages[1:]])}")
    # Where the tasks are not the protocol's, or it has none and evaluates its `data`.
    made += [f"eval.{key}={value}" for key, value in (("size", size), ("num_samples", samples)) if value]
    if grader:
        made.append(f"rewards={json.dumps([_grader(grader)])}")
    if path := next((word for word in words if word.startswith("model.path=")), None):
        raise UserError(f"{path}: models are named before the options, as in `r1lab eval {path.partition('=')[2]}`")
    sampled = plain.get("eval", {}).get("temperature", 1) > 0 or any(w.startswith("eval.temperature=") for w in words)
    if (samples or 1) > 1 and not sampled:
        raise UserError(f"--samples {samples}: {protocol} has temperature 0, where all answers are the same")
    limits, more = _limits(paths, plain, words)
    of_models = [word for word in words if word.startswith("model.")]
    made += [f"stages.{stage['name']}.{word}" for word in of_models for stage in stages]
    return [*made, *limits, *(word for word in words if word not in of_models)], [*told, *more]


def run_name(paths: list[str], protocol: str) -> str:
    """What the run is called unless it is given a name.

    >>> run_name(["embedded:tiny-qwen2", "runs/quickstart/02-zero/model"], "greedy")
    'eval-tiny-qwen2-quickstart-zero-greedy'
    """
    return "-".join(["eval", *(_name_of(path) for path in paths), _plain(Path(protocol).stem)])


def _read(name: str, protocol: str) -> dict:
    """The protocol's recipe as it stands."""
    try:
        file = yaml_source.find(name)
    except UserError as error:
        hint = did_you_mean(protocol, PROTOCOLS, otherwise=f"; there are: {', '.join(PROTOCOLS)}")
        raise UserError(f"--protocol {protocol}: no such protocol, and no such recipe{hint}") from error
    plain = yaml_source.parse_file(file).data
    if "stages" not in plain or not ("data" in plain or plain.get("eval", {}).get("tasks")):
        why = "has no `eval` with `tasks` that its `stages` share"
        raise UserError(f"--protocol {protocol}: {file} {why}; begin with `r1lab cp eval/r1`")
    return plain


def _tasks(words: list[str], protocol: dict, name: str, grader: str | None) -> list[dict]:
    listed = protocol.get("eval", {}).get("tasks", [])
    named = [{"name": t["builder"], **t} if isinstance(t, dict) else {"name": t, "builder": t} for t in listed]
    own = {task["name"]: task for task in named}
    if not words:
        return [dict(task) for task in own.values()]
    found = []
    for word in map(str.strip, words):
        known, equals, path = word.partition("=")
        if not known or (equals and not path):
            raise UserError(f"--tasks {','.join(words)}: a name is missing, as in --tasks math500,gsm8k=data/gsm8k")
        if Path(word).suffix in _ROWS and not path:
            if not Path(word).is_file():
                raise UserError(f"--tasks {word}: no such file")
            if not grader:
                rewards = ", ".join(lookup.names("rewards"))
                raise UserError(f"--tasks {word}: by what is it graded? Add --grader NAME, one of {rewards}")
            found.append({"name": _plain(Path(word).stem), "builder": "rows", "path": str(Path(word).resolve())})
            continue
        builders = lookup.names("data")
        if known not in own and known not in builders:
            hint = did_you_mean(known, [*own, *builders], otherwise=f"; the protocol {name} has {', '.join(own)}")
            raise UserError(f"--tasks {known}: no such task{hint}; a file of your own ends in .jsonl")
        task = dict(own.get(known, {"name": known, "builder": known}))
        if path:
            task |= {"path": str(Path(path).expanduser().resolve()) if Path(path).expanduser().exists() else path}
        found.append(task)
    names = [task["name"] for task in found]
    if twice := [task for task in names if names.count(task) > 1]:
        raise UserError(f"--tasks {twice[0]}: named twice: leave one out")
    return found


def _grader(name: str) -> dict:
    if ".py:" in name:
        file, _, function = name.rpartition(":")
        return {"name": f"{Path(file).expanduser().resolve()}:{function}"}
    have = lookup.names("rewards")
    if name.endswith(".py"):
        raise UserError(f"--grader {name}: of which function? As in --grader {name}:score")
    if "." not in name and name not in have:
        hint = did_you_mean(name, have, otherwise=f"; there are: {', '.join(have)}")
        raise UserError(f"--grader {name}: no such reward{hint}")
    return {"name": name}


def _stages(paths: list[str], protocol: dict, words: Sequence[str]) -> tuple[list[dict], list[str]]:
    """An eval stage for each model, with the prompt that it was trained on, and lines that tell of that."""
    stages, names = [], [_name_of(path) for path in paths]
    told: dict[str, list[str]] = {}
    given = any(word.startswith("prompt") for word in words) or _template(protocol) != "chat"
    for index, path in enumerate(paths):
        name = names[index] if names.count(names[index]) == 1 else f"{names[index]}-{index + 1}"
        while name in (stage["name"] for stage in stages):  # such as a folder of that very name
            name = f"{name}-{index + 1}"
        stage = {"name": name, "stage": "eval", "model": {"path": _absolute(path)}}
        prompt, why = (None, "") if given else _prompt_of(path)
        if prompt:
            stage["prompt"] = prompt
            what = "text" if prompt.get("text") is not None else f"template {prompt['template']}"
            told.setdefault(f"prompt {what}, {why}", []).append(name)
        stages.append(stage)
    ways = "prompt.template=chat takes the model's own"
    return stages, [f"{', '.join(some)}: {what}; {ways}" for what, some in told.items()]


def _template(protocol: dict) -> str:
    return protocol.get("prompt", {}).get("template", "chat")


def _absolute(path: str) -> str:
    folder = Path(path).expanduser()
    return str(folder.resolve()) if folder.is_dir() else path


def _prompt_of(path: str) -> tuple[dict | None, str]:
    """The prompt section that a model was trained with, where r1lab trained it, and how that is known."""
    if path.startswith("embedded:tiny-"):
        return {"template": "r1-zero"}, "as it was trained"
    stage = Path(path).expanduser().resolve().parent
    config = (stage.parent if stage.name == "checkpoints" else stage) / "config.yaml"
    if not config.is_file():
        return None, ""
    prompt = storage.read_yaml(config).get("prompt")
    template = prompt.get("template", "chat") if isinstance(prompt, dict) else "chat"
    own = isinstance(prompt, dict) and (prompt.get("text") is not None or Path(template).suffix == ".jinja")
    if not own and template not in set(TEMPLATES) - {"chat"}:
        return None, ""
    prompt = effective("eval", {"prompt": prompt})["prompt"]
    return prompt, f"as in {config.parent.name}/config.yaml"


def _limits(paths: list[str], protocol: dict, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Shorter completions than the protocol's for models that cannot read as much."""
    rollout = protocol.get("rollout", {})
    reads = [(context, path) for path in paths if (context := _context(path))]
    if not reads:
        return [], []
    context, path = min(reads)
    made, told = [], []
    if rollout.get("max_model_length", 0) > context and "rollout.engine=transformers" not in words:  # which reads none
        made.append(f"rollout.max_model_length={context}")
    most = context - min(2048, context // 2)
    given = any(word.startswith(("rollout.max_completion_length=", "eval.max_completion_length=")) for word in words)
    if rollout.get("max_completion_length", 0) > most and not given:
        made.append(f"rollout.max_completion_length={most}")
        told.append(f"answers end at {most:,} tokens, the protocol's at {rollout['max_completion_length']:,}: "
                    f"{path} reads {context:,}")  # fmt: skip
    return made, told


def _context(path: str) -> int | None:
    """The tokens that a model on this disk can read."""
    try:
        folder = Path(loading.resolve(path)).expanduser()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (UserError, OSError, ValueError):  # told when it is checked
        return None
    return config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")


def _name_of(path: str) -> str:
    """A short name for a model: of a run's, the run, the stage and the checkpoint.

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
    """A value as YAML on one line: JSON, but with numbers as keys, which JSON has not.

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
