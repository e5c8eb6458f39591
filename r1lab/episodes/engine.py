"""How the episodes of a recipe are played, and episodes in place of completions behind the interface of an engine."""

import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from r1lab.engines import Completion, EpisodeEngine, Prompt, Sampling, seed_of
from r1lab.environments.host import Host
from r1lab.episodes.play import Job, Limits, Player
from r1lab.episodes.record import Episode
from r1lab.episodes.template import TurnTemplate


@dataclass
class Setting:
    """How the episodes of a recipe are played.

    Attributes:
        host: Runs the environments.
        limits: What bounds an episode.
        template: The tokens between two turns.
        begin: Returns the tokens of a prompt from its row and what its environment says at the start.
        style: How the model writes calls, a name in `r1lab.environments.calls.STYLES`.
        prefill: The beginning of each turn that is part of the prompt.
        on_error: What happens if a tool raises an exception: `tell`, `end` or `skip`.
        tools: Whether the model may call tools.
    """

    host: Host
    limits: Limits
    template: TurnTemplate
    begin: Callable[[dict, str | None], list[int]]
    style: str = "hermes"
    prefill: str = ""
    on_error: str = "tell"
    tools: bool = False

    def player(self, engine: EpisodeEngine, sampling: Sampling) -> Player:
        """Returns a player of episodes with at most `sampling.max_tokens` of the model's own tokens."""
        return Player(
            engine.open(sampling, [] if self.template.end is None else [self.template.end]),
            self.host,
            self.limits_with(engine, sampling),
            self.template,
            self.begin,
            style=self.style,
            prefill=self.prefill,
            on_error=self.on_error,
            tools=self.tools,
        )

    def limits_with(self, engine: EpisodeEngine, sampling: Sampling) -> Limits:
        """Returns the limits of episodes with at most `sampling.max_tokens` of the model's own tokens."""
        own, most = sampling.max_tokens, self.limits.all_tokens
        return replace(
            self.limits,
            own_tokens=own,
            turn_tokens=min(own, self.limits.turn_tokens),
            all_tokens=most if engine.context is None else min(most, engine.context),
        )


class Episodes:
    """An `r1lab.engines.Engine` whose completions are episodes.

    Args:
        engine: Generates the turns.
        rows: The rows of the prompts that `stream` gets, in their order.
    """

    def __init__(self, engine: EpisodeEngine, setting: Setting, rows: Sequence[dict]):
        self.engine, self.setting, self.rows = engine, setting, rows

    @property
    def notes(self) -> Sequence[str]:
        """See `Engine`."""
        return self.engine.notes

    def together(self, n: int) -> int:
        """See `Engine`."""
        return 1

    def stream(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, done: Collection[int] = frozenset()
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `Engine`. The episodes of a prompt have the same task: what their environments draw has one seed."""
        left = [i for i in range(len(prompts)) if i not in done]
        groups: dict[int, dict[int, Completion]] = {}
        for number, episode in self._played(left, sampling):
            i, sample = left[number // sampling.n], number % sampling.n
            group = groups.setdefault(i, {})
            group[sample] = completion(episode)
            if len(group) == sampling.n:
                yield i, [group[k] for k in range(sampling.n)]
                del groups[i]

    def _played(self, left: list[int], sampling: Sampling) -> Iterator[tuple[int, Episode]]:
        """Yields the episodes; one that says nothing about the model is played once more at the end."""
        failed: list[int] = []
        for number, episode in self.setting.player(self.engine, sampling).stream(self._jobs(left, sampling)):
            if episode.counted:
                yield number, episode
            else:
                failed.append(number)
        if failed:
            jobs = list(self._jobs(left, sampling))
            again = self.setting.player(self.engine, sampling).stream(jobs[number] for number in failed)
            for place, episode in again:
                yield failed[place], episode

    def _jobs(self, left: list[int], sampling: Sampling) -> Iterator[Job]:
        for i in left:
            for sample in range(sampling.n):
                seed = None if sampling.seed is None else seed_of(seed_of(sampling.seed, i), sample)
                yield Job(self.rows[i], task_seed(sampling.seed or 0, i), seed)


def task_seed(seed: int, row: int, step: int | None = None) -> int:
    """The seed of what an environment draws: the same for all episodes of a row, and in training of a step.

    >>> task_seed(0, 7) == task_seed(0, 7) != task_seed(0, 7, step=3)
    True
    """
    return zlib.crc32(f"{seed}/{row}".encode() if step is None else f"{seed}/{row}/{step}".encode())


def completion(episode: Episode) -> Completion:
    """An episode as a completion: the last turn as its text, with the tokens of all turns and replies."""
    return Completion(
        text=episode.text,
        token_ids=episode.completion_ids,
        truncated=episode.cut,
        logprobs=episode.logprobs,
        episode=episode,
    )
