"""Requests to stop, as a process in the terminal takes them."""

import os
import subprocess
import sys

HANG_UP = """
import os, signal, sys
from r1lab.interrupts import stop_requests
{before}
def descriptors():
    return sorted(os.listdir("/proc/self/fd"))
with stop_requests() as requests:
    had = descriptors()
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGHUP)
    print("is dropped")
    sys.exit(0 if requests.count == 1 and descriptors() == had else 1)
"""


def test_a_hangup_leaves_no_descriptor_behind_and_needs_no_stream():
    for before in ("", "sys.stdout = None", "sys.stdout.close()\nsys.stdout = sys.stderr"):
        command = [sys.executable, "-c", HANG_UP.format(before=before)]
        ended = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
