"""Which groups asynchronous training may start, and in which order it trains on them; no tensors, no clock, no engine.

Groups are started in the order of the data and trained on in the order in which they were started. So the prompts of
an update do not depend on how long their answers take; training on whatever finishes first would favor short answers.

The bound on staleness is kept by pacing, not by throwing groups away (the capacity of SkyRL's and AReaL's schedulers,
arXiv:2505.24298, equation 3): with weights of version v and G groups per update, a group may be started only while

    started - dropped < (v + staleness + 1) * G.

The group then has a place below (v + staleness + 1) * G among those that are trained, and is trained in update
v + staleness at the latest. Dropping a group only moves later ones forward, so the bound holds for them too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Ticket:
    """A group in flight: started, and neither trained nor dropped.

    Attributes:
        number: How many groups were started before it.
        prompt: The index of its prompt in the data.
        version: The version of the weights when it was started.
        group: The group, None until it is finished.
    """

    number: int
    prompt: int
    version: int
    group: Any = None


@dataclass
class Pacing:
    """The groups in flight of a training, and how many more may be started.

    Every prompt that was started is trained, dropped, or in `queue`, so its state is a complete account of the
    prompts: a resumed training neither skips nor repeats one.

    Args:
        groups: Groups of an update, G.
        staleness: The maximum number of updates between the first token of a group and its training.
        updates: The updates of the whole training, so that no group is started that would not be trained; None if
            unknown.
        max_dropped: How many groups may be dropped between two updates. Further ones are kept.

    Attributes:
        version: Updates so far. An update here is one batch of groups, whatever number of optimizer steps it takes.
        started, dropped: Groups so far.
        dropped_now: Groups dropped since the last update.
        queue: The groups in flight, in the order in which they were started.
    """

    groups: int
    staleness: int
    updates: int | None = None
    max_dropped: int = 0
    version: int = 0
    started: int = 0
    dropped: int = 0
    dropped_now: int = 0
    queue: list[Ticket] = field(default_factory=list)

    def room(self) -> int:
        """Returns how many groups may be started now.

        >>> pacing = Pacing(groups=2, staleness=1)
        >>> pacing.room(), [pacing.start(prompt).number for prompt in (5, 3)], pacing.room()
        (4, [0, 1], 2)
        """
        last = self.version + self.staleness + 1
        if self.updates is not None:
            last = min(last, self.updates)
        return max(0, last * self.groups - (self.started - self.dropped))

    def start(self, prompt: int) -> Ticket:
        """Starts a group; there must be room."""
        assert self.room() > 0
        ticket = Ticket(self.started, prompt, self.version)
        self.queue.append(ticket)
        self.started += 1
        return ticket

    def finish(self, number: int, group: Any, *, keep: bool = True) -> bool:
        """Records a finished group; returns whether it was kept.

        Args:
            keep: Whether the group is worth training on. If not, it is dropped, while `max_dropped` allows it.
        """
        (ticket,) = [ticket for ticket in self.queue if ticket.number == number]
        if keep or self.dropped_now >= self.max_dropped:
            ticket.group = group
            return True
        self.queue.remove(ticket)
        self.dropped += 1
        self.dropped_now += 1
        return False

    def unfinished(self) -> Iterator[Ticket]:
        """Yields the groups in flight that are still generated, the oldest first."""
        return (ticket for ticket in self.queue if ticket.group is None)

    def ready(self) -> bool:
        """Whether the groups of the next update are finished."""
        first = self.queue[: self.groups]
        return len(first) == self.groups and all(ticket.group is not None for ticket in first)

    def take(self) -> list[Ticket]:
        """Returns the groups of the next update, which must be ready, and counts the update."""
        assert self.ready()
        taken, self.queue = self.queue[: self.groups], self.queue[self.groups :]
        self.version += 1
        self.dropped_now = 0
        return taken

    def state(self) -> dict:
        """Returns its state for a checkpoint; unfinished groups are without a group, and are started again."""
        names = ("version", "started", "dropped", "dropped_now")
        return {name: getattr(self, name) for name in names} | {
            "queue": [vars(ticket).copy() for ticket in self.queue]
        }

    def load(self, state: dict) -> list[Ticket]:
        """Restores the state of a checkpoint; returns the unfinished groups, which have to be started again.

        Their place in the order stays. Their version becomes the present one, since none of their tokens is kept.
        """
        for name, value in state.items():
            setattr(self, name, value)
        self.queue = [Ticket(**ticket) for ticket in state["queue"]]
        again = list(self.unfinished())
        for ticket in again:
            ticket.version = self.version
        return again
