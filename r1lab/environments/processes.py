"""Runs environments in worker processes with deadlines, so that one that hangs or crashes costs its episode alone.

An episode stays with one *lane*: a thread here, and the worker process that it uses. A lane handles one request at a
time. When its worker hangs or ends, it gets a new one, and an episode of the old one is replayed there when its next
request comes: `reset` with the same seed, and the turns so far. Its environment must then say what it said before.
"""

import hashlib
import json
import os
import socket
import struct
import threading
import time
from dataclasses import asdict, dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from r1lab.environments.base import LONGEST, Reply, Turn
from r1lab.environments.host import Event
from r1lab.errors import MachineError, UserError
from r1lab.grading.clock import Watch, kills_for_memory, used
from r1lab.grading.fork_server import STARTS, ForkServer, Worker, default_workers
from r1lab.grading.pool import Outcome, death

MEMORY = 2 << 30
CAP = 300.0
RESET = 30.0
"""CPU seconds of a reset, and of an end, by default."""

CLOSING = 5.0
"""Seconds that environments get to close when the host does."""

STALLED = 120  # seconds without progress in the middle of a request or an outcome
_READ = 32 * LONGEST  # bytes of one outcome: a character has up to 12 in JSON
_WAIT = 0.5  # seconds between two attempts to start a worker


class ProcessHost:
    """Runs environments in worker processes: see `r1lab.environments.host.Host`.

    An environment that raises, exits, hangs or uses too much memory costs its own episode (an event `failed`). So does
    the loss of a worker to those of its other episodes that cannot be replayed: `reset` takes no `seed`, or the
    environment replies differently. A step beyond its deadline is `failed` with `timeout`.

    Args:
        make: `module:function`; the function returns the `Session` of an episode from `spec`.
        spec: What to make, JSON-serializable.
        timeout: CPU seconds of a step, including the worker's children (wall-clock seconds outside Linux).
        reset_timeout: CPU seconds of a reset and of an end.
        cap: Wall-clock seconds after which a request that sleeps or waits for others is a timeout too.
        workers: How many processes work at a time. Default: the cores, divided among the ranks on this machine.
        memory: Bytes that a worker, with all its episodes, may use beyond its memory at the start (Linux).
    """

    def __init__(
        self,
        make: str,
        spec: dict,
        *,
        timeout: float = 5.0,
        reset_timeout: float = RESET,
        cap: float = CAP,
        workers: int | None = None,
        memory: int = MEMORY,
    ):
        self.make, self.spec = make, spec
        self.limits = {
            "reset": reset_timeout,
            "step": timeout,
            "end": reset_timeout,
            "drop": CLOSING,
            "close": CLOSING,
        }
        self.cap, self.workers = cap, workers or default_workers()
        self.server = ForkServer("r1lab.environments.worker:handle", memory)
        self.outcomes: SimpleQueue[Event | BaseException] = SimpleQueue()
        self.closing = threading.Event()
        self._lanes: list[_Lane] = []
        self._lane_of: dict[int, _Lane] = {}
        self._pending = 0

    def reset(self, key: int, row: dict, seed: int) -> None:
        """See `Host`.

        Raises:
            UserError: The row is not JSON-serializable.
        """
        try:
            row = json.loads(json.dumps(row))
        except (TypeError, ValueError) as error:
            raise UserError(f"data: an environment cannot get a row: {error}; use numbers, texts and lists") from error
        self.server.start()
        if key not in self._lane_of:
            if len(self._lanes) < self.workers:
                self._lanes.append(_Lane(self))
                self._lanes[-1].thread.start()
            self._lane_of[key] = min(reversed(self._lanes), key=lambda lane: lane.episodes)
            self._lane_of[key].episodes += 1
        self._ask(key, "reset", self.make, self.spec, row, seed)

    def step(self, key: int, turn: Turn) -> None:
        """See `Host`."""
        self._ask(key, "step", asdict(turn))

    def end(self, key: int) -> None:
        """See `Host`."""
        self._ask(key, "end")
        self._lane_of.pop(key).episodes -= 1

    def _ask(self, key: int, kind: str, *given) -> None:
        self._pending += 1
        self._lane_of[key].requests.put((kind, key, *given))

    def events(self, *, wait: bool) -> list[Event]:
        """See `Host`.

        Raises:
            MachineError: This machine has no memory or processes for an environment.
        """
        found = []
        while self._pending:
            try:
                outcome = self.outcomes.get(block=wait and not found)
            except Empty:
                break
            if isinstance(outcome, BaseException):
                raise outcome
            self._pending -= 1
            found.append(outcome)
        return found

    def close(self) -> None:
        """See `Host`. Environments get a few seconds to close; then no process of theirs is left."""
        self.closing.set()
        for lane in self._lanes:
            lane.requests.put(None)
        until = time.monotonic() + CLOSING
        try:
            for lane in self._lanes:
                lane.thread.join(max(0.0, until - time.monotonic()))
        finally:
            self.server.close()
            self._lanes, self._lane_of, self._pending = [], {}, 0


