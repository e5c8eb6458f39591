"""Worker processes with hard deadlines, for graders that may hang, crash or use too much memory.

SymPy can hold Python's interpreter lock for minutes inside one big multiplication, when no thread, signal handler or
timeout of the same process can run. So graders run in separate processes, which are killed at the deadline.

A verdict does not depend on what else the machine does: deadlines are in CPU time; an item that fails, which may be
due to others running at the same time, is graded once more alone; and a lack of memory or processes on the machine
raises.
"""

import contextlib
import json
import os
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from r1lab.errors import MachineError
from r1lab.grading.clock import Watch
from r1lab.grading.fork_server import STARTS, ForkServer, Worker, default_workers

MEMORY = 512 << 20
FIRST = 1.0  # CPU seconds of an item's first try: normal ones take a hundredth, and hanging ones go last
CAP = 60.0  # wall-clock seconds for an item that sleeps
CHUNK = 8
CONVINCED = 4  # items that failed again when alone; the others then need not be alone


class Outcome(NamedTuple):
    """The outcome of one item: `status` is `ok` (with the task's `value`), `timeout`, `memory`, `died` or `error`.

    A first try may also end as `machine` or `killed`, which no batch returns: if it happens twice, it is a
    `MachineError`.
    """

    status: str
    value: Any = None  # JSON-serializable


@dataclass(eq=False)
class _Worker(Worker):
    ready: bool = False
    seconds: float = 0.0  # of CPU time, when it started its current item
    items: deque = field(default_factory=deque)  # indices sent and not yet answered; the first is in progress
    watch: Watch | None = None


