"""Where environments run. `LocalHost` runs them in this process, one call after another."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from r1lab.environments.base import Reply, Turn
from r1lab.environments.toolset import Session


@dataclass
class Event:
    """What became of a request to a host.

    Attributes:
        key: The episode.
        kind: `reset`, `step` or `end` for the request of this name, or `failed`.
        text: What the prompt ends with, after `reset`; after `failed`, what happened.
        replies: After `step`.
        reward, info: After `end`.
        timeout: Whether a request failed because it exceeded its deadline.
        during: Which request failed.
        seconds: How long the request took.
    """

    key: int
    kind: str
    text: str | None = None
    replies: list[Reply] = field(default_factory=list)
    reward: float | dict[str, float] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    timeout: bool = False
    during: str = ""
    seconds: float = 0.0


class Host(Protocol):
    """Runs the environments of many episodes. Requests return at once; `events` has what became of them."""

    def reset(self, key: int, row: dict, seed: int) -> None:
        """Starts an episode."""
        ...

    def step(self, key: int, turn: Turn) -> None:
        """Hands a turn to the environment of an episode."""
        ...

    def end(self, key: int) -> None:
        """Ends an episode: asks for its reward, and closes its environment."""
        ...

    def events(self, *, wait: bool) -> list[Event]:
        """Returns what has happened since the last call.

        Args:
            wait: Whether to wait until something has happened, if a request is pending.
        """
        ...

    def close(self) -> None:
        """Ends all episodes."""
        ...


class LocalHost:
    """Runs environments in this process, without deadlines: for r1lab's own, which need none.

    Args:
        make: Returns the session of a new episode.
    """

    def __init__(self, make: Callable[[], Session]):
        self.make = make
        self.sessions: dict[int, Session] = {}
        self._events: deque[Event] = deque()

    def reset(self, key: int, row: dict, seed: int) -> None:
        """See `Host`."""

        def run() -> Event:
            self.sessions[key] = self.make()
            return Event(key, "reset", text=self.sessions[key].reset(row, seed))

        self._run(key, "reset", run)

    def step(self, key: int, turn: Turn) -> None:
        """See `Host`."""
        self._run(key, "step", lambda: Event(key, "step", replies=self.sessions[key].step(turn)))

    def end(self, key: int) -> None:
        """See `Host`."""
        session = self.sessions.pop(key, None)

        def run() -> Event:
            if session is None:
                return Event(key, "end")
            try:
                return Event(key, "end", reward=session.reward(), info=session.info())
            finally:
                session.close()

        self._run(key, "end", run)

    def _run(self, key: int, kind: str, run: Callable[[], Event]) -> None:
        began = time.perf_counter()
        try:
            event = run()
        except Exception as error:  # a user's environment may raise anything, which costs its episode
            event = Event(key, "failed", text=f"{type(error).__name__}: {error}", during=kind)
        event.seconds = time.perf_counter() - began
        self._events.append(event)

    def events(self, *, wait: bool) -> list[Event]:
        """See `Host`."""
        found = list(self._events)
        self._events.clear()
        return found

    def close(self) -> None:
        """See `Host`."""
        for session in self.sessions.values():
            session.close()
        self.sessions.clear()
