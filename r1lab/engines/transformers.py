"""transformers' `generate` as an engine: slower than vLLM, but it runs wherever a model loads."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import is_peft_model
from transformers import GenerationConfig

from r1lab.engines import Completion, Engine, check_room, seed_of
from r1lab.models.loading import end_token_ids

BATCH = 64  # sequences generated at once


@contextmanager
def without_generation_config(model):
    """Within it, `generate` follows the arguments that it gets and nothing else.

    transformers takes whatever the caller leaves out (penalties, banned n-grams, suppressed and forced tokens, ...)
    from the model's own generation config, which neither vLLM nor the policy's log-probabilities follow.

    Yields:
        The generation config that the model has otherwise.
    """
    base = model.get_base_model() if is_peft_model(model) else model
    kept, base.generation_config = base.generation_config, GenerationConfig()
    try:
        yield kept
    finally:
        base.generation_config = kept


class TransformersEngine(Engine):
    """`generate` on a transformers model that is in memory.

    Args:
        max_length: The most tokens of a prompt and its completion together, as vLLM's `max_model_len`. Default: what
            the model reads, beyond which it writes nonsense or fails.
        options: Further arguments of `generate`, over r1lab's.
    """

    name = "transformers"

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
        self.max_length = max_length or _reads(model.config.get_text_config())

    def stream(
        self,
        prompts: list[str],
        *,
        n: int = 1,
        max_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        done: Collection[int] = frozenset(),
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `r1lab.engines.Engine`. A batch consists of the same prompts whatever is done, and has one seed."""
        sampling = {"do_sample": temperature > 0}
        if temperature > 0:
            sampling |= {"temperature": temperature, "top_p": top_p, "top_k": top_k}
        step = max(1, self.batch_size // n)
        for first in range(0, len(prompts), step):
            places = range(first, min(first + step, len(prompts)))
            if all(i in done for i in places):
                continue
            if seed is not None:
                torch.manual_seed(seed_of(seed, first))
            groups = self._batch(prompts[first : first + step], n, max_tokens, **sampling)
            yield from ((i, group) for i, group in zip(places, groups) if i not in done)

    @torch.inference_mode()
    def _batch(self, prompts: list[str], n: int, max_tokens: int, **sampling) -> list[list[Completion]]:
        batch = self.tokenizer(
            prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
        ).to(self.model.device)
        limits = self._limits(batch["attention_mask"].sum(dim=1).tolist(), max_tokens)
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
                            "num_return_sequences": n,
                            "pad_token_id": self.tokenizer.pad_token_id,
                            "eos_token_id": ends or None,
                            "disable_compile": True,
                            **sampling,
                            **self.options,
                        }
                    ),
                )
        finally:
            self.model.train(was_training)
        written = out[:, batch["input_ids"].shape[1] :].tolist()
        completions = [self._completion(ids[: limits[i // n]], set(ends)) for i, ids in enumerate(written)]
        return [completions[i : i + n] for i in range(0, len(completions), n)]

    def _limits(self, prompts: list[int], max_tokens: int) -> list[int]:
        """The most tokens that may follow each prompt, of which the number of tokens is given."""
        if self.max_length is None:
            return [max_tokens] * len(prompts)
        check_room(max(prompts), self.max_length)
        return [min(max_tokens, self.max_length - length) for length in prompts]

    def _completion(self, ids: list[int], ends: set[int]) -> Completion:
        end = next((i for i, token in enumerate(ids) if token in ends), None)
        return Completion(
            text=self.tokenizer.decode(ids[:end], skip_special_tokens=True),
            token_ids=ids if end is None else ids[: end + 1],
            truncated=end is None,
        )


def _reads(config) -> int | None:
    """The most tokens that a model reads; None where its config says it otherwise, as YaRN's factor does."""
    scaled = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default") != "default"
    return None if scaled else getattr(config, "max_position_embeddings", None)
