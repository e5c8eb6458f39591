"""Plays episodes: the one loop for training, sampling and evaluation.

No turn waits for those of other episodes: what an environment replies becomes a request as soon as it is there, while
the engine generates the turns of others.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice

from r1lab.engines import Completion, Stream, seed_of
from r1lab.environments import calls
from r1lab.environments.base import Reply, Turn
from r1lab.environments.host import Event, Host
from r1lab.episodes.record import Episode, Segment
from r1lab.episodes.template import TurnTemplate

WINDOW = 1024
"""Episodes at a time, unless the caller sets another number."""


@dataclass(frozen=True)
class Limits:
    """What bounds an episode.

    Attributes:
        turns: Turns of the model.
        turn_tokens: Tokens of one turn.
        own_tokens: Tokens of all turns together.
        all_tokens: Tokens of the prompt, the turns and the replies together.
        reply_tokens: Tokens of one reply; the middle of a longer one is left out, and its text says so.
    """

    turns: int
    turn_tokens: int
    own_tokens: int
    all_tokens: int
    reply_tokens: int = 1024


@dataclass(frozen=True)
class Job:
    """An episode to be played.

    Attributes:
        row: The columns of the data that the environment gets.
        seed: What the environment draws depends on it; the same for all members of a group.
        sampling_seed: What the turns depend on; None for the global random state.
    """

    row: dict
    seed: int
    sampling_seed: int | None = None


@dataclass
class _State:
    """An episode that is being played."""

    job: Job
    episode: Episode
    ids: list[int] = field(default_factory=list)
    own: int = 0
    began: float = 0.0
    last: Completion | None = None


class Player:
    """Plays episodes on a stream of an engine.

    Args:
        turns: Generates the turns.
        host: Runs the environments.
        prompt: Returns the tokens of an episode's prompt from its row and what its environment says at the start.
        template: The tokens between two turns.
        style: How the model writes calls, a name in `r1lab.environments.calls.STYLES`.
        prefill: The beginning of each turn that is part of the prompt, which environments see in front of it.
        on_error: What happens if a tool raises an exception: `tell` the model, `end` the episode, or `skip` it.
        tools: Whether the model may call tools.
        window: The maximum number of episodes at a time.
    """

    def __init__(
        self,
        turns: Stream,
        host: Host,
        limits: Limits,
        template: TurnTemplate,
        prompt: Callable[[dict, str | None], list[int]],
        *,
        style: str = "hermes",
        prefill: str = "",
        on_error: str = "tell",
        tools: bool = False,
        window: int = WINDOW,
    ):
        self.turns, self.host, self.limits, self.template, self.prompt = turns, host, limits, template, prompt
        self.style, self.prefill, self.on_error, self.tools, self.window = style, prefill, on_error, tools, window
        self.states: dict[int, _State] = {}
        self.pending = 0  # requests to the host whose events are not there yet

    def play(self, jobs: Sequence[Job]) -> list[Episode]:
        """Returns the episodes of the jobs, in their order."""
        found = dict(self.stream(jobs))
        return [found[number] for number in range(len(jobs))]

    def stream(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Episode]]:
        """Yields the number of each job and its episode as soon as it has ended."""
        waiting = enumerate(jobs)
        try:
            while True:
                for number, job in islice(waiting, self.window - len(self.states)):
                    self.begin(number, job)
                if not self.states:
                    return
                yield from self.advance()
        finally:
            self.turns.close()

    def begin(self, number: int, job: Job) -> None:
        """Starts an episode, of which `advance` yields the number when it has ended."""
        self.states[number] = _State(job, Episode([], tools=self.tools))
        self._ask(self.host.reset, number, job.row, job.seed)

    def advance(self) -> Iterator[tuple[int, Episode]]:
        """Handles what the host has done, and generates a token of each turn; yields the episodes that have ended."""
        idle = not self.turns.running or self.turns.waits
        while self.pending:
            for event in self.host.events(wait=idle):
                self.pending -= 1
                if self._happened(event):
                    yield event.key, self.states.pop(event.key).episode
            if not idle:
                break
        if self.turns.running:
            for key, completion in self.turns.step():
                self._turn(key, completion)

    def _ask(self, request: Callable[..., None], *given) -> None:
        self.pending += 1
        request(*given)

    def _turn(self, key: int, completion: Completion) -> None:
        """Records a turn and hands it to the environment."""
        state = self.states[key]
        found, problem = calls.read(self._written(completion), self.style)
        state.episode.segments.append(
            Segment(
                completion.token_ids,
                True,
                completion.logprobs,
                completion.versions,
                completion.text,
                calls=[asdict(call) for call in found],
                error=problem,
                seconds=time.perf_counter() - state.began,
            )
        )
        state.ids += completion.token_ids
        state.own += len(completion.token_ids)
        state.last = completion
        number = len(state.episode.turns)
        turn = Turn(self.prefill + completion.text, found, number, completion.truncated, problem)
        self._ask(self.host.step, key, turn)

    def _written(self, completion: Completion) -> str:
        """A turn with the tokens that decoding skips, because the marks of a call may be among them."""
        return self.prefill + self.template.tokenizer.decode(completion.token_ids)

    def _happened(self, event: Event) -> bool:
        """Handles an event; returns whether the episode has ended with it."""
        state = self.states[event.key]
        if event.kind == "end" or (event.kind == "failed" and event.during == "end"):
            if event.kind == "failed":
                state.episode.end = "env_error"
                state.episode.info = {"problem": event.text}
            else:
                state.episode.reward, state.episode.info = event.reward, state.episode.info | event.info
            return True
        if event.kind == "failed":
            counted = event.timeout and event.during == "step"
            state.episode.info = {"problem": event.text}
            self._end(event.key, "timeout" if counted else "env_error")
        elif event.kind == "reset":
            state.episode.prompt_ids = self.prompt(state.job.row, event.text)
            state.ids = list(state.episode.prompt_ids)
            self._continue(event.key)
        else:
            self._replied(event.key, event.replies, event.seconds)
        return False

    def _replied(self, key: int, replies: list[Reply], seconds: float) -> None:
        """Appends what the environment replied, and requests the next turn unless the episode ends here."""
        state = self.states[key]
        assert state.last is not None
        for reply in replies:
            reply.content = self.template.shortened(reply.content, self.limits.reply_tokens)
        end = self._end_of(state, replies)
        said = Segment([], False, text="\n".join(reply.content for reply in replies), seconds=seconds)
        said.error = next((reply.error for reply in replies if reply.error), "")
        if replies:
            state.episode.segments.append(said)
        if not end:
            said.ids = self.template.between(replies, state.last.token_ids[-1] if state.last.token_ids else None)
            if len(state.ids) + len(said.ids) >= self.limits.all_tokens:
                said.ids, end = [], "length"
        if end:
            self._end(key, end)
            return
        state.ids += said.ids
        self._continue(key)

    def _end_of(self, state: _State, replies: list[Reply]) -> str:
        """How the episode ends after these replies, or nothing."""
        assert state.last is not None
        raised = any(reply.raised for reply in replies)
        if raised and self.on_error != "tell":
            return "tool_error" if self.on_error == "end" else "env_error"
        if any(reply.done for reply in replies):
            return "done"
        whole = state.own >= self.limits.own_tokens or len(state.ids) >= self.limits.all_tokens
        if not replies:
            return "answered" if not state.last.truncated else "length" if whole else "turn_length"
        if whole:
            return "length"
        return "turns" if len(state.episode.turns) >= self.limits.turns else ""

    def _continue(self, key: int) -> None:
        """Requests the next turn."""
        state = self.states[key]
        limits = self.limits
        most = min(limits.turn_tokens, limits.own_tokens - state.own, limits.all_tokens - len(state.ids))
        if most < 1:  # the prompt alone is too long
            self._end(key, "length")
            return
        state.began = time.perf_counter()
        seed = state.job.sampling_seed
        if seed is not None:
            seed = seed_of(seed, len(state.episode.turns))
        self.turns.add(key, state.ids, most, seed)

    def _end(self, key: int, how: str) -> None:
        self.states[key].episode.end = how
        self._ask(self.host.end, key)
