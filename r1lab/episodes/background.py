"""Plays groups of episodes in a thread of its own, so that a trainer can train meanwhile."""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import count
from queue import SimpleQueue

from r1lab.episodes.play import Job, Player
from r1lab.episodes.record import Episode


class Background:
    """Plays groups of episodes together, each from when it is submitted; a group is finished with its last episode.

    Args:
        player: Of which nobody else uses the stream and the host.
    """

    def __init__(self, player: Player):
        self.player = player
        self._numbers = count()
        self._given: SimpleQueue[tuple[Future, Sequence[Job]]] = SimpleQueue()
        self._unfinished: set[Future] = set()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        threading.Thread(target=self._work, name="episodes", daemon=True).start()

    def submit(self, jobs: Sequence[Job]) -> "Future[list[Episode]]":
        """Starts a group of episodes; the future of all of them raises what ended the thread, if something has."""
        future: Future[list[Episode]] = Future()
        with self._lock:
            if self._error is not None:
                future.set_exception(self._error)
                return future
            self._unfinished.add(future)
            self._given.put((future, jobs))
        return future

    def _work(self) -> None:
        try:
            self._play()
        except BaseException as error:  # it belongs to the thread that waits for the groups
            with self._lock:
                self._error = error
                for future in self._unfinished:
                    future.set_exception(error)

    def _play(self) -> None:
        player, waiting = self.player, deque[tuple[int, Job]]()
        groups: dict[int, tuple[Future, dict[int, Episode | None]]] = {}  # of each episode that is not finished
        while True:
            while not self._given.empty() or not groups:
                future, jobs = self._given.get()
                numbers = [next(self._numbers) for _ in jobs]
                waiting += zip(numbers, jobs)
                group: dict[int, Episode | None] = dict.fromkeys(numbers)
                groups |= dict.fromkeys(numbers, (future, group))
            while waiting and len(player.states) < player.window:
                player.begin(*waiting.popleft())
            for number, episode in player.advance():
                future, group = groups.pop(number)
                group[number] = episode
                if None not in group.values():
                    with self._lock:
                        self._unfinished.discard(future)
                    future.set_result(list(group.values()))
