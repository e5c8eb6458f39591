"""Text generation behind one interface: vLLM in process, transformers' `generate`, or an OpenAI-compatible server.

An engine has one method, `generate(prompts, ...)`, which returns for each prompt a list of `n` `Completion`s.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Completion:
    """One sampled continuation of a prompt.

    Attributes:
        text: The decoded completion, without the end-of-turn token.
        token_ids: Its tokens, the end-of-turn token included; empty where a server does not give them.
        logprobs: The log-probability of each token under the sampling distribution; empty from a server.
        truncated: Whether it was cut at `max_tokens`.
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    truncated: bool


def choose(engine: str) -> str:
    """The engine that a recipe's `rollout.engine` stands for on this machine: `auto` is vLLM where it is installed."""
    if engine != "auto":
        return engine
    return "transformers" if importlib.util.find_spec("vllm") is None else "vllm"


def told(engine: str) -> str:
    """What is started for a recipe's `rollout.engine`, for the person who waits.

    >>> told("transformers")
    "transformers' generate"
    """
    chosen = choose(engine)
    if chosen == "vllm":
        return "vLLM"
    if chosen == "server":
        return "the server"
    why = ", since vLLM is not installed (slower)" if engine == "auto" else ""
    return f"transformers' generate{why}"


def load(
    path: str,
    *,
    engine: str = "auto",
    dtype: str = "auto",
    max_model_length: int | None = None,
    gpu_memory_utilization: float = 0.9,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
):
    """An engine for a model: `.generate(prompts, n=, max_tokens=, temperature=, ...)`."""
    if choose(engine) == "vllm":
        from r1lab.engines.vllm import VLLMEngine, start

        llm = start(
            path,
            dtype=dtype,
            max_model_length=max_model_length,
            gpu_memory_utilization=gpu_memory_utilization,
            seed=seed,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        return VLLMEngine(llm)
    import torch

    from r1lab.engines.transformers import TransformersEngine
    from r1lab.models import load_model, load_tokenizer

    model = load_model(path, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code).eval()
    torch.manual_seed(seed)
    return TransformersEngine(
        model.to("cuda" if torch.cuda.is_available() else "cpu"),
        load_tokenizer(path, revision=revision, trust_remote_code=trust_remote_code),
    )


def connect(url: str, model: str, *, max_concurrent: int = 32, requests_per_minute: int | None = None):
    """An engine that asks an OpenAI-compatible server, which is there and knows the model."""
    from r1lab.engines.server import ServerEngine, check

    check(url, model)
    return ServerEngine(url, model, max_concurrent=max_concurrent, requests_per_minute=requests_per_minute)


Progress = Callable[[int, int, int], None]
"""Called with the prompts done, all prompts, and the tokens written so far."""
