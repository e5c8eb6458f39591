"""`rollout.options`: what a recipe lays over an engine's own arguments, and which of them there are."""

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
        "logprobs_mode": "r1lab decides it: training compares these log-probabilities with the policy's",
    },
    "transformers": _SAMPLED
    | {
        "do_sample": "the temperature decides it",
        "num_return_sequences": _NUMBER,
        "max_new_tokens": _LENGTH,
        "max_length": "set `rollout.max_model_length` instead",
        "eos_token_id": "the tokenizer and the model decide it",
        "pad_token_id": "the tokenizer decides it",
    },
    "server": _SAMPLED
    | {
        "model": "set `model.path` instead",
        "n": _NUMBER,
        "max_tokens": _LENGTH,
        "max_completion_tokens": _LENGTH,
        "prompt": "set the section `prompt` instead",
        "messages": "set the section `prompt` instead",
        "stream": "answers are read as wholes",
    },
}
"""Arguments that have a key of their own in a recipe, by engine, and what to do instead."""


def problems(engine: str, options: dict) -> list[tuple[str, str]]:
    """What is wrong with `rollout.options` for a recipe's `rollout.engine`: the option, and a line that says why.

    What a server knows only the server can say.
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
    """The arguments of an engine; None where they are not known here."""
    if engine == "transformers":
        from transformers import GenerationConfig

        return sorted(name for name in vars(GenerationConfig()) if not name.startswith("_"))
    spec = importlib.util.find_spec("vllm") if engine == "vllm" else None
    if spec is None or not spec.submodule_search_locations:
        return None
    # The fields of a dataclass, read from its source: to import vLLM takes seconds, and may not work on this machine.
    source = Path(spec.submodule_search_locations[0]) / "engine" / "arg_utils.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    arguments = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "EngineArgs")
    return sorted(
        node.target.id
        for node in arguments.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    )
