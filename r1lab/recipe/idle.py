"""Keys of a recipe that have no effect in their stage. They are errors, because whoever writes one expects an effect.

A section that all stages of a pipeline share, or that several stages take from one YAML anchor, may have keys that
only some stages use. Such a key is an error only if no stage uses it. A key is also accepted if a later source leaves
it without effect, as `rollout.engine=transformers` on the command line does to a file's share of the GPU.
"""

import logging
import os
from collections.abc import Container, Iterator
from typing import Any

from r1lab.models import prompts
from r1lab.recipe import trl_fields
from r1lab.recipe.schema import STAGES
from r1lab.recipe.values import Problems, fields_at, schema_at
from r1lab.recipe.yaml_source import COMMAND_LINE, Document, Keys
from r1lab.rundir import directory

_log = logging.getLogger(__name__)
_INSTEAD = {
    ("eval", "rollout", "temperature"): "set eval.temperature",
    ("eval", "rollout", "num_generations"): "set eval.num_samples",
    ("eval", "data", "size"): "set eval.size",
    ("reward", "model", "lora"): "it trains all weights",
}
_SERVER = ("url", "max_concurrent", "requests_per_minute")
_VLLM = ("max_model_length", "gpu_memory_utilization", "tensor_parallel")
_TRL_EVAL = ("per_device_eval_batch_size", "eval_delay", "eval_accumulation_steps", "batch_eval_metrics")
_VLLM_TRAIN = frozenset(key for key in trl_fields.GRPO if key.startswith("vllm_"))
_CORRECTION = tuple(key for key in _VLLM_TRAIN if key.startswith("vllm_importance_sampling"))  # also of stale groups
_LOADING = ("revision", "attn_implementation", "trust_remote_code")


Idle = tuple[Keys, str, Keys]
"""A key without effect, the reason, and the key that decides it, empty if the kind of the stage decides it."""


def idle_keys(kind: str, data: dict) -> Iterator[Idle]:
    """The keys without effect in a stage; the data need not be valid.

    >>> list(idle_keys("eval", {"rollout": {"temperature": 0.1}}))[0]
    (('rollout', 'temperature'), 'has no effect in a stage of kind eval: set eval.temperature', ())
    """
    why = f"has no effect in a stage of kind {kind}"
    for section, value in data.items():
        if section not in STAGES[kind].model_fields:
            if any(section in schema.model_fields for schema in STAGES.values()):
                yield (section,), why, ()
            continue
        known = {field for other in STAGES for field in fields_at(STAGES[other], (section,))}
        for key in value if isinstance(value, dict) else ():
            instead = _INSTEAD.get((kind, section, key))
            if (key in known and key not in fields_at(STAGES[kind], (section,))) or instead:
                yield (section, key), f"{why}: {instead}" if instead else why, ()
    rewards = data.get("rewards")
    for index, reward in enumerate(rewards if kind == "eval" and isinstance(rewards, list) else ()):
        if isinstance(reward, dict):
            yield ("rewards", index, "weight"), f"{why}, which does not add rewards", ()
    yield from _by_other_keys(kind, data)


def _by_other_keys(kind: str, data: dict) -> Iterator[Idle]:
    """Keys that have no effect because of other keys of the stage."""

    def given(section: str, key: str, default: object = None) -> object:
        held = data.get(section)
        value = held.get(key) if isinstance(held, dict) else None
        return default if value is None else value

    generates = "rollout" in STAGES[kind].model_fields
    engine, path, template = given("rollout", "engine", "auto"), given("model", "path"), given("prompt", "template")
    server = generates and engine == "server" and not STAGES[kind].on_policy
    scratch = isinstance(path, str) and path.startswith("scratch:")
    by_engine, by_path = ("rollout", "engine"), ("model", "path")
    with_engine = f"has no effect with rollout.engine: {engine}"
    if generates and not server and not STAGES[kind].on_policy:
        yield from ((("rollout", key), "has no effect without rollout.engine: server", by_engine) for key in _SERVER)
    if server or engine == "transformers":
        yield from ((("rollout", key), with_engine, by_engine) for key in _VLLM)
    if server:
        why = f"{with_engine}: a list of servers in rollout.url shares the requests"
        yield from ((("launch", key), why, by_engine) for key in ("gpus", "nodes"))
    if STAGES[kind].on_policy:
        starts = given("launch", "rollout") == "server"
        if not starts:
            yield ("launch", "rollout_gpus"), "has no effect without launch.rollout: server", ("launch", "rollout")
        if not starts and given("rollout", "url") is None:
            why = "has no effect without servers, of launch.rollout: server or rollout.url"
            yield ("rollout", "sync_folder"), why, ("launch", "rollout")
    held = data.get("train")
    train = held if isinstance(held, dict) else {}
    why = "has no effect: training does not use it for evaluation"
    yield from ((("train", key), why, ()) for key in _TRL_EVAL if key in train)
    if engine == "transformers":
        used = _CORRECTION if given("rollout", "async") is not None else ()
        yield from ((("train", key), with_engine, by_engine) for key in train if key in _VLLM_TRAIN.difference(used))
    if given("model", "lora") is not None:
        yield (
            ("train", "master_weights"),
            "has no effect with model.lora, whose adapters are float32",
            ("model", "lora"),
        )
    if server:
        yield from ((("model", key), with_engine, by_engine) for key in (*_LOADING, "dtype"))
    if scratch:
        why = "has no effect on a model that starts from random weights"
        yield from ((("model", key), why, by_path) for key in _LOADING)
    elif isinstance(path, str) and (path.startswith(("embedded:", "@")) or os.path.isdir(os.path.expanduser(path))):
        yield ("model", "revision"), "has no effect on a model that is not from the Hub", by_path
    if server or kind == "eval" or scratch:
        who = "in an evaluation" if kind == "eval" else "with a server" if server else "with a model of random weights"
        decider = () if kind == "eval" else by_engine if server else by_path
        yield ("data", "max_tokens"), f"has no effect {who}, where rows are not tokenized", decider
    if engine == "vllm" and kind in ("eval", "sample"):
        yield ("model", "attn_implementation"), f"{with_engine}, which has its own attention", by_engine
    if given("prompt", "text") is not None:
        why = "has no effect with prompt.text: write it into the text"
        yield ("prompt", "system"), why, ("prompt", "text")
    elif (template is None or template in prompts.PLAIN) and not server:
        why = f"has no effect with prompt.template: {template or 'none'}: set prompt.template: chat"
        yield ("prompt", "system"), why, ("prompt", "template")
    which = data.get("keep") if isinstance(data.get("keep"), str) else given("keep", "which")
    if which in ("best", "pairs"):
        why = f"has no effect with keep.which: {which}, which keeps one per prompt"
        yield ("keep", "per_prompt"), why, ("keep", "which")
    if STAGES[kind].on_policy and given("eval", "every") is None:
        yield ("eval",), f"has no effect in a stage of kind {kind} without eval.every", ("eval", "every")
    if kind == "eval" and _unused_data(data):
        why = "has no effect with eval.tasks, which decide what is evaluated: remove it, or name it in eval.tasks"
        yield ("data",), why, ("eval", "tasks")


