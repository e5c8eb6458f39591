"""Temporary folders that are removed even if the process that made them is killed: by the next one that makes one."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Held:
    """A temporary folder, which is in use as long as a process has its lock open.

    Attributes:
        lock: The file descriptor of the lock.
    """

    path: Path
    lock: int

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)


def folder(prefix: str, parent: Path) -> Held:
    """Makes a folder, and removes those of the same prefix whose processes have ended.

    Raises:
        OSError: The parent cannot be written.
    """
    remove_left(prefix, parent)
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(BlockingIOError, FileNotFoundError):  # another process has removed it before it was locked
            held = Held(path, _locked(path))
            if path.is_dir():
                return held
            held.close()


def remove_left(prefix: str, parent: Path) -> None:
    """Removes the folders that nobody uses: those whose lock nobody holds."""
    for path in parent.glob(f"{prefix}*"):
        try:
            lock = _locked(path)
        except OSError:  # it is in use, or another user's
            continue
        Held(path, lock).close()


def _locked(path: Path) -> int:
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
