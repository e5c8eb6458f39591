"""Text generation behind one interface: vLLM in process, transformers' `generate`, or an OpenAI-compatible server.

An `Engine` samples completions for each prompt with the parameters of a `Sampling`. Its `stream` yields them as they
are complete; `generate` returns those of all prompts. All engines sample from the same distribution: they follow the
`Sampling` and ignore the model's own generation config except for its end tokens
(`r1lab.models.loading.end_token_ids`).
"""

import importlib.util
import os
import shlex
import shutil
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from r1lab.errors import UserError


@dataclass
class Completion:
    """One sampled continuation of a prompt.

    Attributes:
        text: The decoded completion, without the end token.
        token_ids: Its tokens, the end token included; empty where a server does not return them.
        truncated: Whether it was truncated at `max_tokens`.
        logprobs: The log-probability of each token under the sampling distribution, if they were requested.
        versions: The version of the weights that sampled each token; only servers whose weights are synced say it.
        episode: The `r1lab.episodes.record.Episode` behind it, if it had several turns; `text` is then the last one.
    """

    text: str
    token_ids: list[int]
    truncated: bool
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    episode: Any = None


Prompt = str | list[dict]
"""A rendered text, which every engine continues, or chat messages, which only a server accepts and renders itself."""


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled; the same for every engine.

    Attributes:
        n: Completions per prompt.
        max_tokens: The maximum number of tokens in a completion.
        temperature: Logits are divided by this before sampling; 0 is greedy decoding.
        top_p: Sample only from the most probable tokens that together have this probability; 1 is all of them.
        top_k: Sample only from this number of most probable tokens; 0 is all of them.
        seed: The completions of a prompt depend on this and on the index of the prompt, and not on which prompts are
            done already. None uses the global random state. A server does not get it and uses its own random state.
        logprobs: Whether to return the log-probabilities of the tokens. Only vLLM in process does.
    """

    n: int = 1
    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    logprobs: bool = False


class Stream(Protocol):
    """Completions that are generated at the same time, and to which further ones are added at any time."""

    def add(self, key: int, ids: list[int], max_tokens: int, seed: int | None = None) -> None:
        """Requests a completion of at most `max_tokens` for the tokens `ids`.

        Args:
            key: Names the completion. A key may be used again when its completion is complete; its tokens then begin
                with those of the earlier request and its completion.
            seed: What the completion depends on, besides `ids`; None uses the global random state.
        """
        ...

    def step(self) -> list[tuple[int, Completion]]:
        """Generates a token of each, or waits for servers to do so, and returns those that are complete now."""
        ...

    @property
    def running(self) -> int:
        """The number of completions that are not complete."""
        ...

    @property
    def waits(self) -> bool:
        """Whether a complete one is only continued cheaply if that is requested before the next step."""
        ...

    def close(self) -> None:
        """Ends the completions that are not complete."""
        ...


class Engine(Protocol):
    """Generates completions."""

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the completions has to know about how they were generated."""
        ...

    def together(self, n: int) -> int:
        """The number of adjacent prompts that share a seed, if each gets `n` completions.

        If one of them is generated, all of them are, so workers share a list of prompts in chunks of this size.
        """
        ...

    def stream(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, done: Collection[int] = frozenset()
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yields the completions of each prompt as soon as all of them are complete.

        Args:
            done: Indices of prompts that need no completions.

        Yields:
            `(i, completions)` of `prompts[i]`, in any order.
        """
        ...


@runtime_checkable
class EpisodeEngine(Engine, Protocol):
    """An engine that continues tokens: in this process, or rollout servers."""

    @property
    def context(self) -> int | None:
        """The maximum number of tokens in a prompt and its completion together, if there is one."""
        ...

    def open(self, sampling: Sampling, stop: Sequence[int] = ()) -> Stream:
        """Returns a stream of completions, of which those with a token of `stop` end with it.

        Args:
            sampling: `n`, `max_tokens` and `seed` are not used: each completion has its own.
        """
        ...


def generate(engine: Engine, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
    """Returns the completions of all prompts, in the order of the prompts."""
    groups: list[list[Completion]] = [[]] * len(prompts)
    for i, group in engine.stream(prompts, sampling):
        groups[i] = group
    return groups


def rendered(prompts: Sequence[Prompt]) -> list[str]:
    """Returns the prompts as texts, for an engine in this process.

    Raises:
        TypeError: A prompt is a list of chat messages.
    """
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(texts) < len(prompts):
        raise TypeError("only a server accepts chat messages: render them with r1lab.models.prompts.render")
    return texts


def seed_of(seed: int, index: int) -> int:
    """Returns a seed for the prompt, or the batch, at an index; the seeds of different indices are independent."""
    return zlib.crc32(f"{seed}/{index}".encode())


def choose(engine: str) -> str:
    """Returns the engine for a recipe's `rollout.engine` on this machine: `auto` is vLLM if it is installed."""
    if engine != "auto":
        return engine
    return "transformers" if importlib.util.find_spec("vllm") is None else "vllm"


def description(engine: str) -> str:
    """Describes the engine for a recipe's `rollout.engine`, as progress messages show it.

    >>> description("transformers")
    "transformers' generate"
    """
    chosen = choose(engine)
    if chosen == "vllm":
        return "vLLM"
    if chosen == "server":
        return "the server"
    why = ", because vLLM is not installed (slower)" if engine == "auto" else ""
    return f"transformers' generate{why}"


def missing(engine: str) -> tuple[str, str] | None:
    """Returns what an engine needs that this machine lacks, and the fix; None if the engine can start.

    On a CPU, vLLM compiles each model with a C++ compiler; without one it fails minutes after its start.
    """
    import torch

    if choose(engine) != "vllm" or torch.cuda.is_available():
        return None
    name = os.environ.get("CXX") or "g++"
    if shutil.which(shlex.split(name)[0]):
        return None
    return f"vLLM compiles models for a CPU with {name}, which is not installed", (
        "apt-get install g++, or set rollout.engine: transformers"
    )


def require(engine: str) -> None:
    """Raises a UserError if an engine cannot start on this machine."""
    if problem := missing(engine):
        raise UserError(f"rollout.engine: {problem[0]}: {problem[1]}")


def check_prompt_length(tokens: int, limit: int) -> None:
    """Checks that a prompt leaves room for a completion, if both together are limited to `limit` tokens.

    Raises:
        UserError: It leaves none.
    """
    if tokens >= limit:
        what = f"rollout.max_model_length: {limit}: a prompt of {tokens} tokens leaves no room for a completion"
        raise UserError(f"{what}: raise it if the model's context is longer, or filter out such rows", status=1)


def load(
    path: str,
    *,
    engine: str = "auto",
    dtype: str = "auto",
    max_model_length: int | None = None,
    gpu_memory_utilization: float = 0.9,
    tensor_parallel: int = 1,
    seed: int = 0,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    options: dict | None = None,
) -> Engine:
    """Returns an engine for a model.

    Args:
        max_model_length: The maximum number of tokens in a prompt and its completion together. Default: the model's
            context length.
        gpu_memory_utilization: vLLM's share of a GPU's memory.
        tensor_parallel: The number of GPUs that vLLM splits the model over; transformers has no such split.
        attn_implementation: transformers' attention kernel; vLLM has its own.
        options: Override the engine's own arguments; see `r1lab.engines.options`.
    """
    require(engine)
    if choose(engine) == "vllm":
        from r1lab.engines.vllm import VLLMEngine, start

        llm = start(
            path,
            dtype=dtype,
            max_model_length=max_model_length,
            gpu_memory_utilization=gpu_memory_utilization,
            tensor_parallel=tensor_parallel,
            seed=seed,
            revision=revision,
            trust_remote_code=trust_remote_code,
            options=options,
        )
        return VLLMEngine(llm)
    if tensor_parallel > 1:
        what = f"{tensor_parallel}: only vLLM splits a model over GPUs, and the engine here is transformers"
        raise UserError(f"rollout.tensor_parallel: {what}: install vLLM, or remove it")
    import torch

    from r1lab.engines.transformers import TransformersEngine
    from r1lab.models.loading import load_model, load_tokenizer

    settings = {"revision": revision, "trust_remote_code": trust_remote_code}
    model = load_model(path, dtype=dtype, attn_implementation=attn_implementation, **settings).eval()
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TransformersEngine(
        model.to(device),  # pyright: ignore[reportArgumentType]  transformers' decorator hides that it is a method
        load_tokenizer(path, **settings),
        max_length=max_model_length,
        options=options,
    )


def connect(
    url: str | Sequence[str],
    model: str,
    *,
    max_concurrent: int = 32,
    requests_per_minute: int | None = None,
    max_failed: float = 0.0,
    options: dict | None = None,
) -> Engine:
    """Returns an engine for OpenAI-compatible servers, after checking that each answers and serves the model.

    Args:
        url: The address of a server, or of several ones that share the requests.
        max_failed: The share of the prompts that may fail.
        options: Further fields for the body of each request.
    """
    from r1lab.engines.address import models_served
    from r1lab.engines.server import ServerEngine

    for one in [url] if isinstance(url, str) else url:
        models_served(one, model)
    return ServerEngine(
        url,
        model,
        max_concurrent=max_concurrent,
        requests_per_minute=requests_per_minute,
        max_failed=max_failed,
        extra_body=options,
    )
