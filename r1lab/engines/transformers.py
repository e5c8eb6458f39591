"""transformers' `generate` as an engine: slower than vLLM, but it runs on every machine that can load the model."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate.utils import is_peft_model
from transformers import GenerationConfig

from r1lab.engines import Completion, Prompt, Sampling, check_prompt_length, rendered, seed_of
from r1lab.engines.decoding import Decoding
from r1lab.models.loading import end_token_ids

BATCH = 64  # sequences generated at once


@contextmanager
def without_generation_config(model):
    """A context in which `generate` follows only its arguments.

    By default, transformers takes everything that the caller leaves out (penalties, banned n-grams, suppressed and
    forced tokens, ...) from the model's own generation config, which neither vLLM nor the policy's log-probabilities
    follow.

    Yields:
        The generation config that the model has outside of this context.
    """
    base = model.get_base_model() if is_peft_model(model) else model
    kept, base.generation_config = base.generation_config, GenerationConfig()
    try:
        yield kept
    finally:
        base.generation_config = kept


class TransformersEngine:
    """`generate` on a transformers model that is in memory: an `r1lab.engines.Engine`.

    Args:
        max_length: The maximum number of tokens in a prompt and its completion together, as vLLM's `max_model_len`.
            Default: the model's context length, beyond which it generates nonsense or fails.
        options: Further arguments of `generate`, which override r1lab's.
    """

    notes: Sequence[str] = ()

    def __init__(
        self,
        model,
        tokenizer,
        *,
        batch_size: int | None = None,
        max_length: int | None = None,
        options: dict | None = None,
    ):
        self.model = model
        self.options = options or {}
        self.tokenizer = tokenizer
        self.batch_size = batch_size or BATCH
        self.max_length = max_length or _context_length(model.config.get_text_config())

    def together(self, n: int) -> int:
        """See `Engine`: the prompts of a batch."""
        return max(1, self.batch_size // n)

    def stream(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, done: Collection[int] = frozenset()
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `Engine`. A batch consists of the same prompts whatever is done, and has one seed."""
        texts = rendered(prompts)
        step = self.together(sampling.n)
        for first in range(0, len(texts), step):
            places = range(first, min(first + step, len(texts)))
            if all(i in done for i in places):
                continue
            if sampling.seed is not None:
                torch.manual_seed(seed_of(sampling.seed, first))
            groups = self._batch(texts[first : first + step], sampling)
            yield from ((i, group) for i, group in zip(places, groups) if i not in done)

    @property
    def context(self) -> int | None:
        """See `EpisodeEngine`."""
        return self.max_length

    def open(self, sampling: Sampling, stop: Sequence[int] = ()) -> Decoding:
        """See `EpisodeEngine`."""
        with without_generation_config(self.model) as own:
            ends = end_token_ids(self.tokenizer, own)
        return Decoding(self, sampling, stop, ends, self.batch_size)

    @torch.inference_mode()
    def _batch(self, prompts: list[str], sampling: Sampling) -> list[list[Completion]]:
        batch = self.tokenizer(
            prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
        ).to(self.model.device)
        limits = self._limits(batch["attention_mask"].sum(dim=1).tolist(), sampling.max_tokens)
        settings = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        was_training = self.model.training
        self.model.eval()
        try:
            with without_generation_config(self.model) as own:
                ends = end_token_ids(self.tokenizer, own)
                out = self.model.generate(
                    **batch,
                    generation_config=GenerationConfig(
                        **{
                            "max_new_tokens": max(limits),
                            "num_return_sequences": sampling.n,
                            "pad_token_id": self.tokenizer.pad_token_id,
                            "eos_token_id": ends or None,
                            "disable_compile": True,
                            "do_sample": sampling.temperature > 0,
                            **(settings if sampling.temperature > 0 else {}),
                            **self.options,
                        }
                    ),
                )
        finally:
            self.model.train(was_training)
        generated = out[:, batch["input_ids"].shape[1] :].tolist()
        n = sampling.n
        completions = [self._completion(ids[: limits[i // n]], set(ends)) for i, ids in enumerate(generated)]
        return [completions[i : i + n] for i in range(0, len(completions), n)]

    def _limits(self, prompts: list[int], max_tokens: int) -> list[int]:
        """Returns the maximum number of new tokens for each prompt, given the prompts' numbers of tokens."""
        if self.max_length is None:
            return [max_tokens] * len(prompts)
        check_prompt_length(max(prompts), self.max_length)
        return [min(max_tokens, self.max_length - length) for length in prompts]

    def _completion(self, ids: list[int], ends: set[int]) -> Completion:
        end = next((i for i, token in enumerate(ids) if token in ends), None)
        return Completion(
            text=self.tokenizer.decode(ids[:end], skip_special_tokens=True),
            token_ids=ids if end is None else ids[: end + 1],
            truncated=end is None,
        )


def _context_length(config) -> int | None:
    """Returns a model's context length; None if its config gives it in another way, such as YaRN's factor."""
    scaled = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default") != "default"
    return None if scaled else getattr(config, "max_position_embeddings", None)
