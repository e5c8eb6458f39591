"""A simulated cluster of asynchronous training: vLLM servers, a trainer and a clock. The pacing is r1lab's own.

`asynchronous` does what `r1lab.grpo.asynchronous.Groups` does with rollout servers: whenever `r1lab.grpo.pacing` has
room it sends the servers the weights of the last update and starts groups, it grades those that are finished while it
waits, and it trains on the oldest ones. Only the engines, the training and the clock are simulated.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from r1lab.grpo.pacing import Pacing


class Engine:
    """A vLLM server that starts the next completion whenever one ends.

    Args:
        steps: Seconds of a step, which generates a token of each of n completions, for n from 0 to its places.

    Attributes:
        now: The time up to which it was simulated, in seconds.
        made: The steps so far, of which the last may be a part.
        running: For each completion the step at which it ends, the step at which it began, and its group.
        busy: Seconds in which it generated.
    """

    def __init__(self, steps: Sequence[float]):
        self.steps, self.places = steps, len(steps) - 1
        self.now = self.made = self.busy = 0.0
        self.running: list[tuple[float, float, int]] = []
        self.waiting: deque[tuple[int, int]] = deque()

    def submit(self, tokens: int, group: int) -> None:
        """Takes a completion of `tokens` tokens."""
        self.waiting.append((tokens, group))
        self._fill()

    def _fill(self) -> None:
        while self.waiting and len(self.running) < self.places:
            tokens, group = self.waiting.popleft()
            heapq.heappush(self.running, (self.made + tokens, self.made, group))

    def next_end(self) -> float:
        """The time at which the next completion ends."""
        if not self.running:
            return math.inf
        return self.now + (self.running[0][0] - self.made) * self.steps[len(self.running)]

    def finish(self) -> int:
        """Generates until the next completion ends; returns its group."""
        now = self.next_end()
        self.busy, self.now = self.busy + now - self.now, now
        self.made, _, group = heapq.heappop(self.running)
        self._fill()
        return group

    def generate(self, until: float) -> None:
        """Generates until a time before which no completion ends."""
        if until <= self.now:  # it still reads what it had generated before a sync
            return
        if self.running:
            self.made += (until - self.now) / self.steps[len(self.running)]
            self.busy += until - self.now
        self.now = until

    def interrupt(self, until: float, reading: float) -> None:
        """Gets new weights until a time, then reads what its completions have so far, `reading` seconds per token."""
        self.now = max(self.now, until + reading * sum(self.made - begun for _, begun, _ in self.running))


class Servers:
    """Several engines; a completion goes to the one that has the fewest, as in `r1lab.engines.fleet`."""

    def __init__(self, engines: list[Engine]):
        self.engines = engines
        self.left: dict[int, int] = {}  # completions of each group that are not finished
        self.done: list[int] = []  # finished groups that the trainer has not seen
        self._asked, self._total = [0] * len(engines), [0] * len(engines)
        self._idlest = [(0, 0, i) for i in range(len(engines))]
        self.ready()

    def submit(self, group: int, tokens: Sequence[int]) -> None:
        """Starts the completions of a group at the time to which all engines were brought."""
        self.left[group] = len(tokens)
        for count in tokens:
            while (*self._idlest[0][:2],) != (self._asked[i := self._idlest[0][2]], self._total[i]):
                heapq.heappop(self._idlest)
            self._total[i] += 1
            self._count(i, 1)
            self.engines[i].submit(count, group)

    def _count(self, i: int, change: int) -> None:
        self._asked[i] += change
        heapq.heappush(self._idlest, (self._asked[i], self._total[i], i))

    def ready(self) -> None:
        """Has to be called when engines were changed from outside, before `next`."""
        self._ends = sorted((engine.next_end(), i) for i, engine in enumerate(self.engines))

    def next(self, until: float = math.inf) -> float | None:
        """Generates until the next completion ends; returns the time, or None if that is after `until`."""
        now, i = self._ends[0]
        if now > until or now == math.inf:
            return None
        group = self.engines[i].finish()
        heapq.heapreplace(self._ends, (self.engines[i].next_end(), i))
        self._count(i, -1)
        self.left[group] -= 1
        if not self.left[group]:
            del self.left[group]
            self.done.append(group)
        return now

    def generate(self, until: float) -> None:
        """Brings all engines to a time."""
        while self.next(until) is not None:
            pass
        for engine in self.engines:
            engine.generate(until)


@dataclass(frozen=True)
class Cluster:
    """Devices, and how long their work takes, in seconds.

    Attributes:
        servers: vLLM servers.
        steps: Of each server: see `Engine`.
        train: Training on groups, each given as the tokens of its completions.
        sync: Sending the weights, during which neither the trainer nor a server works.
        reading: For a token that a server reads again after an interruption.
        grade: Grading a group, in the trainer's thread.
    """

    servers: int
    steps: Sequence[float]
    train: Callable[[Sequence[Sequence[int]]], float]
    sync: float = 0.0
    reading: float = 0.0
    grade: float = 0.0


@dataclass(frozen=True)
class Updates:
    """What was measured, over the updates after the first ones.

    Attributes:
        seconds: Of an update.
        trains: The share of the time in which the trainer trains.
        generates: The share of the time in which a server generates at least one completion.
        used: The generated tokens as a share of what the servers would generate with no place empty.
        staleness: The largest number of updates between the start of a group and its training.
    """

    seconds: float
    trains: float
    generates: float
    used: float
    staleness: int


def asynchronous(
    cluster: Cluster,
    lengths: Callable[[int], Sequence[int]],
    groups: int,
    *,
    staleness: int,
    in_flight: bool = True,
    updates: int = 8,
    first: int | None = None,
) -> Updates:
    """Simulates training with groups that are started at most `staleness` updates before they are trained on.

    Args:
        lengths: The tokens of the completions of a group, by its number.
        groups: Groups of an update.
        in_flight: Whether completions are interrupted for new weights, or finished before.
        updates: Updates that are measured.
        first: Updates before these; by default `staleness` and two more.
    """
    pacing, servers = Pacing(groups, staleness), Servers([Engine(cluster.steps) for _ in range(cluster.servers)])
    first = staleness + 2 if first is None else first
    now = trained = began = began_busy = 0.0
    synced, oldest, tokens = -1, 0, 0
    while pacing.version < first + updates:
        if pacing.version == first:
            servers.generate(now)
            began, trained, tokens = now, 0.0, 0
            began_busy = sum(engine.busy for engine in servers.engines)
        while True:
            if room := pacing.room():
                servers.generate(now)
                if synced != pacing.version:
                    now = _synced(cluster, servers, now, in_flight=in_flight)
                    synced = pacing.version
                for ticket in [pacing.start(0) for _ in range(room)]:
                    servers.submit(ticket.number, lengths(ticket.number))
                servers.ready()
            if pacing.ready():
                break
            while servers.next(now) is not None:
                pass
            while not servers.done:
                now = servers.next() or now
            now += cluster.grade * len(servers.done)
            for number in servers.done:
                pacing.finish(number, lengths(number))
            servers.done = []
        taken, version = pacing.take(), pacing.version - 1
        oldest = max(oldest, *(version - ticket.version for ticket in taken))
        took = cluster.train([ticket.group for ticket in taken])
        now, trained = now + took, trained + took
        tokens += sum(sum(ticket.group) for ticket in taken)
    servers.generate(now)
    span = now - began
    busy = sum(engine.busy for engine in servers.engines) - began_busy
    full = (len(cluster.steps) - 1) / cluster.steps[-1]
    generates = busy / cluster.servers / span
    return Updates(span / updates, trained / span, generates, tokens / (full * cluster.servers * span), oldest)


def _synced(cluster: Cluster, servers: Servers, now: float, *, in_flight: bool) -> float:
    """Sends new weights to all servers; returns the time after it."""
    if not in_flight:
        servers.ready()
        while (end := servers.next()) is not None:
            now = max(now, end)
        servers.generate(now)
    now += cluster.sync
    for engine in servers.engines:
        engine.interrupt(now, cluster.reading)
    return now
