"""Signals that ask a run to stop: Ctrl-C, SIGTERM, and the SIGHUP of a dropped connection."""

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


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
