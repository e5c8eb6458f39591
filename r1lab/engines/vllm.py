"""vLLM in process; in TRL's trainer, its weights are synced with the policy."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice

import torch

from r1lab.engines import Completion, Engine, Prompt, Sampling, check_prompt_length, rendered, seed_of
from r1lab.engines.worker import reload
from r1lab.models.loading import resolve, torch_dtype
from r1lab.models.lora import merged_weights
from r1lab.models.patched import with_names

# vLLM reads these when it is imported. One process starts faster, needs less memory, and can be given new weights.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; vLLM's default is half of the machine's memory
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
if not torch.cuda.is_available():
    # On a CPU, vLLM 0.31 saves its ahead-of-time compilation, cannot load it ("'function' object has no attribute
    # 'finalize_loading'"), and compiles again at every start; inductor's own cache does work.
    os.environ.setdefault("VLLM_USE_AOT_COMPILE", "0")

from accelerate.utils import is_peft_model  # noqa: E402
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled  # noqa: E402
from trl.generation import vllm_generation  # noqa: E402
from vllm import LLM, RequestOutput, SamplingParams  # noqa: E402
from vllm.sampling_params import RequestOutputKind  # noqa: E402

WINDOW = 2048  # sequences in vLLM at a time, running or waiting: twice the maximum that it runs by default


def start(
    path: str,
    *,
    dtype: str = "auto",
    max_model_length: int | None = None,
    gpu_memory_utilization: float = 0.9,
    tensor_parallel: int = 1,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
    options: dict | None = None,
) -> LLM:
    """Returns a vLLM instance in this process; `options` are vLLM's own arguments and override these."""
    arguments = {
        "model": resolve(path),
        "dtype": torch_dtype(dtype),
        "max_model_len": max_model_length,
        "gpu_memory_utilization": gpu_memory_utilization,
        "tensor_parallel_size": tensor_parallel,
        "seed": seed,
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        # On a CPU, vLLM 0.31 cannot use a seed for a prompt with chunked prefill ("CPU Generator does not use
        # offset"). None is vLLM's own default.
        "enable_chunked_prefill": None if torch.cuda.is_available() else False,
    }
    return LLM(**(arguments | (options or {})))


