"""Accuracy against thinking tokens: completions whose thinking is stopped, or extended, at a budget of tokens.

This is budget forcing as in s1 (arXiv:2501.19393, section 3): a completion that has thought for a budget of tokens
gets the end of the thinking as forced tokens and answers; one that ends its thinking earlier may get "Wait" in place
of the end. Both put tokens between two calls of the engine. They never change its logits, as vLLM's
`thinking_token_budget` does, whose log-probabilities are then wrong (vllm#54864).

Each completion is sampled once without a budget. The beginning of its thinking serves all smaller budgets, so only
answers are sampled again: a prefix of a sample has the distribution of what is sampled up to there.
"""

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from r1lab.engines import Completion, EpisodeEngine, Prompt, Sampling, rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPEN, CLOSE = "<think>", "</think>"
AT_ONCE = 256
"""Samples whose answers are generated together by an engine with a seed for each prompt."""

Span = tuple[int, int]


@dataclass(frozen=True)
class Forcing:
    """How budgets are enforced.

    Attributes:
        budgets: Maximum numbers of thinking tokens, in ascending order.
        close: The text that ends the thinking and begins the answer.
        tokenizer: The model's.
        prefilled: Whether the prompt opens the thinking.
        extend: How often thinking that ends below a budget is continued.
        wait: The text in place of the end of the thinking that is continued.
        answer_length: Maximum number of tokens of an answer after a forced end of the thinking.
    """

    budgets: tuple[int, ...]
    close: str
    tokenizer: "PreTrainedTokenizerBase"
    prefilled: bool = False
    extend: int = 0
    wait: str = "Wait"
    answer_length: int = 256

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of tokens, without end tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text in the middle of a completion."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


@dataclass
class Budgeted(Completion):
    """A completion with forced tokens.

    Attributes:
        sample: The number of the sample that it was made from.
        budget: Its budget.
        forced: The spans of its tokens that were forced, as `(start, end)`. They are not the model's own: nothing may
            be trained on them.
        thinking: Its thinking tokens, those after a forced end and forced words like "Wait" included.
        stopped: Whether its thinking was stopped at the budget.
        thinks_on: Whether it went on thinking after the forced end.
        sampled: The number of tokens that were sampled for it in addition to those of its sample.
    """

    sample: int = 0
    budget: int = 0
    forced: list[Span] = field(default_factory=list)
    thinking: int = 0
    stopped: bool = False
    thinks_on: bool = False
    sampled: int = 0


@dataclass(frozen=True)
class Thinking:
    """The thinking of a completion, without tags, as the span of its tokens, and whether the completion ended it."""

    start: int
    end: int
    closed: bool

    @property
    def tokens(self) -> int:
        """The number of its tokens."""
        return self.end - self.start


def thinking_of(ids: Sequence[int], truncated: bool, decode: Callable, prefilled: bool) -> Thinking:
    """Returns where a completion thinks; a completion without tags does not think, unless the prompt opened it.

    Args:
        ids: Its tokens, including the end token if it was not truncated.

    >>> words = ["<think>", "3", "+", "4", "</think>", "7", ""]
    >>> thinking_of(range(7), False, lambda ids: "".join(words[i] for i in ids), False)
    Thinking(start=1, end=4, closed=True)
    """
    text = decode(ids)
    opened, closed = text.find(OPEN), text.find(CLOSE)

    def length(count: int) -> int:
        return len(decode(ids[:count]))

    counts = range(len(ids) + 1)
    start = 0
    if not prefilled and 0 <= opened and (closed < 0 or opened < closed):
        start = bisect_left(counts, opened + len(OPEN), key=length)
    elif not prefilled and closed < 0:
        return Thinking(0, 0, True)
    if closed < 0:
        return Thinking(start, max(start, len(ids) - (not truncated)), False)
    return Thinking(start, max(start, bisect_right(counts, closed, key=length) - 1), True)


def thought_on(answer: Sequence[int], decode: Callable) -> int:
    """Returns the number of tokens of an answer that are thinking: up to its last tag, or all if it opens a new one.

    >>> words = ["But", "</think>", "7"]
    >>> thought_on(range(3), lambda ids: "".join(words[i] for i in ids))
    2
    """
    text = decode(answer)
    opened, closed = text.rfind(OPEN), text.rfind(CLOSE)
    if max(opened, closed) < 0:
        return 0
    if opened > closed:
        return len(answer)
    return bisect_left(range(len(answer) + 1), closed + len(CLOSE), key=lambda count: len(decode(answer[:count])))


