"""vLLM servers of a fleet as an engine, and in TRL's trainer with the weights synced with the policy."""

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, as_completed, wait
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from r1lab import ranks
from r1lab.engines import Completion, Engine, Prompt, Sampling, check_prompt_length, rendered, seed_of
from r1lab.engines.fleet import Fleet, NoServer, Sampled
from r1lab.engines.sync import WeightSync, adapter_name
from r1lab.engines.vllm import SyncedVLLM
from r1lab.errors import UserError
from r1lab.models.lora import adapter

_MOMENT = 0.02  # seconds after which an environment that has replied meanwhile is heard


def generation(served: dict[str, Any] | None, **settings) -> Callable[..., SyncedVLLM]:
    """Returns what has the place of TRL's `VLLMGeneration`: vLLM in this process, or with `served` on servers.

    Args:
        served: The arguments of `ServedVLLM` besides TRL's and those of `SyncedVLLM`, which are `settings`.
    """
    return partial(ServedVLLM, **served, **settings) if served else partial(SyncedVLLM, **settings)


class ServedVLLM(SyncedVLLM):
    """Has the place of TRL's colocated vLLM; the generation runs on servers that other processes have started.

    Each has to be started as `r1lab.engines.processes` does, with the dtype of the policy.

    Args:
        servers: Their addresses.
        sync_folder: A folder that all servers can read; default: /dev/shm.
        timeout: Seconds for each request.
        adapters: Whether they have the base of a LoRA policy and `enable_lora`, and get its adapter alone.
        beat: Called at each reply of a server, and when one is given up.

    Attributes:
        version: The version of the weights that the servers have; 0 before the first sync.
        before_sync: Called before each sync by rank 0, for which the others wait.
        after_sync: Called after each sync with the new version.
    """

    def __init__(
        self,
        *args,
        servers: Sequence[str],
        sync_folder: Path | None = None,
        timeout: float = 600.0,
        adapters: bool = False,
        beat: Callable[[], None] = lambda: None,
        **kwargs,
    ):
        self.servers, self.sync_folder, self.timeout, self.beat = servers, sync_folder, timeout, beat
        self.version, self.adapters = 0, adapters
        self._heard: Callable[[int, list[int]], None] | None = None
        self.before_sync: Callable[[], None] = lambda: None
        self.after_sync: Callable[[int], None] = lambda version: None
        super().__init__(*args, **kwargs)

    def _init_vllm(self):
        if not self.servers:
            raise UserError("there is no server to generate on: give the address of at least one")
        main = self.accelerator.is_main_process
        self.fleet = Fleet(self.servers, timeout=self.timeout, beat=self.beat)
        self.weight_sync = WeightSync(self.servers, folder=self.sync_folder, timeout=self.timeout, main=main)
        self.accelerator.wait_for_everyone()

    def sync_weights(self):
        """Sends the policy's weights to all servers; those that fail are left out until the next sync.

        Raises:
            NoServer: All failed.
        """
        ranks.from_main(self.before_sync)
        self.version += 1
        with self.fleet.paused():
            self.accelerator.wait_for_everyone()  # all ranks have paused
            main = self.accelerator.is_main_process
            absent = self.fleet.absent() if main else {}
            config, weights = adapter(self.model) if self.adapters else (None, self._iter_named_params())
            synced = self.weight_sync.send(self.version, weights, adapter=config, absent=absent)
            (failed,) = broadcast_object_list([synced.failed], from_process=0)
            self.fleet.synced(self.version, failed, adapter_name(self.version) if self.adapters else None)
            self.after_sync(self.version)
            self.beat()
        if len(failed) == len(self.fleet.urls):
            raise NoServer("no server took the weights", failed)
        if main:
            for url in failed.keys() - absent:
                print(f"warning: {url}: it did not take the weights: {failed[url]}; it is left out", flush=True)

    def engine(self) -> Engine:
        """Returns the engine with the weights of the last sync."""
        return FleetEngine(self.fleet, self.processing_class, self.max_model_length)

    @contextmanager
    def awake(self, *, stale: bool):
        """A context in which the servers can generate; see `SyncedVLLM`."""
        if stale:
            self.sync_weights()
        yield

    @contextmanager
    def watched(self, finished):
        """A context in which `finished(i, token_ids)` is called for each prompt as soon as its group is complete."""
        self._heard = finished
        try:
            yield
        finally:
            self._heard = None

    def generate(self, prompts: list[list[int]], images, num_generations: int, profiler=None) -> tuple:
        """Like TRL's, for the prompts of this rank; a run of equal prompts is one request.

        Returns:
            The prompts, the completions, (N, length, 1) log-probabilities and their (N, length, 1) token ids.
        """
        if images is not None:
            raise UserError("vLLM servers get token ids: prompts with images need vLLM in the trainer's process")
        groups = [(ids, len(list(same))) for ids, same in groupby(prompts)]
        first, starts = 0, []
        for _, n in groups:
            starts.append(first)
            first += n

        def finished(i: int, group: list[Sampled]) -> None:
            if self._heard is not None:
                for j, sampled in enumerate(group):
                    self._heard(starts[i] + j, sampled.token_ids)

        with profiler or nullcontext():
            completed = self.fleet.complete(groups, self.settings(), finished=finished)
        sampled = [one for group in completed for one in group]
        ids = [one.token_ids for one in sampled]
        logprobs = [[[value] for value in one.logprobs] for one in sampled]
        return prompts, ids, logprobs, [[[token] for token in tokens] for tokens in ids]

    def close(self) -> None:
        """Ends the requests, and removes the folder of the weights."""
        self.fleet.close()
        self.weight_sync.close()

    def settings(self) -> dict[str, Any]:
        """Returns the fields of vLLM's completion request for TRL's sampling parameters."""
        found = {
            "repetition_penalty": self.repetition_penalty,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p or 0.0,
            "max_tokens": self.max_completion_length,
        }
        found |= {name: value for name, value in self.generation_kwargs.items() if name not in ("detokenize", "n")}
        if self.structured_outputs_regex is not None:
            found["structured_outputs"] = {"regex": self.structured_outputs_regex}
        return found


