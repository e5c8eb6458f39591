"""The process that forks grading workers, and what a worker does. `r1lab.verify.pool` starts and commands it.

It has one thread and imports the task before it forks, so that a new worker costs some ten milliseconds, where a fresh
interpreter with SymPy would cost a second; and it holds no work of its own, so that it can always answer.
"""

import contextlib
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from multiprocessing.connection import Connection

COMMAND = struct.Struct("!cI")  # FORK with the worker's socket, or KILL; the worker's number
FORK, KILL = b"f", b"k"


def main(task_name: str, control_fd: int, parent: int, memory: int, cores: list[int]) -> None:
    """Serve fork and kill commands until the parent is gone; then kill every worker.

    Args:
        task_name: `module:function`; the function takes an item's values and returns something that JSON holds.
        control_fd: The socket that commands come on.
        parent: Its process id: a fork of the parent may hold the socket open, so its end alone is no sign.
        memory: Bytes that a worker may use beyond what it starts with.
        cores: The cores to run on: the thread that starts the pool may be pinned to one of them, as vLLM does.
    """
    control = socket.socket(fileno=control_fd)
    with contextlib.suppress(AttributeError, OSError):  # no affinity on this system, or fewer cores by now
        os.sched_setaffinity(0, cores)
    module, _, function = task_name.partition(":")
    task = getattr(importlib.import_module(module), function)
    control.sendall(b"r")
    workers: dict[int, int] = {}
    while os.getppid() == parent:
        if not select.select([control], [], [], 1.0)[0]:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, COMMAND.size, 1)
        if not message:
            break
        command, number = COMMAND.unpack(message)
        if command == FORK:
            pid = os.fork()
            if pid == 0:
                control.close()
                _serve(task, Connection(descriptors[0]), memory)
                os._exit(0)
            os.close(descriptors[0])
            with contextlib.suppress(OSError):  # the worker did it first
                os.setpgid(pid, pid)
            workers[number] = pid
        else:
            _end(workers.pop(number))
    for pid in workers.values():
        _end(pid)


def _end(pid: int) -> None:
    """Kill a worker with its children. It is waited for only here, so that its number cannot be another's by now."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _serve(task, connection: Connection, memory: int) -> None:
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    server = os.getppid()
    if sys.platform == "linux":  # elsewhere a worker that hangs outlives a server that is killed
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    if os.getppid() != server:  # it died before it was watched
        return
    connection.send_bytes(json.dumps(os.getpid()).encode())
    try:
        while True:
            for item in json.loads(connection.recv_bytes()):
                connection.send_bytes(json.dumps(_outcome(task, item)).encode())
    except (EOFError, ConnectionError):  # the pool wants this worker no more
        return


def _outcome(task, item: list) -> list:
    try:
        return ["ok", task(*item)]
    except MemoryError:
        return ["memory", ""]
    except Exception as error:  # whatever a grader meets costs its row alone
        return ["error", f"{type(error).__name__}: {error}"[:500]]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), json.loads(sys.argv[5]))