@dataclass
class _Draft:
    """What has been written so far for a sample: tokens, which of them were forced, and how many were sampled."""

    ids: list[int]
    truncated: bool
    forced: list[Span] = field(default_factory=list)
    sampled: int = 0

    def up_to(self, end: int, text: list[int]) -> "_Draft":
        """Returns its first `end` tokens, followed by forced ones."""
        forced = [(start, min(stop, end)) for start, stop in self.forced if start < end]
        return _Draft([*self.ids[:end], *text], True, [*forced, (end, end + len(text))], self.sampled)

    def continued(self, completion: Completion) -> "_Draft":
        """Returns it with a completion."""
        ids, sampled = [*self.ids, *completion.token_ids], self.sampled + len(completion.token_ids)
        return _Draft(ids, completion.truncated, self.forced, sampled)


class Budgets:
    """An `r1lab.engines.Engine` that stops and extends the thinking of completions that exist.

    Args:
        engine: Continues tokens.
        groups: For each prompt its completions, as `(token_ids, truncated)`. They may be added later.
    """

    def __init__(self, engine: EpisodeEngine, forcing: Forcing, groups: dict[int, list[tuple[list[int], bool]]]):
        self.engine, self.forcing, self.groups = engine, forcing, groups

    @property
    def notes(self) -> Sequence[str]:
        """See `Engine`."""
        return self.engine.notes

    def together(self, n: int) -> int:
        """See `Engine`."""
        return self.engine.together(n)

    def stream(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, done: Collection[int] = frozenset()
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yields for each prompt the completions of all budgets that differ from the samples, see `Engine`.

        The answer to a sample under a budget has a seed of its own. An engine that has one for a batch gets the same
        rows together whatever is done.
        """
        texts, size = rendered(prompts), self.together(sampling.n)
        blocks = [range(first, min(first + size, len(texts))) for first in range(0, len(texts), size)]
        blocks = [block for block in blocks if not all(i in done for i in block)]
        count = 1 if size > 1 else max(1, AT_ONCE // sampling.n)
        for first in range(0, len(blocks), count):
            places = [i for block in blocks[first : first + count] for i in block]
            made = self._block({i: self.forcing.encode(texts[i]) for i in places}, sampling)
            yield from ((i, group) for i, group in made.items() if i not in done)

    def _block(self, prompts: dict[int, list[int]], sampling: Sampling) -> dict[int, list[Completion]]:
        forcing = self.forcing
        chains = {
            (i, sample): [_Draft(list(ids), truncated)]
            for i in prompts
            for sample, (ids, truncated) in enumerate(self.groups[i])
        }
        for turn in range(forcing.extend):
            begun = {key: self._extended(drafts[-1]) for key, drafts in chains.items() if len(drafts) == turn + 1}
            begun = {key: draft for key, draft in begun.items() if draft is not None}
            for key, draft in self._continued(begun, prompts, sampling, sampling.max_tokens, f"wait {turn}").items():
                chains[key].append(draft)
        cut = {
            (i, sample, budget): draft
            for (i, sample), drafts in chains.items()
            for budget in forcing.budgets
            if (draft := self._cut(drafts, budget)) is not None
        }
        ended = {key: draft for key, (draft, stopped) in cut.items() if stopped}
        answered = self._continued(ended, prompts, sampling, forcing.answer_length, "answer")
        made: dict[int, list[Completion]] = {i: [] for i in prompts}
        for (i, sample, budget), (draft, stopped) in cut.items():
            whole = answered.get((i, sample, budget), draft)
            made[i].append(self._completion(whole, sample, budget, len(draft.ids) if stopped else None))
        return made

    def _thinking(self, draft: _Draft) -> Thinking:
        return thinking_of(draft.ids, draft.truncated, self.forcing.decode, self.forcing.prefilled)

    def _extended(self, draft: _Draft) -> _Draft | None:
        """A draft that ended its thinking below the largest budget, with "Wait" in place of the end."""
        thinking = self._thinking(draft)
        if not thinking.closed or not thinking.tokens or thinking.tokens >= self.forcing.budgets[-1]:
            return None
        return draft.up_to(thinking.end, self.forcing.encode(self.forcing.wait))

    def _cut(self, drafts: list[_Draft], budget: int) -> tuple[_Draft, bool] | None:
        """The draft of a budget, and whether it was stopped; None if it is the sample itself."""
        for place, draft in enumerate(drafts):
            thinking = self._thinking(draft)
            if thinking.tokens > budget or (thinking.tokens == budget and not thinking.closed):
                return draft.up_to(thinking.start + budget, self.forcing.encode(self.forcing.close)), True
            if place == len(drafts) - 1 or thinking.tokens == budget:
                return (draft, False) if place else None
        return None

    def _continued(self, drafts: dict, prompts: dict[int, list[int]], sampling: Sampling, most: int, why: str) -> dict:
        """Returns drafts with what the model writes after them; the first part of a key is the prompt's index."""
        stream, keys, made = self.engine.open(sampling), list(drafts), {}
        for number, key in enumerate(keys):
            ids = [*prompts[key[0]], *drafts[key].ids]
            room = most if self.engine.context is None else min(most, self.engine.context - len(ids))
            if room < 1:
                made[key] = drafts[key]
                continue
            seed = None if sampling.seed is None else zlib.crc32(f"{sampling.seed}/{key}/{why}".encode())
            stream.add(number, ids, room, seed)
        while stream.running:
            for number, completion in stream.step():
                made[keys[number]] = drafts[keys[number]].continued(completion)
        return made

    def _completion(self, draft: _Draft, sample: int, budget: int, answer: int | None) -> Budgeted:
        """A finished draft as a completion; `answer` is the place of the first token after a forced end."""
        thinking = self._thinking(draft).tokens
        more = 0 if answer is None else thought_on(draft.ids[answer:], self.forcing.decode)
        return Budgeted(
            text=self.forcing.decode(draft.ids),
            token_ids=draft.ids,
            truncated=draft.truncated,
            sample=sample,
            budget=budget,
            forced=draft.forced,
            thinking=thinking if answer is None else budget + more,
            stopped=answer is not None,
            thinks_on=more > 0,
            sampled=draft.sampled,
        )


def record(forcing: Forcing, natural: dict, groups: list[tuple[list[int], bool]], made: list, judged: list) -> dict:
    """The part of a question's record about budgets.

    Args:
        natural: The question's record, without budgets.
        groups: Its samples.
        made: The `Budgeted` completions of its samples.
        judged: What the grader says of each of them.

    Returns:
        `thinking`, the thinking tokens of each sample, and `budgets`: for each budget lists with an entry per sample,
        `lenient` (correct in any format), `thinking`, whether it was `stopped` and `thinks_on`, and if it differs from
        the sample the `completions` and the spans of its characters that were `forced`.
    """
    spans = [thinking_of(ids, truncated, forcing.decode, forcing.prefilled) for ids, truncated in groups]
    thinking = [span.tokens for span in spans]
    changed = {(one.budget, one.sample): (one, verdict) for one, verdict in zip(made, judged, strict=True)}
    found = []
    for budget in forcing.budgets:
        of = [changed.get((budget, sample)) for sample in range(len(groups))]
        found.append(
            {
                "budget": budget,
                "lenient": [
                    natural["lenient"][k] if one is None else int(one[1]["lenient"]) for k, one in enumerate(of)
                ],
                "thinking": [thinking[k] if one is None else one[0].thinking for k, one in enumerate(of)],
                "stopped": [int(one is not None and one[0].stopped) for one in of],
                "thinks_on": [int(one is not None and one[0].thinks_on) for one in of],
                "completions": [None if one is None else one[0].text for one in of],
                "forced": [None if one is None else _characters(one[0], forcing.decode) for one in of],
            }
        )
    return {"thinking": thinking, "budgets": found}


def _characters(completion: Budgeted, decode: Callable) -> list[list[int]]:
    """The spans of forced characters of a completion's text."""
    return [[len(decode(completion.token_ids[:place])) for place in span] for span in completion.forced]
