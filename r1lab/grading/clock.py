"""The CPU time that a process and its children have used, and whether they are over their limit.

A wall-clock deadline would make a verdict depend on what else the machine does. Here CPU time decides, which a busy
machine provides more slowly but does not take away; the wall clock is only a limit for sleeping processes.
"""

import os
import random
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_random = random.Random()  # not the generator that a training run seeds
LOOK = 1.0  # maximum seconds between two checks; a process with several threads uses CPU time faster than time passes


class Used(NamedTuple):
    """CPU seconds so far, and how many threads run or wait for a core, the disk or memory."""

    seconds: float
    running: int


def used(pid: int) -> Used:
    """The time used so far by a process and its living children, and theirs (Linux); zero for one that has ended."""
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
    except OSError:  # it has just ended, or the kernel does not list children
        pass
    return Used(seconds, running)


def held(pid: int) -> int:
    """The peak memory, in bytes, of a process or of any of its living children, or theirs (Linux)."""
    most = 0
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = dict(line.split(b":", 1) for line in file if b":" in line)
        most = int(lines[b"VmHWM"].split()[0]) * 1024
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                most = max([most, *(held(int(child)) for child in file.read().split())])
    except (OSError, KeyError):  # it has just ended and uses nothing, or the kernel does not list children
        pass
    return most


def kills_for_memory() -> int:
    """The number of processes that the kernel has killed on this machine for lack of memory (Linux)."""
    try:
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


@dataclass
class Watch:
    """Checks whether work in a process is over its time limit.

    Without /proc the wall clock is used instead of the CPU time.

    Attributes:
        pid: The process.
        seconds: The CPU time that it may use, including its children's.
        cap: Total wall-clock seconds that it may sleep. A process that is ready to run is only waiting for a core, so
            its CPU time decides.
        before: The CPU time that it had used when the work started.
    """

    pid: int
    seconds: float
    cap: float
    before: float = 0.0
    started: float = field(default_factory=time.monotonic)
    last: float = 0.0  # the time of the last check
    next: float = 0.0
    slept: float = 0.0

    def __post_init__(self):
        self.last = self.started
        self.next = self.started + min(self.seconds, LOOK, self.cap)

    def over(self) -> bool:
        """Whether the work is over its limit. Checks no more often than necessary."""
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
        # At random times, or a program could sleep between the checks and be awake for each.
        self.next = now + min(_random.uniform(LOOK / 2, LOOK), max(0.05, min(left, to_cap)))
        return False
