"""How much CPU time a process and its children have used, and whether they have had their time.

A deadline by the wall clock makes a verdict depend on what else the machine does. Here CPU time decides, which a busy
machine gives out more slowly but does not take away; the wall clock is only a cap for what sleeps.
"""

import os
import random
import sys
import time
from dataclasses import dataclass, field
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_random = random.Random()  # not the one that a training is seeded by
LOOK = 1.0  # seconds between two looks at most; a process with several threads uses CPU time faster than time passes


class Used(NamedTuple):
    """CPU seconds so far, and how many threads run or wait for a core, the disk or memory."""

    seconds: float
    running: int


def used(pid: int) -> Used:
    """What a process and its living children, and theirs, have used so far (Linux); of one that is gone, nothing."""
    seconds, running = 0.0, 0
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            times = file.read().rpartition(b")")[2].split()[11:15]  # its own, and of the children that it waited for
        seconds += sum(map(int, times)) / _TICKS
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
                running += file.read().rpartition(b")")[2].split()[0] in (b"R", b"D")
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children = file.read().split()
            for child in children:
                below = used(int(child))
                seconds, running = seconds + below.seconds, running + below.running
    except OSError:  # it has just ended, or the kernel lists no children
        pass
    return Used(seconds, running)


def held(pid: int) -> int:
    """The most bytes that a process or any of its living children, or theirs, has held at a time (Linux)."""
    most = 0
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = dict(line.split(b":", 1) for line in file if b":" in line)
        most = int(lines[b"VmHWM"].split()[0]) * 1024
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                most = max([most, *(held(int(child)) for child in file.read().split())])
    except (OSError, KeyError):  # it has just ended and holds nothing, or the kernel lists no children
        pass
    return most


@dataclass
class Watch:
    """Whether work in a process is over its time.

    Where there is no /proc the wall clock stands in for the CPU time.

    Attributes:
        pid: The process.
        seconds: The CPU time that it may use, its children's included.
        cap: Seconds by the wall clock that it may sleep in all. What is ready to run is only waiting for its turn, and
            its CPU time decides.
        before: The CPU time that it had used when the work began.
    """

    pid: int
    seconds: float
    cap: float
    before: float = 0.0
    started: float = field(default_factory=time.monotonic)
    last: float = 0.0  # the time of the last look
    next: float = 0.0
    slept: float = 0.0

    def __post_init__(self):
        self.last = self.started
        self.next = self.started + min(self.seconds, LOOK, self.cap)

    def over(self) -> bool:
        """Whether the work has had its time. Looks no more often than it must."""
        now = time.monotonic()
        if now < self.next:
            return False
        if not sys.platform.startswith("linux"):
            left = self.seconds - (now - self.started)
        else:
            seconds, running = used(self.pid)
            left = self.seconds - (seconds - self.before)
            self.slept += 0.0 if running else min(now - self.last, LOOK)  # this process may have been kept waiting
        self.last = now
        to_cap = self.cap - self.slept
        if left <= 0 or to_cap <= 0:
            return True
        # At odd times, or a program could sleep between the looks and be awake for each.
        self.next = now + min(_random.uniform(LOOK / 2, LOOK), max(0.05, min(left, to_cap)))
        return False