class VLLMEngine:
    """Generation on a vLLM instance: an `r1lab.engines.Engine`."""

    notes: Sequence[str] = ()

    def __init__(self, llm: LLM):
        self.llm = llm
        self.tokenizer = llm.get_tokenizer()

    def together(self, n: int) -> int:
        """See `Engine`: each prompt has its own seed."""
        return 1

    def stream(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, done: Collection[int] = frozenset()
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `Engine`. Each prompt has its own seed, so that vLLM can batch continuously: as soon as a prompt is
        complete, the next one starts."""
        texts, engine = rendered(prompts), self.llm.llm_engine
        waiting, running = (i for i in range(len(texts)) if i not in done), {}
        try:
            while True:
                for i in islice(waiting, max(1, WINDOW // sampling.n) - len(running)):
                    ids = self.tokenizer(texts[i], add_special_tokens=False)["input_ids"]
                    check_prompt_length(len(ids), self.llm.model_config.max_model_len)
                    params = SamplingParams(
                        n=sampling.n,
                        max_tokens=sampling.max_tokens,
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        top_k=sampling.top_k,
                        seed=None if sampling.seed is None else seed_of(sampling.seed, i),
                        logprobs=0 if sampling.logprobs else None,
                        flat_logprobs=sampling.logprobs,
                        detokenize=False,  # `_completion` decodes the text once
                        output_kind=RequestOutputKind.FINAL_ONLY,
                    )
                    request = str(next(self.llm.request_counter))
                    engine.add_request(request, {"type": "token", "prompt_token_ids": ids}, params)
                    running[request] = i
                if not running:
                    return
                finished = [
                    output for output in engine.step() if isinstance(output, RequestOutput) and output.finished
                ]
                groups = [(running.pop(output.request_id), output) for output in finished]
                yield from ((i, [self.completion(o) for o in output.outputs]) for i, output in groups)
        finally:
            if running:  # the caller stopped early
                engine.abort_request(list(running))

    @property
    def context(self) -> int:
        """See `EpisodeEngine`."""
        return self.llm.model_config.max_model_len

    def open(self, sampling: Sampling, stop: Sequence[int] = ()) -> "VLLMStream":
        """See `EpisodeEngine`."""
        return VLLMStream(self, sampling, stop)

    def completion(self, output) -> Completion:
        """Returns a finished output of vLLM as a completion."""
        token_ids = list(output.token_ids)
        ended = output.finish_reason == "stop"
        return Completion(
            text=self.tokenizer.decode(token_ids[:-1] if ended else token_ids, skip_special_tokens=True),
            token_ids=token_ids,
            truncated=not ended,
            logprobs=list(output.logprobs.logprobs) if output.logprobs else [],
        )


class VLLMStream:
    """An `r1lab.engines.Stream` on vLLM, which batches continuously: a request does not wait for others."""

    waits = False

    def __init__(self, engine: VLLMEngine, sampling: Sampling, stop: Sequence[int]):
        self.engine, self.llm = engine, engine.llm
        self.requests: dict[str, int] = {}
        self.params = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "logprobs": 0 if sampling.logprobs else None,
            "flat_logprobs": sampling.logprobs,
            "detokenize": False,
            "output_kind": RequestOutputKind.FINAL_ONLY,
            "stop_token_ids": list(stop) or None,
        }

    @property
    def running(self) -> int:
        """See `Stream`."""
        return len(self.requests)

    def add(self, key: int, ids: list[int], max_tokens: int, seed: int | None = None) -> None:
        """See `Stream`."""
        request = str(next(self.llm.request_counter))
        params = SamplingParams(max_tokens=max_tokens, seed=seed, **self.params)
        self.llm.llm_engine.add_request(request, {"type": "token", "prompt_token_ids": ids}, params)
        self.requests[request] = key

    def step(self) -> list[tuple[int, Completion]]:
        """See `Stream`."""
        outputs = [o for o in self.llm.llm_engine.step() if isinstance(o, RequestOutput) and o.finished]
        return [(self.requests.pop(o.request_id), self.engine.completion(o.outputs[0])) for o in outputs]

    def close(self) -> None:
        """See `Stream`."""
        if self.requests:
            self.llm.llm_engine.abort_request(list(self.requests))
            self.requests.clear()


def load_weights(llm: LLM, named_parameters) -> None:
    """Loads new weights into a running vLLM, and clears what it cached with the old ones.

    Args:
        named_parameters: `(name, tensor)` pairs, named and shaped as in the checkpoint.
    """
    reload(llm.llm_engine.model_executor.driver_worker.model_runner, named_parameters)
    llm.reset_prefix_cache()


class SyncedVLLM(vllm_generation.VLLMGeneration):
    """TRL's colocated vLLM, with a weight sync that also works if vLLM repacks its weights after loading.

    vLLM's CPU linear layers replace their parameters after loading, so TRL 1.16's direct `model.load_weights` fails
    there ("'Parameter' object has no attribute 'weight_loader'"). vLLM's own `reload_weights` restores the layers,
    loads, and repacks. This class can be removed when TRL syncs with `reload_weights` itself.

    Args:
        skip_text: Whether vLLM skips its incremental detokenization, because only the tokens are needed. With a stop
            string it does not skip it.
        dtype: The dtype of vLLM's weights, to which it rounds those of the policy; None for the policy's own.
        options: Override the arguments of vLLM.
    """

    def __init__(
        self,
        *args,
        generation_kwargs: dict | None = None,
        skip_text: bool = False,
        dtype: torch.dtype | None = None,
        options: dict | None = None,
        **kwargs,
    ):
        given = generation_kwargs or {}
        if skip_text and not given.get("stop"):
            given = {"detokenize": False, **given}
        self.dtype, self.options = dtype, options or {}
        self._finished: Callable[[RequestOutput], None] | None = None
        super().__init__(*args, generation_kwargs=given, **kwargs)

    def _init_vllm(self):
        with_names(vllm_generation.VLLMGeneration._init_vllm, LLM=self._start)(self)

    def _start(self, **settings) -> LLM:
        # TRL leaves the dtype to the checkpoint's config, but the policy may have been loaded with another one, and
        # log-probabilities of two precisions differ. TRL would also quantize vLLM like QLoRA's base, and then load
        # packed bytes at each sync; the merged weights that are synced here are not quantized.
        quantized = getattr(self.model.config, "quantization_config", None) is not None
        own = self.model.config.dtype if quantized else self.model.dtype  # QLoRA's norms are float32
        dtype = self.dtype or own
        llm = LLM(**(settings | {"quantization": None, "dtype": dtype, "enable_prefix_caching": True} | self.options))
        llm.llm_engine.step = partial(self._step, llm.llm_engine.step)
        return llm

    def _step(self, step: Callable[[], list]) -> list:
        """Runs vLLM's step, and then reports finished requests to the callback of `watched`."""
        outputs = step()
        if self._finished is not None:
            for output in outputs:
                if output.finished:
                    self._finished(output)
        return outputs

    def _iter_named_params(self):
        """Like TRL's, but a LoRA model is merged out of place: TRL's merge in place degrades a bfloat16 base."""
        if not is_peft_model(self.model) or is_deepspeed_zero3_enabled():
            yield from super()._iter_named_params()
            return
        for name, weight in merged_weights(self.model):
            yield self._fix_param_name_to_vllm(name), weight

    def engine(self) -> Engine:
        """Returns the engine with the weights that it has."""
        return VLLMEngine(self.llm)

    @contextmanager
    def awake(self, *, stale: bool):
        """A context in which vLLM can generate; with sleep mode it sleeps afterwards, as in TRL between rollouts.

        Sleep discards the weights and the KV cache, so the weights are synced again after each sleep.

        Args:
            stale: Whether the policy has changed since the last sync.
        """
        if stale or (self.enable_sleep_mode and self._llm_weights_sleeping):
            self.sync_weights()  # this also wakes the weights
        if not self.enable_sleep_mode:
            yield
            return
        self.llm.wake_up(tags=["kv_cache"])
        try:
            yield
        finally:
            self.llm.sleep(level=2)
            self._llm_weights_sleeping = True

    def close(self) -> None:
        """Ends what it started outside of this process: nothing."""

    @contextmanager
    def watched(self, finished):
        """A context in which `finished(i, token_ids, output)` is called for each prompt as soon as its completion is
        done."""
        if self.mode != "colocate" or self.tensor_parallel_size > 1:
            yield
            return
        first = self.llm.request_counter.counter
        self._finished = lambda output: finished(
            int(output.request_id) - first, list(output.outputs[0].token_ids), output
        )
        try:
            yield
        finally:
            self._finished = None

    def sync_weights(self):
        if self.mode != "colocate":
            return super().sync_weights()
        if self.enable_sleep_mode:
            vllm_generation.empty_cache()
            self.llm.wake_up(tags=["weights"])
            self._llm_weights_sleeping = False
        load_weights(self.llm, self._iter_named_params())
