"""Text generation behind one interface: vLLM in process, transformers' `generate`, or an OpenAI-compatible server.

An `Engine` generates completions for each prompt, drawn as a `Sampling` says. Its `stream` yields them as they are
complete; `generate` returns those of all prompts. Whatever the engine, the text is the same: sampling follows the
`Sampling` alone, never the model's own generation config, of which only the end tokens count
(`r1lab.models.loading.end_token_ids`).
"""

import importlib.util
import os
import shlex
import shutil
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from r1lab.errors import UserError


@dataclass
class Completion:
    """One sampled continuation of a prompt.

    Attributes:
        text: The decoded completion, without the end token.
        token_ids: Its tokens, the end token included; empty where a server does not return them.
        truncated: Whether it was truncated at `max_tokens`.
        logprobs: The log-probability of each token under the sampling distribution, where they were asked for.
    """

    text: str
    token_ids: list[int]
    truncated: bool
    logprobs: list[float] = field(default_factory=list)


Prompt = str | list[dict]
"""A rendered text, which every engine continues, or chat messages, which only a server takes and renders itself."""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn; the same for every engine.

    Attributes:
        n: Completions for each prompt.
        max_tokens: The most tokens of a completion.
        temperature: What logits are divided by before the draw; 0 is greedy decoding.
        top_p: Draw only from the most probable tokens that together have this probability; 1 is all of them.
        top_k: Draw only from so many of the most probable tokens; 0 is all of them.
        seed: What is drawn for a prompt depends on this and on the prompt's place in the list, and not on what is
            done already; None leaves it to the random state. A server is not sent it: it draws from a random state of
            its own.
        logprobs: Whether to return the log-probabilities of the tokens, which only vLLM in process does.
    """

    n: int = 1
    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    logprobs: bool = False


class Engine(Protocol):
    """What generates completions."""

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the completions has to know of how they came about."""
        ...

    def stream(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, done: Collection[int] = frozenset()
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Each prompt's completions as soon as they are complete.

        Args:
            done: Places of prompts that need no completions.

        Yields:
            `(i, completions)` of `prompts[i]`, in any order.
        """
        ...


def generate(engine: Engine, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
    """The completions of all prompts, in their order."""
    groups: list[list[Completion]] = [[]] * len(prompts)
    for i, group in engine.stream(prompts, sampling):
        groups[i] = group
    return groups


def rendered(prompts: Sequence[Prompt]) -> list[str]:
    """The prompts of an engine in this process, which continues texts.

    Raises:
        TypeError: One is a list of chat messages.
    """
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(texts) < len(prompts):
        raise TypeError("chat messages are for a server: render them with r1lab.models.prompts.render")
    return texts


def seed_of(seed: int, place: int) -> int:
    """A seed for the prompt, or the batch, at a place in the list, independent of those of its neighbors."""
    return zlib.crc32(f"{seed}/{place}".encode())


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


def missing(engine: str) -> tuple[str, str] | None:
    """What an engine needs and this machine lacks, and what to do; None if it can start.

    On a CPU vLLM compiles each model with a C++ compiler, and fails minutes after its start where there is none.
    """
    import torch

    if choose(engine) != "vllm" or torch.cuda.is_available():
        return None
    name = os.environ.get("CXX") or "g++"
    if shutil.which(shlex.split(name)[0]):
        return None
    return f"vLLM compiles models for a CPU with {name}, which is not here", (
        "apt-get install g++, or set rollout.engine: transformers"
    )


def require(engine: str) -> None:
    """Raises a UserError where an engine cannot start on this machine."""
    if problem := missing(engine):
        raise UserError(f"rollout.engine: {problem[0]}: {problem[1]}")


def check_room(prompt: int, most: int) -> None:
    """Whether a completion has room after a prompt of so many tokens, where the two may have `most` together.

    Raises:
        UserError: It has none.
    """
    if prompt >= most:
        what = f"rollout.max_model_length: {most}: a prompt of {prompt} tokens leaves no room for a completion"
        raise UserError(f"{what}: set a higher one if the model reads more, or leave such rows out", status=1)


def load(
    path: str,
    *,
    engine: str = "auto",
    dtype: str = "auto",
    max_model_length: int | None = None,
    gpu_memory_utilization: float = 0.9,
    seed: int = 0,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    options: dict | None = None,
) -> Engine:
    """An engine for a model.

    Args:
        max_model_length: The most tokens of a prompt and its completion together. Default: what the model reads.
        gpu_memory_utilization: vLLM's share of a GPU's memory.
        attn_implementation: transformers' attention kernel; vLLM has its own.
        options: Laid over the engine's own arguments; see `r1lab.engines.options`.
    """
    require(engine)
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
            options=options,
        )
        return VLLMEngine(llm)
    import torch

    from r1lab.engines.transformers import TransformersEngine
    from r1lab.models.loading import load_model, load_tokenizer

    settings = {"revision": revision, "trust_remote_code": trust_remote_code}
    model = load_model(path, dtype=dtype, attn_implementation=attn_implementation, **settings).eval()
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TransformersEngine(
        model.to(device),  # pyright: ignore[reportArgumentType]  transformers decorates it as no method
        load_tokenizer(path, **settings),
        max_length=max_model_length,
        options=options,
    )


def connect(
    url: str,
    model: str,
    *,
    max_concurrent: int = 32,
    requests_per_minute: int | None = None,
    max_failed: float = 0.0,
    options: dict | None = None,
) -> Engine:
    """An engine that asks an OpenAI-compatible server, which is there and knows the model.

    Args:
        max_failed: The share of the prompts that may go without completions.
        options: More fields for the body of each request.
    """
    from r1lab.engines.address import models_served
    from r1lab.engines.server import ServerEngine

    models_served(url, model)
    return ServerEngine(
        url,
        model,
        max_concurrent=max_concurrent,
        requests_per_minute=requests_per_minute,
        max_failed=max_failed,
        extra_body=options,
    )