class Pool:
    """Runs one task on many items in worker processes.

    An item that exceeds its deadline costs one worker, which is killed with its children and replaced; its outcome is
    `timeout`. Each item first gets at most one second of CPU time, so that hanging items do not delay the others.
    Items with an outcome other than `ok` or `error` are graded once more in a new worker, with the whole deadline,
    while no other item is graded; once four items have failed again, the others are graded `workers` at a time. There
    are never more than `workers` worker processes.

    Safe to call from any thread (one batch at a time). In a forked process `shared` returns a separate pool.

    Args:
        task: `module:function`. The function takes the values of an item and returns a JSON-serializable value. If the
            module has a function `warm`, it is called before workers are forked, so that its parsing and imports cost
            them no time.
        workers: How many processes work at a time. Default: the cores, divided among the ranks on this machine.
        deadline: CPU seconds for one item, including the worker's children (wall-clock seconds outside Linux).
        memory: Bytes that a worker may use beyond its memory at the start (Linux).
        cap: Wall-clock seconds after which a sleeping item is a timeout too.
    """

    def __init__(
        self,
        task: str,
        *,
        workers: int | None = None,
        deadline: float = 5.0,
        memory: int = MEMORY,
        cap: float = CAP,
    ):
        self.task, self.deadline, self.cap = task, deadline, cap
        self.workers = workers or default_workers()
        self._lock = threading.Lock()
        self._server = ForkServer(task, memory)
        self._idle: list[_Worker] = []

    def map(self, items: list[tuple], *, deadline: float | None = None) -> list[Outcome]:
        """The outcomes of the task on all items, in order; an item is the tuple of the task's arguments.

        Raises:
            MachineError: An item could not be graded for lack of memory or processes on this machine, or the task
                cannot be imported.
        """
        deadline = self.deadline if deadline is None else deadline
        with self._lock:
            try:
                return self._map(items, deadline)
            except OSError as error:  # no process, no socket
                raise MachineError(f"{self.task}: {error}") from error

    def _map(self, items: list[tuple], deadline: float) -> list[Outcome]:
        if self._server.start():
            self._forget()
        first = min(FIRST, deadline)
        outcomes = self._pass(items, first, deadline, chunk=min(CHUNK, max(1, len(items) // (4 * self.workers))))
        unsure = deque(i for i, outcome in enumerate(outcomes) if outcome.status not in ("ok", "error"))
        failed = 0
        while unsure:
            some = list(unsure) if failed >= CONVINCED else [unsure[0]]
            again = self._pass([items[i] for i in some], deadline, deadline, fresh=True)
            for i, outcome in zip(some, again):
                unsure.popleft()
                if outcome.status in ("machine", "killed"):
                    raise MachineError(f"{self.task}: {outcome.value}")
                outcomes[i] = outcome
                failed += outcome.status != "ok"
        return outcomes

    def close(self) -> None:
        """Ends the server and its workers."""
        with self._lock:
            self._server.close()
            self._forget()

    def _forget(self) -> None:
        """Forgets the idle workers: they have ended, or they belong to another process."""
        for worker in self._idle:
            worker.connection.close()
        self._idle = []

    def _pass(
        self, items: list[tuple], limit: float, deadline: float, *, chunk: int = 1, fresh: bool = False
    ) -> list[Outcome]:
        """One try of each item.

        Args:
            limit: CPU seconds after which a worker is killed.
            deadline: CPU seconds after which an answer is too late, no matter when this process sees it.
            chunk: The number of items sent at a time.
            fresh: Whether each item gets a new worker.
        """
        outcomes: dict[int, Outcome] = {}
        queue, busy, starts = deque(range(len(items))), {}, 0
        while fresh and self._idle:
            self._server.end(self._idle.pop())
        try:
            while queue or busy:
                while queue and len(busy) < self.workers:
                    worker = self._idle.pop() if self._idle and not fresh else self._fork(needed=not busy)
                    if worker is None:
                        break
                    busy[worker.connection] = worker
                    self._send(worker, items, queue, chunk, limit)
                ended: dict[_Worker, Outcome | None] = {}  # with the outcome of its current item
                first = min(worker.watch.next for worker in busy.values())
                for connection in wait(list(busy), timeout=max(0.0, first - time.monotonic())):
                    worker = busy[connection]
                    try:
                        answer = json.loads(worker.connection.recv_bytes())
                    except (EOFError, OSError):
                        ended[worker] = None
                        continue
                    if not worker.ready:
                        worker.ready, starts, worker.seconds = True, 0, answer
                        self._begin(worker, limit)
                        continue
                    status, value, seconds = answer
                    late = seconds - worker.seconds > deadline
                    outcomes[worker.items.popleft()] = Outcome("timeout") if late else Outcome(status, value)
                    worker.seconds = seconds
                    if fresh or status in ("memory", "machine"):
                        self._retire(worker, busy, queue)
                    elif worker.items:
                        self._begin(worker, limit)
                    elif queue:
                        self._send(worker, items, queue, chunk, limit)
                    else:
                        del busy[connection]
                        self._idle.append(worker)
                for connection, worker in busy.items():
                    if worker not in ended and worker.watch.over() and not connection.poll():
                        ended[worker] = Outcome("timeout")
                for worker, outcome in ended.items():
                    item = worker.items.popleft()
                    status = self._retire(worker, busy, queue)
                    if worker.ready:
                        outcomes[item] = outcome or death(status)
                        continue
                    queue.appendleft(item)
                    starts += 1
                    if starts == STARTS:
                        raise MachineError(f"{self.task}: {STARTS} workers in a row ended before they were ready")
        finally:  # workers that are still busy after an interrupt are no longer needed
            for worker in list(busy.values()):
                self._retire(worker, busy, queue)
        return [outcomes[i] for i in range(len(items))]

    def _send(self, worker: _Worker, items: list[tuple], queue: deque, chunk: int, limit: float) -> None:
        worker.items.extend(queue.popleft() for _ in range(min(chunk, len(queue))))
        self._begin(worker, limit)
        with contextlib.suppress(OSError):  # it is dead: the following read finds out
            worker.connection.send_bytes(json.dumps([items[i] for i in worker.items]).encode())

    def _begin(self, worker: _Worker, limit: float) -> None:
        worker.watch = Watch(worker.pid, limit, self.cap, worker.seconds)

    def _retire(self, worker: _Worker, busy: dict, queue: deque) -> int:
        """Ends a worker and returns its unstarted items to the queue; the return value is its waitpid(2) status."""
        queue.extendleft(reversed(worker.items))
        del busy[worker.connection]
        return self._server.end(worker)

    def _fork(self, *, needed: bool) -> _Worker | None:
        """A new worker; None if the machine cannot start one and the running ones suffice."""
        try:
            worker = self._server.fork()
        except MachineError:
            if needed:
                raise
            return None
        return _Worker(worker.pid, worker.connection)


def death(status: int) -> Outcome:
    """The outcome of an item whose worker ended by itself; being killed is not the item's fault."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Outcome("killed", "a worker was killed, as the kernel does when no memory is left")
    return Outcome("died")


_shared: dict[str, Pool] = {}


def shared(task: str) -> Pool:
    """This process's pool for a task, started at its first use.

    >>> shared("r1lab.grading.pool:echo").map([("one", 1), ("two", 2)])
    [Outcome(status='ok', value=['one', 1]), Outcome(status='ok', value=['two', 2])]
    """
    if task not in _shared:
        _shared[task] = Pool(task)
    return _shared[task]


def echo(*values) -> list:
    """Returns the item, which measures the overhead of the pool."""
    return list(values)


def _after_fork() -> None:
    for pool in _shared.values():
        pool._forget()  # closes only this process's ends of the sockets
        pool._server.drop()
    _shared.clear()


os.register_at_fork(after_in_child=_after_fork)
