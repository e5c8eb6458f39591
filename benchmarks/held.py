"""A worker extension that waits or fails in a phase of a sync, so that a fault meets a vLLM server exactly there.

`SERVER_FAULTS` is a folder. While it has a file `PHASE-waits`, the server waits in that phase, with `PHASE-reached`;
with a file `PHASE-raises` it raises an error there. The phases are `loading` (the files are complete, no weight has
changed), `half` (some weights have changed) and `verifying` (all have, and the trainer waits for the checksum).
"""

import os
import time
from pathlib import Path

from r1lab.engines import worker

FOLDER = "SERVER_FAULTS"
EXTENSION = "benchmarks.held.Held"
_tensors = worker._tensors


class Held(worker.Weights):
    """The worker extension."""

    _loads = False

    def load(self, version: int, files: list[list[str]]) -> dict:
        self._loads = True
        try:
            return super().load(version, files)
        finally:
            self._loads = False

    def _problem(self, shapes: dict[str, tuple[int, ...]]) -> str | None:
        _reached("loading")
        return super()._problem(shapes)

    def weights(self) -> dict:
        if self._loads:
            _reached("verifying")
        return super().weights()


def _reached(phase: str) -> None:
    folder = Path(os.environ[FOLDER])
    if (folder / f"{phase}-raises").exists():
        raise RuntimeError(f"no memory left while {phase}")
    while (folder / f"{phase}-waits").exists():
        (folder / f"{phase}-reached").touch()
        time.sleep(0.02)


def _slowly(files):
    for number, pair in enumerate(_tensors(files)):
        if number == 7:
            _reached("half")
        yield pair


worker._tensors = _slowly