class FleetEngine:
    """Generation on the servers of a fleet, with the weights that they have: an `r1lab.engines.Engine`.

    Args:
        tokenizer: The model's.
        max_length: The maximum number of tokens in a prompt and its completion together; None if it is not known.
    """

    notes: Sequence[str] = ()

    def __init__(self, fleet: Fleet, tokenizer, max_length: int | None = None):
        self.fleet, self.tokenizer, self.max_length = fleet, tokenizer, max_length

    def together(self, n: int) -> int:
        """See `Engine`: each prompt has its own seed."""
        return 1

    def stream(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, done: Collection[int] = frozenset()
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `Engine`. Which server draws for a prompt makes no difference to its completions."""
        texts, futures = rendered(prompts), {}
        try:
            for i in range(len(texts)):
                if i in done:
                    continue
                ids = self.tokenizer(texts[i], add_special_tokens=False)["input_ids"]
                settings = fields(sampling)
                if self.max_length is not None:
                    check_prompt_length(len(ids), self.max_length)
                    settings["max_tokens"] = min(sampling.max_tokens, self.max_length - len(ids))
                seed = None if sampling.seed is None else seed_of(sampling.seed, i)
                futures[self.fleet.submit(ids, sampling.n, settings, seed)] = i
            for future in as_completed(futures):
                yield futures[future], [self.completion(one, sampling.logprobs) for one in future.result()]
        finally:
            for future in futures:
                future.cancel()

    @property
    def context(self) -> int | None:
        """See `EpisodeEngine`."""
        return self.max_length

    def open(self, sampling: Sampling, stop: Sequence[int] = ()) -> "FleetStream":
        """See `EpisodeEngine`."""
        return FleetStream(self, sampling, stop)

    def completion(self, sampled: Sampled, logprobs: bool) -> Completion:
        """Returns what a server sampled as a completion."""
        ended, ids = sampled.finish == "stop", sampled.token_ids
        text = self.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
        return Completion(text, ids, not ended, sampled.logprobs if logprobs else [], sampled.versions)


class FleetStream:
    """An `r1lab.engines.Stream` on servers. The next turn of an episode may go to another one than the last."""

    waits = False

    def __init__(self, engine: FleetEngine, sampling: Sampling, stop: Sequence[int]):
        self.engine, self.sampling, self.stop = engine, sampling, list(stop)
        self._keys: dict[Future[list[Sampled]], int] = {}

    @property
    def running(self) -> int:
        """See `Stream`."""
        return len(self._keys)

    def add(self, key: int, ids: list[int], max_tokens: int, seed: int | None = None) -> None:
        """See `Stream`."""
        settings = fields(self.sampling) | {"max_tokens": max_tokens, "stop_token_ids": self.stop}
        self._keys[self.engine.fleet.submit(ids, 1, settings, seed)] = key

    def step(self) -> list[tuple[int, Completion]]:
        """See `Stream`; returns after a moment if none is complete.

        Raises:
            UserError: No server is left, or one refuses a request.
        """
        done, _ = wait(self._keys, timeout=_MOMENT, return_when=FIRST_COMPLETED)
        found = [(self._keys.pop(future), future.result()[0]) for future in done]
        return [(key, self.engine.completion(one, self.sampling.logprobs)) for key, one in found]

    def close(self) -> None:
        """See `Stream`."""
        for future in self._keys:
            future.cancel()
        self._keys.clear()


def fields(sampling: Sampling) -> dict[str, Any]:
    """Returns the fields of vLLM's completion request for a `Sampling`, without its seed and `n`."""
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        # vLLM would otherwise take these from the model's generation config.
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
