"""Stage processes: started apart from the terminal, told to stop, killed with their own, asked why they failed."""

import ctypes
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from r1lab.run.logs import exception, last_line

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass
class StopRequests:
    """How often this process was asked to stop, and whether its child has been told."""

    count: int = 0
    passed_on: bool = False
    hung_up: bool = False

    def hang_up(self) -> None:
        """The terminal, or the pipe that took its place, is gone: stop, without printing to it."""
        self.count, self.hung_up = max(self.count, 1), True
        # By number: sys.stdout may be an object without a descriptor, or one that was closed.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            with suppress(OSError):  # closed, so that nothing can be written to it
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    os.dup2(nowhere, descriptor)
        if nowhere > 2:  # else it took the place of a closed one
            os.close(nowhere)


def stop_signals() -> list[signal.Signals]:
    """The signals that ask for an orderly end: Ctrl-C, a scheduler's SIGTERM, and the SIGHUP of a dropped connection,
    unless that one is ignored already, as under nohup."""
    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    return [signal.SIGINT, signal.SIGTERM, *hangup]


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Counts SIGINT and SIGTERM instead of letting them end this process; SIGHUP counts once.

    After a SIGHUP there is no terminal: what is printed from then on is dropped, since writing it would fail.
    """
    requests = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield requests  # Only the main thread may handle signals; elsewhere they are the caller's affair.
        return

    def ask(number: int, frame: object) -> None:
        if number == signal.SIGHUP:
            requests.hang_up()
        elif not requests.hung_up:  # systemd sends both
            requests.count += 1

    numbers = stop_signals()
    old = [signal.signal(number, ask) for number in numbers]
    try:
        yield requests
    finally:
        for number, handler in zip(numbers, old, strict=True):
            signal.signal(number, handler)


def start(command: list[str], output: BinaryIO) -> subprocess.Popen:
    """Starts a process in a session of its own, so that Ctrl-C reaches it only through us, bound to die with us.

    It dies with the thread that started it; no other thread may be running.
    """
    parent = os.getpid()

    def before_exec() -> None:
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # The parent died before the line above.
            os._exit(1)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=before_exec,  # noqa: PLW1509
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def kill(child: subprocess.Popen) -> None:
    """Kills a process and whatever it started and left behind, such as an engine's workers."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def failure(status: int, error_file: Path, log: Path, log_from: int) -> list[str]:
    """Why a stage failed, one line a problem: what it says itself, else its exception, else the last line of its log.

    Args:
        status: Its exit status, negative where a signal ended it.
        error_file: Where it tells errors, one a line.
        log: What it printed.
        log_from: Where in the log this attempt begins, in bytes.
    """
    if error_file.is_file() and (lines := [line for line in error_file.read_text().splitlines() if line.strip()]):
        return lines
    last = last_line(log, log_from)
    if status < 0:
        cause = ", perhaps for lack of memory" if status == -signal.SIGKILL else ""
        problem = f"killed by {signal.Signals(-status).name}{cause}"
    elif status == 0:
        problem = "ended without a result"
    else:
        last = exception(log, log_from) or last
        return [f"failed: {last}" if last else f"failed with exit status {status}"]
    return [f"{problem}; last said: {last}" if last else problem]
