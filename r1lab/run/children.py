"""Stage processes: started apart from the terminal, told to stop, killed with their own, asked why they failed."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from r1lab.run.logs import exception, last_line

DISK_FULL = 2**20  # free bytes below which a stage that failed is taken to have failed for it
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


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
    if shutil.disk_usage(log.parent).free < DISK_FULL:  # then nothing says so, as the log has no room for it either
        return [f"the disk that holds {log.parent} is full: free some space, then go on with --resume"]
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
