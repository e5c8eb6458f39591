"""Worker processes with hard deadlines, for graders that may hang, crash or eat memory.

SymPy can hold Python's interpreter lock for minutes inside one big multiplication: no thread, signal handler or
timeout of the same process then runs. So graders run in processes of their own, which are killed at the deadline.

A verdict does not depend on what else the machine does: deadlines are of CPU time, what fails may fail for the company
that it had and is graded once more by itself, and what fails for lack of memory or processes on the machine raises.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from r1lab.errors import MachineError
from r1lab.grading.clock import Watch
from r1lab.grading.pool_server import COMMAND, FORK, KILL, REPLY

MEMORY = 512 << 20
FIRST = 1.0  # CPU seconds of an item's first try: ordinary ones take a hundredth, and those that hang come last
CAP = 60.0  # seconds by the wall clock for an item that sleeps
CHUNK = 8
CONVINCED = 4  # items that failed again by themselves; the others then need not be alone
STARTS = 3  # workers in a row that end before they are ready

# Of the process as it starts: vLLM pins the calling thread to one core later on.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


class Outcome(NamedTuple):
    """What became of one item: `status` is `ok` (with the task's `value`), `timeout`, `memory`, `died` or `error`.

    A first try may also end as `machine` or `killed`, which no batch returns: twice so is a `MachineError`.
    """

    status: str
    value: Any = None  # what JSON can hold


@dataclass(eq=False)
class _Worker:
    pid: int
    connection: Connection
    ready: bool = False
    seconds: float = 0.0  # of CPU time, when it began with its present item
    items: deque = field(default_factory=deque)  # indices sent and not yet answered; the first is being worked on
    watch: Watch | None = None


class Pool:
    """Runs one task on many items in worker processes.

    An item that exceeds its deadline costs one worker, which is killed with its children and replaced; its outcome is
    `timeout`. Each item first gets a second of CPU time at most, so that those that hang do not keep the others
    waiting. What ended as anything but `ok` or `error` is graded once more in a new worker, with the whole deadline,
    while no other item is graded; once four items have failed again, the others are graded `workers` at a time. There
    are never more than `workers` worker processes.

    Safe to call from any thread (one batch at a time). In a forked process `shared` gives a pool of its own.

    Args:
        task: `module:function`. The function takes the values of an item and returns what JSON can hold. If the module
            has a function `warm`, it is called before workers are forked: what it has parsed costs none of them time.
        workers: How many processes work at a time. Default: the cores, divided among the ranks on this machine.
        deadline: Seconds of CPU time for one item, the worker's and its children's (not on Linux: by the wall clock).
        memory: Bytes that a worker may use beyond what it starts with (Linux).
        cap: Seconds by the wall clock after which an item that sleeps is a timeout too.
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
        self.task, self.deadline, self.memory, self.cap = task, deadline, memory, cap
        self.workers = workers or max(1, len(CORES) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        self._lock = threading.Lock()
        self._server: subprocess.Popen | None = None
        self._control: socket.socket | None = None
        self._idle: list[_Worker] = []

    def map(self, items: list[tuple], *, deadline: float | None = None) -> list[Outcome]:
        """The outcome of the task on each item, in order; an item is the tuple of the task's arguments.

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
        self._start()
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
        """End the server and its workers."""
        with self._lock:
            if self._server and self._control:
                self._control.close()  # which the server takes as its end
                self._server.wait()
            self._drop()

    def _drop(self) -> None:
        """Forget the server: it is gone, or it is another process's."""
        for worker in self._idle:
            worker.connection.close()
        if self._control:
            self._control.close()
        self._idle, self._server, self._control = [], None, None

    def _pass(
        self, items: list[tuple], limit: float, deadline: float, *, chunk: int = 1, fresh: bool = False
    ) -> list[Outcome]:
        """One try of each item.

        Args:
            limit: CPU seconds after which a worker is killed.
            deadline: CPU seconds after which an answer comes too late, however late this process sees it.
            chunk: Items sent at a time.
            fresh: Give each item a new worker.
        """
        outcomes: dict[int, Outcome] = {}
        queue, busy, starts = deque(range(len(items))), {}, 0
        while fresh and self._idle:
            self._end(self._idle.pop())
        try:
            while queue or busy:
                while queue and len(busy) < self.workers:
                    worker = self._idle.pop() if self._idle and not fresh else self._fork(needed=not busy)
                    if worker is None:
                        break
                    busy[worker.connection] = worker
                    self._send(worker, items, queue, chunk, limit)
                ended: dict[_Worker, Outcome | None] = {}  # with what became of the item that it was at
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
                        outcomes[item] = outcome or _death(status)
                        continue
                    queue.appendleft(item)
                    starts += 1
                    if starts == STARTS:
                        raise MachineError(f"{self.task}: {STARTS} workers in a row ended before they were ready")
        finally:  # whoever is still busy after an interrupt works for nobody
            for worker in list(busy.values()):
                self._retire(worker, busy, queue)
        return [outcomes[i] for i in range(len(items))]

    def _send(self, worker: _Worker, items: list[tuple], queue: deque, chunk: int, limit: float) -> None:
        worker.items.extend(queue.popleft() for _ in range(min(chunk, len(queue))))
        self._begin(worker, limit)
        with contextlib.suppress(OSError):  # it is dead: the read that follows finds out
            worker.connection.send_bytes(json.dumps([items[i] for i in worker.items]).encode())

    def _begin(self, worker: _Worker, limit: float) -> None:
        worker.watch = Watch(worker.pid, limit, self.cap, worker.seconds)

    def _retire(self, worker: _Worker, busy: dict, queue: deque) -> int:
        """End a worker and put back what it has not begun; how it ended, as waitpid(2) says it."""
        queue.extendleft(reversed(worker.items))
        del busy[worker.connection]
        return self._end(worker)

    def _end(self, worker: _Worker) -> int:
        worker.connection.close()
        ended = self._command(KILL, worker.pid)
        return signal.SIGKILL if ended is None else ended  # the server is gone, and its workers with it

    def _start(self) -> None:
        if self._server and self._server.poll() is None and self._control:
            return
        self._drop()
        self._control, theirs = socket.socketpair()
        numbers = [str(theirs.fileno()), str(os.getpid()), str(self.memory), json.dumps(CORES)]
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", "r1lab.grading.pool_server", self.task, *numbers],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        theirs.close()
        if not self._control.recv(1):
            self._drop()
            raise MachineError(f"{self.task}: the grading server does not start; its error stands above")

    def _fork(self, *, needed: bool) -> _Worker | None:
        """A new worker; None where the machine gives none and those at work will do."""
        ours, theirs = socket.socketpair()
        with theirs:
            pid = self._command(FORK, 0, theirs.fileno())
            if pid is None:  # the server was killed
                if self._server:
                    self._server.wait()
                self._start()
                pid = self._command(FORK, 0, theirs.fileno())
        if pid is not None and pid > 0:
            return _Worker(pid, Connection(ours.detach()))
        ours.close()
        if needed:
            why = "its server was killed" if pid is None else os.strerror(-pid)
            raise MachineError(f"{self.task}: no worker can be started: {why}")
        return None

    def _command(self, command: bytes, number: int, *descriptors: int) -> int | None:
        """The server's reply; None where it is gone."""
        if self._control is None:
            return None
        try:
            socket.send_fds(self._control, [COMMAND.pack(command, number)], descriptors)
            reply = self._control.recv(REPLY.size)
        except OSError:
            return None
        except BaseException:  # an interrupt: the reply that is still to come would be taken for the next one
            self._drop()
            raise
        return REPLY.unpack(reply)[0] if reply else None


def _death(status: int) -> Outcome:
    """What the end of a worker that nobody here has ended says of its item: to kill it is not an item's doing."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return Outcome("killed", "a worker was killed, as the kernel does where there is no memory left")
    return Outcome("died")


_shared: dict[str, Pool] = {}


def shared(task: str) -> Pool:
    """This process's pool for a task, started when it is first used.

    >>> shared("r1lab.grading.pool:echo").map([("one", 1), ("two", 2)])
    [Outcome(status='ok', value=['one', 1]), Outcome(status='ok', value=['two', 2])]
    """
    if task not in _shared:
        _shared[task] = Pool(task)
    return _shared[task]


def echo(*values) -> list:
    """The item itself: what a grading costs beside the grading."""
    return list(values)


def _after_fork() -> None:
    for pool in _shared.values():
        pool._drop()  # only this process's ends of the sockets
    _shared.clear()


os.register_at_fork(after_in_child=_after_fork)
