"""Stage processes: how one is started, and why it failed."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

from r1lab.rundir.logs import exception, last_line

DISK_FULL = 2**20  # if fewer bytes are free, the full disk is reported as the cause of a failure
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def start(command: list[str], output: BinaryIO, more: dict[str, str] | None = None) -> subprocess.Popen:
    """Starts a process in its own session, so that Ctrl-C reaches it only through this process.

    It is killed when the thread that started it ends; no other thread may be running. `more` has variables of its
    environment besides those of this process.
    """
    parent = os.getpid()

    def before_exec() -> None:
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the line above
            os._exit(1)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=before_exec,  # noqa: PLW1509
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | (more or {}),
    )


def failure(status: int, error_file: Path, log: Path, log_from: int) -> list[str]:
    """Why a stage failed, one line per problem: its own errors, else its exception, else the last line of its log.

    Args:
        status: Its exit status, negative if a signal ended it.
        error_file: The file to which it writes errors, one per line.
        log: Its log.
        log_from: The byte of the log at which this attempt begins.
    """
    if error_file.is_file() and (lines := [line for line in error_file.read_text().splitlines() if line.strip()]):
        return lines
    if shutil.disk_usage(log.parent).free < DISK_FULL:  # the log cannot report this, because it is on the same disk
        return [f"the disk of {log.parent} is full: free some space, then continue with --resume"]
    last = last_line(log, log_from)
    if status < 0:
        cause = ", possibly out of memory" if status == -signal.SIGKILL else ""
        problem = f"killed by {signal.Signals(-status).name}{cause}"
    elif status == 0:
        problem = "ended without a result"
    else:
        last = exception(log, log_from) or last
        return [f"failed: {last}" if last else f"failed with exit status {status}"]
    return [f"{problem}; last line of the log: {last}" if last else problem]