def _unused_data(data: dict) -> bool:
    """Whether an eval stage has `data` and `eval.tasks` that do not name its builder."""
    section, evaluation = data.get("data"), data.get("eval")
    tasks = evaluation.get("tasks") if isinstance(evaluation, dict) else None
    if not isinstance(section, dict) or not isinstance(tasks, list) or not tasks:
        return False
    return section.get("builder", "rows") not in tasks


def without_idle(document: Document, stages: list[tuple[Keys, str, dict]]) -> tuple[list[dict], Problems]:
    """The data of stages without their idle keys, and the problems for those that no stage uses.

    Args:
        document: Where each key was written. A key that was not written, but set by `--tiny`, is dropped silently.
        stages: For each stage the keys that lead to it, its kind, and its data with the shared sections.
    """
    cleaned, idle, used = [], {}, set()
    replaced = document.places.get(("stages",)) == COMMAND_LINE  # as `r1lab eval` does, which keeps the sections
    for keys, kind, data in stages:
        found = list(idle_keys(kind, data))
        reasons = {tail: why for tail, why, _ in found}
        deciders = {tail: document.places.get(document.origin((*keys, *by))) for tail, _, by in found if by}
        for tail in _tails(data):
            if tail[:1] in reasons and len(tail) > 1:
                continue
            origin = document.origin((*keys, *tail))
            # The same place and name are the same text: a shared section, or an anchor that several stages repeat.
            written = (place, _) = (document.places.get(origin), tail)
            if tail not in reasons:
                used.add(written)
            elif place and not _is_default(kind, tail, data) and not (replaced and place != COMMAND_LINE):
                if _source(deciders.get(tail) or place) == _source(place):
                    idle.setdefault(written, (origin, reasons[tail]))
        cleaned.append(_without(data, reasons))
    left = {written: problem for written, problem in idle.items() if written not in used}
    # The recipe of a run may be from an earlier version, which accepted such keys.
    saved = {written: problem for written, problem in left.items() if directory.is_saved(_source(written[0]))}
    for file in dict.fromkeys(_source(place) for place, _ in saved):
        names = [".".join(map(str, keys)) for (place, _), (keys, _) in saved.items() if _source(place) == file]
        _log.warning("%s: ignored because it has no effect: %s", file, ", ".join(names))
    return cleaned, [problem for written, problem in left.items() if written not in saved]


def effective(kind: str, data: dict) -> dict:
    """The data of a stage without its idle keys.

    >>> effective("eval", {"prompt": {"template": "r1-zero", "system": "Be brief."}})
    {'prompt': {'template': 'r1-zero'}}
    """
    return _without(data, {keys for keys, _, _ in idle_keys(kind, data)})


def _source(place: str) -> str:
    """The file of `file:line`."""
    return place.rpartition(":")[0] or place


def _tails(data: dict) -> Iterator[Keys]:
    """The keys of a stage, of its sections, and of the items of lists such as `rewards`."""
    for section, value in data.items():
        yield (section,)
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            yield (section, key)
            if isinstance(value, list) and isinstance(item, dict):
                yield from ((section, key, below) for below in item)


def _without(data: dict, reasons: Container[Keys], keys: Keys = ()) -> dict:
    """A map without the keys that have a reason, at all levels."""

    def kept(value: object, at: Keys) -> object:
        if isinstance(value, dict):
            return _without(value, reasons, at)
        return [kept(item, (*at, i)) for i, item in enumerate(value)] if isinstance(value, list) else value

    return {k: kept(value, (*keys, k)) for k, value in data.items() if (*keys, k) not in reasons}


def _is_default(kind: str, tail: Keys, data: dict) -> bool:
    """Whether a key is null or has its default value, as all keys of a resolved recipe may."""
    value: Any = data  # a map or a list until the last key, as `_tails` found it
    for key in tail:
        value = value[key]
    schema = schema_at(STAGES[kind], tail[:-1])
    field = schema.model_fields.get(str(tail[-1])) if schema else None
    return value is None or (len(tail) > 1 and field is not None and value == field.default)
