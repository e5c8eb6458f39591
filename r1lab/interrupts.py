"""Signals that request a stop: Ctrl-C, SIGTERM, and the SIGHUP of a dropped connection."""

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass
class StopRequests:
    """How often a stop was requested from this process, and whether the request was passed on to its child."""

    count: int = 0
    passed_on: bool = False
    hung_up: bool = False

    def hang_up(self) -> None:
        """Requests a stop, and drops all further output, because the terminal or pipe is gone."""
        self.count, self.hung_up = max(self.count, 1), True
        # Descriptors by number: sys.stdout may be an object without a descriptor, or may be closed.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            with suppress(OSError):  # closed, so that nothing can be written to it
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    os.dup2(nowhere, descriptor)
        if nowhere > 2:  # otherwise it has the number of a closed one
            os.close(nowhere)


def stop_signals() -> list[signal.Signals]:
    """The signals that request an orderly stop: Ctrl-C, a scheduler's SIGTERM, and the SIGHUP of a dropped connection,
    unless SIGHUP is already ignored, as under nohup."""
    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    return [signal.SIGINT, signal.SIGTERM, *hangup]


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Counts SIGINT and SIGTERM instead of letting them end this process; SIGHUP counts once.

    After a SIGHUP there is no terminal, so all further output is dropped: writing it would fail. In a Slurm job
    SIGTERM and SIGUSR1 count once, because Slurm may send them to the script and to all processes that it started.
    """
    requests, in_job = StopRequests(), "SLURM_JOB_ID" in os.environ
    if threading.current_thread() is not threading.main_thread():
        yield requests  # Only the main thread may handle signals; in other threads the caller has to.
        return

    def count(number: int, frame: object) -> None:
        if number == signal.SIGHUP:
            requests.hang_up()
        elif in_job and number != signal.SIGINT:
            requests.count = max(requests.count, 1)
        elif not requests.hung_up:  # systemd sends both
            requests.count += 1

    numbers = [*stop_signals(), *([signal.SIGUSR1] if in_job else [])]
    old = [signal.signal(number, count) for number in numbers]
    try:
        yield requests
    finally:
        for number, handler in zip(numbers, old, strict=True):
            signal.signal(number, handler)
