"""The record of an episode: which tokens the model sampled, which were put in, how it ended, and what it earned."""

import math
from dataclasses import dataclass, field
from typing import Any

from r1lab.environments.base import NO_TOOL

ENDS = {
    "answered": "a turn without a call",
    "done": "the environment ended it",
    "turns": "the maximum number of turns",
    "length": "no tokens left for a further turn, or within one",
    "turn_length": "a turn that was truncated at its own maximum length",
    "timeout": "a step that exceeded its deadline",
    "tool_error": "a tool that raised an exception, with on_error: end",
    "env_error": "the environment failed",
}
"""How an episode may end."""

CUT = ("turns", "length", "turn_length")
"""The ends at which a limit cut the episode short."""

NOT_COUNTED = ("env_error",)
"""The ends that say nothing about the model: such an episode has no reward, not even 0."""


@dataclass
class Segment:
    """Adjacent tokens of an episode with the same origin: a turn of the model, or what was put in after it.

    Attributes:
        ids: The tokens.
        own: Whether the model sampled them.
        logprobs: The log-probability of each token of a turn, if they were requested.
        versions: The version of the weights that sampled each token of a turn, if the engine says it.
        text: The turn without its end token, or the replies of the environment.
        calls: The calls in a turn, each with `name` and `arguments`.
        error: Why a call failed or could not be read.
        seconds: The time of generating a turn, or of the environment's step.
    """

    ids: list[int]
    own: bool
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    text: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0


@dataclass(repr=False)
class Episode:
    """An episode.

    Attributes:
        prompt_ids: The tokens before the first turn.
        segments: Turns and replies in their order.
        end: A name in `ENDS`.
        reward: What the environment says the episode is worth; None if it says nothing.
        info: What the environment says of the episode.
        tools: Whether the model could call tools.
    """

    prompt_ids: list[int]
    segments: list[Segment] = field(default_factory=list)
    end: str = ""
    reward: float | dict[str, float] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    tools: bool = False

    def __repr__(self) -> str:
        return f"Episode({len(self.turns)} turns, end={self.end!r}, reward={self.reward!r})"

    @property
    def trained(self) -> list[Segment]:
        """The segments up to the last turn: what follows it has no part in the gradient."""
        last = max((i for i, segment in enumerate(self.segments) if segment.own), default=-1)
        return self.segments[: last + 1]

    @property
    def completion_ids(self) -> list[int]:
        """The tokens after the prompt, up to the end of the last turn."""
        return [token for segment in self.trained for token in segment.ids]

    @property
    def mask(self) -> list[int]:
        """For each token of `completion_ids`, 1 if the model sampled it and 0 if it was put in."""
        return [int(segment.own) for segment in self.trained for _ in segment.ids]

    @property
    def logprobs(self) -> list[float]:
        """The log-probability of each token of `completion_ids`; NaN where the model did not sample it.

        NaN rather than 0: if a mask is forgotten somewhere, the importance ratio there is 1 after `nan_to_num`, and
        not the policy's own probability.
        """
        found = []
        for segment in self.trained:
            found += segment.logprobs if segment.own else [math.nan] * len(segment.ids)
        return found

    @property
    def versions(self) -> list[int | None]:
        """The version of the weights of each token of `completion_ids`; None where the model did not sample it."""
        found: list[int | None] = []
        for segment in self.trained:
            found += segment.versions if segment.own else [None] * len(segment.ids)
        return found

    @property
    def turns(self) -> list[Segment]:
        """The turns of the model."""
        return [segment for segment in self.segments if segment.own]

    @property
    def text(self) -> str:
        """The last turn, which is what rewards get as the completion."""
        return self.turns[-1].text if self.turns else ""

    @property
    def own_tokens(self) -> int:
        """The number of tokens that the model sampled."""
        return sum(len(segment.ids) for segment in self.turns)

    @property
    def reply_tokens(self) -> int:
        """The number of tokens that were put in."""
        return sum(len(segment.ids) for segment in self.segments) - self.own_tokens

    def summary(self, *, ids: bool = False, seconds: bool = False) -> dict[str, Any]:
        """What a file of samples has of the episode besides its last turn.

        Args:
            ids: Whether it has all tokens, for training on them.
            seconds: Whether each turn has its time, with which the same episode gives another record.
        """
        turns = []
        for segment in self.segments:
            turn = {"own": segment.own, "text": segment.text, "tokens": len(segment.ids)}
            turn |= {"calls": segment.calls} if segment.calls else {}
            turn |= {"error": segment.error} if segment.error else {}
            turn |= {"ids": segment.ids} if ids else {}
            turns.append(turn | ({"seconds": round(segment.seconds, 3)} if seconds else {}))
        found = {"end": self.end, "turns": turns, "reply_tokens": self.reply_tokens}
        found |= {"prompt_ids": self.prompt_ids} if ids else {}
        found |= {"no_call": True} if self.tools and self.turns and not counts(turns)["calls"] else {}
        return found | ({"info": self.info} if self.info else {})

    @classmethod
    def read(cls, saved: dict[str, Any]) -> "Episode":
        """The episode that `dataclasses.asdict` saved."""
        segments: Any = [Segment(**segment) for segment in saved["segments"]]
        return cls(**{**saved, "segments": segments})

    @property
    def cut(self) -> bool:
        """Whether a limit cut the episode short."""
        return self.end in CUT

    @property
    def counted(self) -> bool:
        """Whether the episode says something about the model."""
        return self.end not in NOT_COUNTED


def counts(turns: list[dict[str, Any]]) -> dict[str, int]:
    """Of the `turns` of a summary: how many are the model's, its calls, the replies, and the replies that are errors.

    What looks like a call and cannot be read counts as one. `invented` are the errors because of a tool that does not
    exist.
    """
    own = [turn for turn in turns if turn["own"]]
    replies = [turn for turn in turns if not turn["own"]]
    return {
        "turns": len(own),
        "calls": sum(len(turn.get("calls", ())) + ("error" in turn) for turn in own),
        "replies": len(replies),
        "errors": sum("error" in reply for reply in replies),
        "invented": sum(reply.get("error", "").startswith(NO_TOOL) for reply in replies),
    }


def sampled_ids(row: dict[str, Any]) -> tuple[list[int], list[int], list[int]] | None:
    """The tokens of an episode in a file of samples, up to the end of its last turn; None for other rows.

    Returns:
        `(prompt_ids, completion_ids, mask)`, as of `Episode`.
    """
    if not isinstance(row.get("prompt_ids"), list) or not isinstance(row.get("turns"), list):
        return None
    segments = [Segment(turn["ids"], turn["own"]) for turn in row["turns"]]
    episode = Episode(row["prompt_ids"], segments)
    return episode.prompt_ids, episode.completion_ids, episode.mask
