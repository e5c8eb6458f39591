"""What runs below a process, and whether it ends."""

import subprocess
import time
from pathlib import Path


def children(pid):
    """The live descendants of a process."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True).stdout.split("\n")
    rows = [line.split() for line in found if line.split() and not line.split()[2].startswith("Z")]
    below, grown = {pid}, True
    while grown:
        more = {int(p) for p, parent, _ in rows if int(parent) in below}
        grown = not more <= below
        below |= more
    return below - {pid}


def gone(pids, seconds):
    """Whether all of these processes end within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        alive = [pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in stat(pid)]
        if not alive:
            return True
        time.sleep(0.05)
    return False


def stat(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
