"""Decoding with transformers, one token of all rows per step, in which the tokens of a row may be given.

`generate` of transformers cannot put tokens into a row that it is generating. Here all rows have the same number of
tokens at any time, so there is no padding: while a row has given tokens left, such as the rest of a longer prompt or a
reply of an environment, it gets them in place of sampled ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache

from r1lab.engines import Completion, Sampling


@dataclass
class _Row:
    key: int
    ids: list[int]
    """All tokens; the model has read the first `length` of the batch."""
    left: int
    """Tokens that may still be sampled."""
    generator: torch.Generator | None
    sampled: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    waiting: bool = False
    """Whether its completion is complete; it is continued by the next `add` with its key."""


class Decoding:
    """An `r1lab.engines.Stream` on a transformers model.

    Rows that are added while others run start in a batch of their own when all of these are complete.

    Args:
        ends: The tokens that end a completion.
        size: The maximum number of rows in a batch.
    """

    waits = True

    def __init__(self, engine, sampling: Sampling, stop: Sequence[int], ends: Sequence[int], size: int):
        self.engine, self.model, self.sampling, self.size = engine, engine.model, sampling, size
        self.ends = {*stop, *ends}
        self.rows: list[_Row] = []
        self.queue: list[_Row] = []
        self.cache: DynamicCache | None = None
        self.length = 0

    @property
    def running(self) -> int:
        """See `Stream`."""
        return sum(not row.waiting for row in self.rows) + len(self.queue)

    def add(self, key: int, ids: list[int], max_tokens: int, seed: int | None = None) -> None:
        """See `Stream`."""
        generator = None
        if seed is not None:
            generator = torch.Generator(self.model.device).manual_seed(seed)
        row = next((row for row in self.rows if row.key == key and row.waiting), None)
        if row is not None and row.ids == ids[: len(row.ids)] and len(ids) > self.length:
            row.ids, row.left, row.generator, row.waiting = list(ids), max_tokens, generator, False
            row.sampled, row.logprobs = [], []
            return
        self.queue.append(_Row(key, list(ids), max_tokens, generator))

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Completion]]:
        """See `Stream`. A row whose completion is complete waits for its next `add` until this is called again."""
        self._compact()
        if not self.rows:
            self._begin()
        was_training = self.model.training
        self.model.eval()
        try:
            return self._advance()
        finally:
            self.model.train(was_training)

    def close(self) -> None:
        """See `Stream`."""
        self.rows, self.queue, self.cache = [], [], None

    def _compact(self) -> None:
        """Removes the rows that were not continued."""
        kept = [i for i, row in enumerate(self.rows) if not row.waiting]
        if len(kept) < len(self.rows):
            self.rows = [self.rows[i] for i in kept]
            if self.cache is not None and kept:
                self.cache.batch_select_indices(torch.tensor(kept, device=self.model.device))

    def _begin(self) -> None:
        """Starts a batch with the rows that wait for one, similar lengths together."""
        self.queue.sort(key=lambda row: len(row.ids))
        self.rows, self.queue = self.queue[: self.size], self.queue[self.size :]
        self.cache, self.length = DynamicCache(config=self.model.config), 0

    def _advance(self) -> list[tuple[int, Completion]]:
        if not self.rows:
            return []
        known = min(len(row.ids) for row in self.rows)
        ids = torch.tensor([row.ids[self.length : known] for row in self.rows], device=self.model.device)
        places = torch.arange(self.length, known, device=self.model.device)
        logits = self.model(
            input_ids=ids,
            position_ids=places.expand(len(self.rows), -1),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self.length = known
        sampling = [i for i, row in enumerate(self.rows) if len(row.ids) == known]
        finished = []
        for i, (token, logprob) in zip(sampling, self._sample(logits, sampling), strict=True):
            row = self.rows[i]
            row.ids.append(token)
            row.sampled.append(token)
            row.logprobs.append(logprob)
            row.left -= 1
            ended = token in self.ends
            if ended or row.left == 0:
                row.waiting = True
                finished.append((row.key, self._completion(row, ended)))
        return finished

    def _sample(self, logits: torch.Tensor, rows: list[int]) -> list[tuple[int, float]]:
        """Returns a token, and its log-probability under the sampling distribution, for each of the rows."""
        scores = logits[rows].float()
        if self.sampling.temperature > 0:
            scores = limited(scores / self.sampling.temperature, self.sampling.top_k, self.sampling.top_p)
        logprobs = scores.log_softmax(-1)
        if self.sampling.temperature == 0:
            tokens = scores.argmax(-1)
        elif all(self.rows[i].generator is None for i in rows):
            tokens = logprobs.exp().multinomial(1)[:, 0]
        else:
            drawn = [
                one.exp().multinomial(1, generator=self.rows[i].generator)
                for i, one in zip(rows, logprobs, strict=True)
            ]
            tokens = torch.cat(drawn)
        return list(zip(tokens.tolist(), logprobs.gather(-1, tokens[:, None])[:, 0].tolist(), strict=True))

    def _completion(self, row: _Row, ended: bool) -> Completion:
        text = self.engine.tokenizer.decode(row.sampled[:-1] if ended else row.sampled, skip_special_tokens=True)
        logprobs = row.logprobs if self.sampling.logprobs else []
        return Completion(text=text, token_ids=row.sampled, truncated=not ended, logprobs=logprobs)


def limited(logits: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Returns logits (n, V) with -inf for all tokens but the `top_k` most probable ones that together have `top_p`.

    >>> limited(torch.tensor([[2.0, 1.0, 0.0]]), 2, 1.0)
    tensor([[2., 1., -inf]])
    """
    if top_k:
        smallest = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -math.inf)
    if top_p < 1:
        ordered, places = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        beyond = probabilities.cumsum(-1) - probabilities >= top_p
        logits = logits.masked_fill(beyond.scatter(-1, places, beyond), -math.inf)
    return logits
