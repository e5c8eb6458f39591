"""`rollout.options`: overrides of an engine's own arguments, and which arguments an engine has."""

import ast
import importlib.util
from functools import cache
from pathlib import Path

from r1lab import engines
from r1lab.text import did_you_mean

_SAMPLED = {
    "temperature": "set `temperature` of rollout or eval instead",
    "top_p": "set `rollout.top_p` instead",
    "top_k": "set `rollout.top_k` instead",
}
_NUMBER = "set `rollout.num_generations` or `eval.num_samples` instead"
_LENGTH = "set `rollout.max_completion_length` instead"
ELSEWHERE = {
    "vllm": {
        "model": "set `model.path` instead",
        "revision": "set `model.revision` instead",
        "dtype": "set `model.dtype` instead",
        "trust_remote_code": "set `model.trust_remote_code` instead",
        "max_model_len": "set `rollout.max_model_length` instead",
        "gpu_memory_utilization": "set `rollout.gpu_memory_utilization` instead",
        "seed": "set `seed` at the top of the recipe instead",
        "logprobs_mode": "r1lab sets it: training compares these log-probabilities with the policy's",
    },
    "transformers": _SAMPLED
    | {
        "do_sample": "it follows from the temperature",
        "num_return_sequences": _NUMBER,
        "max_new_tokens": _LENGTH,
        "max_length": "set `rollout.max_model_length` instead",
        "eos_token_id": "it comes from the tokenizer and the model",
        "pad_token_id": "it comes from the tokenizer",
    },
    "server": _SAMPLED
    | {
        "model": "set `model.path` instead",
        "n": _NUMBER,
        "max_tokens": _LENGTH,
        "max_completion_tokens": _LENGTH,
        "prompt": "set the section `prompt` instead",
        "messages": "set the section `prompt` instead",
        "stream": "responses are not streamed",
    },
}
"""Arguments that have their own key in a recipe, by engine, and what to do instead."""


def problems(engine: str, options: dict) -> list[tuple[str, str]]:
    """Returns the invalid options of `rollout.options` for a recipe's `rollout.engine`, each with the reason.

    The fields that a server accepts are not known here.
    """
    chosen = engines.choose(engine)
    known = names(chosen) if options else None
    found = []
    for option in options:
        if instead := ELSEWHERE[chosen].get(option):
            found.append((option, f"not set here: {instead}"))
        elif known and option not in known:
            hint = did_you_mean(option, [name for name in known if name not in ELSEWHERE[chosen]])
            what = {"vllm": "vLLM's EngineArgs have", "transformers": "transformers' GenerationConfig has"}[chosen]
            found.append((option, f"unknown option{hint or f': {what} no such field'}"))
    return found


@cache
def names(engine: str) -> list[str] | None:
    """Returns the arguments of an engine; None if they are not known."""
    if engine == "transformers":
        from transformers import GenerationConfig

        return sorted(name for name in vars(GenerationConfig()) if not name.startswith("_"))
    spec = importlib.util.find_spec("vllm") if engine == "vllm" else None
    if spec is None or not spec.submodule_search_locations:
        return None
    # Read from the source of the dataclass, because importing vLLM takes seconds and may fail on this machine.
    source = Path(spec.submodule_search_locations[0]) / "engine" / "arg_utils.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    arguments = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "EngineArgs")
    return sorted(
        node.target.id
        for node in arguments.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    )
