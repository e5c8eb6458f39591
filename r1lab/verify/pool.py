"""Worker processes with hard deadlines, for graders that may hang, crash or eat memory.

SymPy can hold Python's interpreter lock for minutes inside one big multiplication: no thread, signal handler or
timeout of the same process then runs. So graders run in processes of their own, which are killed at the deadline.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

from r1lab.verify.server import COMMAND, FORK, KILL

MEMORY = 512 << 20
STUCK = 0.2  # seconds on one item after which another worker takes over the queue
MOST_STUCK = 16
CHUNK = 8

# Of the process as it starts: vLLM pins the calling thread to one core later on.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


class Outcome(NamedTuple):
    """What became of one item: `status` is `ok` (with the task's `value`), `timeout`, `memory`, `died` or `error`."""

    status: str
    value: object = None


@dataclass(eq=False)
class _Worker:
    number: int
    connection: Connection
    pid: int = 0
    items: deque = field(default_factory=deque)  # indices sent and not yet answered; the first is being worked on
    since: float = 0.0
    stuck: bool = False


class Pool:
    """Runs one task on many items in worker processes.

    An item that exceeds its deadline costs one worker, which is killed with its children and replaced; its outcome is
    `timeout`. A worker that is busy with one item for a fifth of a second is set aside, at the lowest priority, and
    another takes its place: items that hang do not keep the others waiting, and a batch takes its ordinary time plus
    one deadline. Safe to call from any thread (one batch at a time). In a forked process `shared` gives a pool of its
    own.

    Args:
        task: `module:function`. The function takes the values of an item and returns what JSON can hold.
        workers: How many processes work at a time. Default: the cores, divided among the ranks on this machine.
        deadline: Seconds for one item.
        memory: Bytes that a worker may use beyond what it starts with (Linux).
    """

    def __init__(self, task: str, *, workers: int | None = None, deadline: float = 5.0, memory: int = MEMORY):
        self.task, self.deadline, self.memory = task, deadline, memory
        self.workers = workers or max(1, len(CORES) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        self._lock = threading.Lock()
        self._server: subprocess.Popen | None = None
        self._control: socket.socket | None = None
        self._idle: list[_Worker] = []
        self._count = 0

    def map(self, items: list[tuple], *, deadline: float | None = None) -> list[Outcome]:
        """The outcome of the task on each item, in order; an item is the tuple of the task's arguments.

        Raises:
            RuntimeError: The task cannot be imported.
        """
        with self._lock:
            self._start()
            busy: dict[Connection, _Worker] = {}
            try:
                return self._run(items, self.deadline if deadline is None else deadline, busy)
            finally:  # whoever is still busy after an interrupt works for nobody
                for worker in busy.values():
                    self._kill(worker)

    def close(self) -> None:
        """End the server and its workers."""
        with self._lock:
            if self._server:
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

    def _run(self, items: list[tuple], deadline: float, busy: dict[Connection, _Worker]) -> list[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(items)
        queue, died = deque(range(len(items))), set()
        chunk = min(CHUNK, max(1, len(items) // (4 * self.workers)))
        while queue or busy:
            set_aside = sum(worker.stuck for worker in busy.values())
            while queue and len(busy) - set_aside < self.workers:
                worker = self._idle.pop() if self._idle else self._fork()
                busy[worker.connection] = worker
                self._send(worker, items, queue, chunk)
            patience = STUCK if set_aside < MOST_STUCK else deadline
            limits = {c: deadline if w.stuck else min(patience, deadline) for c, w in busy.items()}
            first = min(worker.since + limits[c] for c, worker in busy.items())
            for connection in wait(list(busy), timeout=max(0.0, first - time.monotonic())):
                worker = busy[connection]
                try:
                    answer = json.loads(connection.recv_bytes())
                except (EOFError, OSError):
                    if worker.items:  # crashed or killed: by its item, or by chance, so the item has a second go
                        item = worker.items.popleft()
                        if item in died:
                            outcomes[item] = Outcome("died")
                        else:
                            died.add(item)
                            queue.append(item)
                    self._retire(worker, busy, queue)
                    continue
                worker.since = time.monotonic()
                if isinstance(answer, int):  # its first words are its process id
                    worker.pid = answer
                    continue
                outcomes[worker.items.popleft()] = Outcome(*answer)
                if worker.stuck or answer[0] == "memory":
                    self._retire(worker, busy, queue)
                elif worker.items:
                    continue
                elif queue:
                    self._send(worker, items, queue, chunk)
                else:
                    del busy[connection]
                    self._idle.append(worker)
            for connection, worker in list(busy.items()):
                late = time.monotonic() - worker.since
                if late < min(STUCK, deadline) or connection.poll():  # it may be this thread that was held up
                    continue
                if late >= deadline:
                    outcomes[worker.items.popleft()] = Outcome("timeout")
                    self._retire(worker, busy, queue)
                elif not worker.stuck and sum(w.stuck for w in busy.values()) < MOST_STUCK:
                    worker.stuck = True
                    while len(worker.items) > 1:
                        queue.appendleft(worker.items.pop())
                    with contextlib.suppress(OSError):
                        os.setpriority(os.PRIO_PROCESS, worker.pid, 19)
        return outcomes

    def _send(self, worker: _Worker, items: list[tuple], queue: deque, chunk: int) -> None:
        worker.items.extend(queue.popleft() for _ in range(min(chunk, len(queue))))
        worker.since = time.monotonic()
        with contextlib.suppress(OSError):  # it is dead: the read that follows finds out
            worker.connection.send_bytes(json.dumps([items[i] for i in worker.items]).encode())

    def _retire(self, worker: _Worker, busy: dict[Connection, _Worker], queue: deque) -> None:
        queue.extendleft(reversed(worker.items))
        del busy[worker.connection]
        self._kill(worker)

    def _start(self) -> None:
        if self._server and self._server.poll() is None:
            return
        self._drop()
        self._control, theirs = socket.socketpair()
        numbers = [str(theirs.fileno()), str(os.getpid()), str(self.memory), json.dumps(CORES)]
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", "r1lab.verify.server", self.task, *numbers],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        theirs.close()
        if not self._control.recv(1):
            self._drop()
            raise RuntimeError(f"{self.task}: the grading server does not start; its error stands above")

    def _fork(self) -> _Worker:
        ours, theirs = socket.socketpair()
        self._count += 1
        try:
            socket.send_fds(self._control, [COMMAND.pack(FORK, self._count)], [theirs.fileno()])
        except OSError:  # the server was killed
            self._server.wait()
            self._start()
            socket.send_fds(self._control, [COMMAND.pack(FORK, self._count)], [theirs.fileno()])
        theirs.close()
        return _Worker(self._count, Connection(ours.detach()))

    def _kill(self, worker: _Worker) -> None:
        worker.connection.close()
        with contextlib.suppress(OSError):  # the server is gone, and its workers with it
            self._control.sendall(COMMAND.pack(KILL, worker.number))


_shared: dict[str, Pool] = {}


def shared(task: str) -> Pool:
    """This process's pool for a task, started when it is first used.

    >>> shared("r1lab.verify.pool:echo").map([("one", 1), ("two", 2)])
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
