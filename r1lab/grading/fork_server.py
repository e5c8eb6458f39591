"""Starts the process that forks workers, and starts and ends workers through it. `pool_server` is that process."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection

from r1lab.errors import MachineError
from r1lab.grading.pool_server import COMMAND, FORK, KILL, REPLY

STARTS = 3
"""The number of consecutive workers that may end before they are ready."""

# Of the process as it starts: vLLM later pins the calling thread to one core.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def default_workers() -> int:
    """How many processes work at a time by default: the cores, divided among the ranks on this machine."""
    return max(1, len(CORES) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@dataclass(eq=False)
class Worker:
    """A worker process, which first sends its CPU time so far, and then an outcome for each item that it gets."""

    pid: int
    connection: Connection


class ForkServer:
    """A process that forks workers. Safe to use from any thread. Its end is the end of all its workers.

    Args:
        task: `module:function`, what workers do with the values of an item.
        memory: Bytes that a worker may use beyond its memory at the start (Linux).
    """

    def __init__(self, task: str, memory: int):
        self.task, self.memory = task, memory
        self._lock = threading.RLock()
        self._process: subprocess.Popen | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None if it has not been started."""
        return self._process and self._process.pid

    def start(self) -> bool:
        """Starts the server unless it runs; returns whether it has been started.

        Raises:
            MachineError: It does not start, for lack of memory or processes or because the task cannot be imported.
        """
        with self._lock:
            if self._process and self._process.poll() is None and self._control:
                return False
            self.drop()
            self._control, theirs = socket.socketpair()
            numbers = [str(theirs.fileno()), str(os.getpid()), str(self.memory), json.dumps(CORES)]
            path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "r1lab.grading.pool_server", self.task, *numbers],
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # the parent handles Ctrl-C
            )
            theirs.close()
            try:
                started = self._control.recv(1)
            except BaseException:  # an interrupt: the pending byte would be mistaken for a reply
                self.drop()
                raise
            if not started:
                self.drop()
                raise MachineError(
                    f"{self.task}: the server of its workers does not start; its error is printed above"
                )
            return True

    def fork(self) -> Worker:
        """A new worker.

        Raises:
            MachineError: This machine cannot start one.
        """
        with self._lock:
            try:
                ours, theirs = socket.socketpair()
                with theirs:
                    pid = self._command(FORK, 0, theirs.fileno())
                    if pid is None and self._process:  # it was killed, and not closed
                        self._process.wait()
                        self.start()
                        pid = self._command(FORK, 0, theirs.fileno())
            except OSError as error:  # no process, no socket
                raise MachineError(f"{self.task}: {error}") from error
        if pid is not None and pid > 0:
            return Worker(pid, Connection(ours.detach()))
        ours.close()
        why = "its server has ended" if pid is None else os.strerror(-pid)
        raise MachineError(f"{self.task}: no worker can be started: {why}")

    def end(self, worker: Worker) -> int:
        """Kills a worker with its children; the return value is its waitpid(2) status."""
        worker.connection.close()
        with self._lock:
            ended = self._command(KILL, worker.pid)
        return signal.SIGKILL if ended is None else ended  # the server has ended, and its workers with it

    def close(self) -> None:
        """Ends the server and its workers."""
        with self._lock:
            if self._process and self._control:
                self._control.close()  # the server ends when this closes
                self._process.wait()
            self.drop()

    def drop(self) -> None:
        """Forgets the server: it has ended, or it belongs to another process."""
        if self._control:
            self._control.close()
        self._process, self._control = None, None

    def _command(self, command: bytes, number: int, *descriptors: int) -> int | None:
        """The server's reply; None if it has ended."""
        if self._control is None:
            return None
        try:
            socket.send_fds(self._control, [COMMAND.pack(command, number)], descriptors)
            reply = self._control.recv(REPLY.size)
        except OSError:
            return None
        except BaseException:  # an interrupt: the pending reply would be mistaken for the next one
            self.drop()
            raise
        return REPLY.unpack(reply)[0] if reply else None