@dataclass
class _Episode:
    """What it takes to replay an episode.

    Attributes:
        history: Its requests, each with a digest of the outcome.
        seeded: Whether `reset` takes a seed, or needs none.
        failed: Whether a request has failed, after which the episode is only closed.
    """

    history: list[tuple[tuple, bytes]] = field(default_factory=list)
    seeded: bool = False
    failed: bool = False


class _Closed(Exception):
    """The host is closing."""


class _Lane:
    """Handles the requests for some of the episodes, one at a time, with a worker process."""

    def __init__(self, host: ProcessHost):
        self.host = host
        self.thread = threading.Thread(target=self._run, name="environments", daemon=True)
        self.requests: SimpleQueue[tuple | None] = SimpleQueue()
        self.episodes = 0  # that are open; the host counts them
        self.busy = False
        self._known: dict[int, _Episode] = {}
        self._worker: Worker | None = None
        self._seconds = 0.0  # the CPU time that the worker had used after its last request
        self._alive: set[int] = set()  # the episodes that the worker has

    def _run(self) -> None:
        """Handles requests until the host closes."""
        try:
            while (request := self.requests.get()) and not self.host.closing.is_set():
                self.busy = True
                event = self._handled(request)
                self.busy = False
                self.host.outcomes.put(event)
            if self._worker and not self._has_ended():
                self._call(("close", 0), replay=True)
        except _Closed:
            pass
        except BaseException as error:  # it belongs to the thread that waits for events
            self.busy = False
            self.host.outcomes.put(error)

    def _handled(self, request: tuple) -> Event:
        began = time.perf_counter()
        kind, key = request[:2]
        if kind == "reset":
            self._known[key] = _Episode()
            self._alive.discard(key)
        episode = self._known[key]
        if episode.failed:
            event = self._dropped(kind, key)
        else:
            event = self._event(kind, key, episode, self._outcome(request, episode), request)
        if kind == "end":
            del self._known[key]
            self._alive.discard(key)
        event.seconds = time.perf_counter() - began
        return event

    def _dropped(self, kind: str, key: int) -> Event:
        """The answer for an episode that has failed before."""
        if kind != "end":
            return Event(key, "failed", text="the episode has failed before", during=kind)
        if key in self._alive and self._worker and not self._has_ended():
            self._call(("drop", key), replay=True)
        return Event(key, "end")

    def _event(self, kind: str, key: int, episode: _Episode, outcome: Outcome, request: tuple) -> Event:
        if outcome.status != "ok":
            episode.failed, episode.history = True, []
            return Event(key, "failed", text=outcome.value, during=kind, timeout=outcome.status == "timeout")
        value = outcome.value
        episode.history.append((request, _digest(value)))
        if kind == "reset":
            episode.seeded = value["seeded"]
            return Event(key, "reset", text=value["text"])
        if kind == "step":
            return Event(key, "step", replies=[Reply(**reply) for reply in value])
        return Event(key, "end", reward=value["reward"], info=value["info"])

    def _outcome(self, request: tuple, episode: _Episode) -> Outcome:
        """The outcome of a request in a worker that has the episode: `ok` with a value, or another with the reason.

        A request is repeated in a new worker, once, if the machine failed or killed the worker.

        Raises:
            MachineError: This machine has no memory or processes.
        """
        before = kills_for_memory()
        outcome = self._restored(request[1], episode) or self._call(request)
        if outcome.status in ("machine", "killed"):
            outcome = self._restored(request[1], episode) or self._call(request)
        if outcome.status not in ("machine", "killed"):
            return outcome
        if outcome.status == "machine" or kills_for_memory() != before:
            raise MachineError(f"environment: {outcome.value}")
        return Outcome("died", f"its process was killed, or closed its connection, during {request[0]}")

    def _restored(self, key: int, episode: _Episode) -> Outcome | None:
        """Replays an episode whose worker is gone; returns why that failed, or None."""
        if self._worker and self._has_ended():
            self._lose()
        if self._worker is None:
            self._worker = self._started()
        if key not in self._alive and episode.history and not episode.seeded:
            why = "its worker ended because of another episode, and it cannot be replayed: reset takes no seed"
            return Outcome("lost", why)
        for request, digest in episode.history if key not in self._alive else ():
            outcome = self._call(request, replay=True)
            if outcome.status in ("machine", "killed"):
                return outcome
            if outcome.status != "ok" or _digest(outcome.value) != digest:
                why = outcome.value if outcome.status != "ok" else f"{request[0]} gives something else"
                return Outcome("lost", f"its worker ended because of another episode, and in the replay {why}")
        self._alive.add(key)
        return None

    def _call(self, request: tuple, *, replay: bool = False) -> Outcome:
        """The outcome of one request in the current worker, which is gone afterwards if it hung or ended."""
        assert self._worker is not None
        kind, limit = request[0], self.host.limits[request[0]]
        watch = Watch(self._worker.pid, limit, self.host.cap, used(self._worker.pid).seconds)
        try:
            self._worker.connection.send_bytes(json.dumps([request]).encode())
            status, value, seconds = self._received(watch)
        except _Over:
            self._lose()
            return Outcome("timeout", f"{kind} exceeded its deadline of {limit:g} s of CPU time")
        except (OSError, EOFError, ValueError, TypeError):  # it has ended, or what it sends is not an outcome
            return self._ended_by_itself(kind)
        late, self._seconds = seconds - self._seconds > limit and not replay, seconds
        if status in ("memory", "machine"):
            self._lose()
            return Outcome(status, value or f"{kind} exceeded the limit of {self.host.server.memory >> 20} MiB")
        if late:
            return Outcome("timeout", f"{kind} exceeded its deadline of {limit:g} s of CPU time")
        if status == "ok" and "value" in value:
            return Outcome("ok", value["value"])
        return Outcome("error", value["failed"] if status == "ok" else value)

    def _received(self, watch: Watch) -> Any:
        """The next thing that the worker sends.

        Raises:
            _Over: It is over its limit.
            OSError, EOFError, ValueError: It has ended, or sends something else.
        """
        assert self._worker is not None
        connection = self._worker.connection
        while not connection.poll(max(0.0, watch.next - time.monotonic())):
            if watch.over() and not connection.poll():
                raise _Over
        return json.loads(connection.recv_bytes(_READ))

    def _ended_by_itself(self, kind: str) -> Outcome:
        status, why = death(self._lose())
        return Outcome(status, why or f"its process ended during {kind}")

    def _lose(self) -> int:
        """Ends the worker with all its processes, and returns its waitpid(2) status."""
        assert self._worker is not None
        worker, self._worker = self._worker, None
        self._alive.clear()
        status = self.host.server.end(worker)
        if self.host.closing.is_set():
            raise _Closed
        return status

    def _has_ended(self) -> bool:
        """Whether the worker has ended between two requests."""
        assert self._worker is not None
        return self._worker.connection.poll()

    def _started(self) -> Worker:
        """A new worker that is ready.

        Raises:
            MachineError: This machine cannot start one.
        """
        for _ in range(STARTS):
            self._worker = self._forked()
            _with_timeouts(self._worker)
            try:
                self._seconds = self._received(Watch(self._worker.pid, RESET, self.host.cap))
                return self._worker
            except (_Over, OSError, EOFError, ValueError):
                self._lose()
        raise MachineError(f"environment: {STARTS} workers in a row ended before they were ready")

    def _forked(self) -> Worker:
        """A new worker. While other lanes are busy, a lack of processes may be their doing, and pass."""
        until = time.monotonic() + self.host.cap
        while True:
            if self.host.closing.is_set():
                raise _Closed
            try:
                return self.host.server.fork()
            except MachineError:
                others = any(lane.busy for lane in self.host._lanes if lane is not self)
                if not others or time.monotonic() > until:
                    raise
            self.host.closing.wait(_WAIT)


class _Over(Exception):
    """A worker is over its limit."""


def _with_timeouts(worker: Worker) -> None:
    """Has reads and writes fail that a stopped worker would block forever."""
    with socket.socket(fileno=os.dup(worker.connection.fileno())) as same:
        for option in socket.SO_SNDTIMEO, socket.SO_RCVTIMEO:
            same.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", STALLED, 0))


def _digest(value: Any) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
