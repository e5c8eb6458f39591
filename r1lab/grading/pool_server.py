"""The process that forks workers, and the workers' loop. `r1lab.grading.fork_server` starts and controls it.

It has one thread, and it imports and warms up the task before it forks, so that a new worker costs about ten
milliseconds, where a new interpreter with SymPy would cost a second. It does none of the work itself, so it can always
answer.

A worker ends with all processes that it has started, also those in sessions of their own: each worker adopts the
orphans among its descendants, and this process those of a worker that has ended (Linux).
"""

import contextlib
import ctypes
import errno
import gc
import importlib
import json
import mmap
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from r1lab.errors import MachineError

COMMAND = struct.Struct("!cI")  # FORK with the worker's socket, or KILL with its process id
REPLY = struct.Struct("!i")  # to FORK the process id, or an error number below 0; to KILL the status of waitpid(2)
FORK, KILL = b"f", b"k"
SHORT = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EIO)  # the machine's fault


def main(task_name: str, control_fd: int, parent: int, memory: int, cores: list[int]) -> None:
    """Serves fork and kill commands until the parent ends; then kills every worker.

    Args:
        task_name: `module:function`; the function takes an item's values and returns a JSON-serializable value. If the
            module has a function `warm`, it is called once: what it parses and imports is available in every worker.
        control_fd: The socket for commands.
        parent: The parent's process id: a fork of the parent may keep the socket open, so the socket alone is not
            enough.
        memory: Bytes that a worker may use beyond its memory at the start.
        cores: The cores to run on: the thread that starts the pool may be pinned to one of them, as vLLM does.
    """
    control = socket.socket(fileno=control_fd)
    with contextlib.suppress(AttributeError, OSError):  # no affinity on this system, or fewer cores now
        os.sched_setaffinity(0, cores)
    module, _, function = task_name.partition(":")
    found = importlib.import_module(module)
    task = getattr(found, function)
    getattr(found, "warm", lambda: None)()
    _adopt_orphans()
    gc.freeze()  # without it each worker's first collection would copy every page
    control.sendall(b"r")
    workers: set[int] = set()
    with contextlib.suppress(ConnectionError):  # the parent has just ended
        while os.getppid() == parent:
            if not select.select([control], [], [], 1.0)[0]:
                continue
            message, descriptors, _, _ = socket.recv_fds(control, COMMAND.size, 1)
            if not message:
                break
            command, pid = COMMAND.unpack(message)
            if command == FORK:
                try:
                    pid = os.fork()
                except OSError as error:
                    pid = -(error.errno or errno.EAGAIN)
                if pid == 0:
                    control.close()
                    _serve(task, Connection(descriptors[0]), memory)
                    os._exit(0)
                os.close(descriptors[0])
                if pid > 0:
                    with contextlib.suppress(OSError):  # the worker already did
                        os.setpgid(pid, pid)
                    workers.add(pid)
                control.sendall(REPLY.pack(pid))
            else:
                control.sendall(REPLY.pack(_end(pid, workers) if pid in workers else signal.SIGKILL))  # another's
    for pid in list(workers):
        _end(pid, workers)


def _end(pid: int, workers: set[int]) -> int:
    """Kills a worker with its descendants and returns its status, possibly from an earlier end.

    Only this function waits for it, so that its process id cannot belong to another process yet.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    workers.discard(pid)
    while strays := _children() - workers:  # what they have started becomes a child of this process in turn
        for stray in strays:
            os.kill(stray, signal.SIGKILL)
            os.waitpid(stray, 0)
    return status


def _adopt_orphans() -> None:
    """Has the kernel make this process the parent of descendants whose own parent has ended (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def _children() -> set[int]:
    """The children of this process, also those that have ended and were not waited for (Linux)."""
    try:
        return set(map(int, Path("/proc/thread-self/children").read_text().split()))
    except OSError:  # the kernel does not list children
        return set()


def _serve(task, connection: Connection, memory: int) -> None:
    """Reports its CPU time when it is ready, then for each item the outcome and the CPU time so far."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    server = os.getppid()
    if sys.platform == "linux":  # elsewhere a hanging worker outlives a killed server
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        _adopt_orphans()
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = used + memory if most == resource.RLIM_INFINITY else min(used + memory, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    if os.getppid() != server:  # it ended before the call above
        return
    own = os.getpid()
    os.register_at_fork(after_in_child=connection.close)  # else the parent would not see that this process has ended
    with contextlib.suppress(EOFError, ConnectionError):  # the parent no longer needs this worker
        connection.send_bytes(json.dumps(_seconds()).encode())
        while True:
            for item in json.loads(connection.recv_bytes()):
                outcome = _outcome(task, item, memory)
                if os.getpid() != own:  # a child that the task has forked and not ended
                    os._exit(0)
                connection.send_bytes(json.dumps([*outcome, _seconds()]).encode())


def _seconds() -> float:
    """The CPU time of this process and of the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _outcome(task, item: list, memory: int) -> list:
    try:
        return ["ok", task(*item)]
    except MemoryError:
        pass  # its frames, and the memory in them, are freed before the check below
    except Exception as error:  # whatever a grader raises affects only its row
        short = isinstance(error, MachineError) or (isinstance(error, OSError) and error.errno in SHORT)
        return ["machine" if short else "error", f"{type(error).__name__}: {error}"[:500]]
    return ["memory", ""] if _granted(memory) else ["machine", "there is no memory left"]


def _granted(memory: int) -> bool:
    """Whether the machine can still provide as much memory as an item may use: if so, the limit was exceeded."""
    if sys.platform == "linux":
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))  # the parent now ends this worker
    try:
        mmap.mmap(-1, memory).close()
        return True
    except OSError:
        return False


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), json.loads(sys.argv[5]))
