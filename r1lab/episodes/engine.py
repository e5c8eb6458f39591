"""Episodes in place of completions, behind the interface of an engine: evaluations and sample stages use it."""

import zlib
from collections.abc import Callable, Collection, Iterator, Sequence

from r1lab.engines import Completion, EpisodeEngine, Prompt, Sampling, seed_of
from r1lab.environments.host import Host
from r1lab.episodes.play import Job, Limits, Player
from r1lab.episodes.record import Episode
from r1lab.episodes.template import TurnTemplate


class Episodes:
    """An `r1lab.engines.Engine` whose completions are episodes.

    Args:
        engine: Generates the turns.
        host: Runs the environments.
        rows: The rows of the prompts that `stream` gets, in their order.
        begin: Returns the tokens of a prompt from its row and what its environment says at the start.
        settings: The other arguments of `r1lab.episodes.play.Player`.
    """

    def __init__(
        self,
        engine: EpisodeEngine,
        host: Host,
        rows: Sequence[dict],
        limits: Limits,
        template: TurnTemplate,
        begin: Callable[[dict, str | None], list[int]],
        **settings,
    ):
        self.engine, self.host, self.rows, self.limits = engine, host, rows, limits
        self.template, self.begin, self.settings = template, begin, settings

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
        stop = [] if self.template.end is None else [self.template.end]
        player = Player(
            self.engine.open(sampling, stop), self.host, self.limits, self.template, self.begin, **self.settings
        )
        groups: dict[int, dict[int, Completion]] = {}
        for number, episode in player.stream(self._jobs(left, sampling)):
            i, sample = left[number // sampling.n], number % sampling.n
            group = groups.setdefault(i, {})
            group[sample] = completion(episode)
            if len(group) == sampling.n:
                yield i, [group[k] for k in range(sampling.n)]
                del groups[i]

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
