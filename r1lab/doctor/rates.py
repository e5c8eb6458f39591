"""The rates of this machine that `r1lab doctor --measure` has measured, in the user's cache, for `r1lab plan`."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from r1lab.errors import UserError
from r1lab.rundir import manifest, storage

FORMAT = 1

MODEL, ROWS = "embedded:tiny-qwen2", 128
"""The model that is measured, and the completions that it generates together."""


@dataclass(frozen=True)
class Rates:
    """What a machine does per second, on its GPU or all of its cores.

    Attributes:
        machine: The processor, the number of cores and the GPUs that were measured.
        time: The date.
        float32, bfloat16: FLOPs per second of large matrix products.
        copy: Bytes per second, read and written, of copying a tensor larger than the caches.
        importing: Seconds until a process has imported torch, transformers and TRL.
        engine: The engine that generated: `vllm` or `transformers`.
        start: Seconds until the engine is ready.
        step: Seconds of a decoding step of the small model with one row, almost all of it overhead.
        generating: Tokens per second that it generates with many rows.
        training: Tokens per second of its forward and backward pass.
    """

    machine: str
    time: str
    float32: float
    bfloat16: float
    copy: float
    importing: float
    engine: str
    start: float
    step: float
    generating: float
    training: float


def file() -> Path:
    """The file that holds the rates."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "r1lab" / "rates.json"


def machine() -> str:
    """This machine as its rates depend on it: a cache in a home folder that machines share is not enough."""
    seen = manifest.machine()
    return ", ".join([seen["cpu"], f"{seen['cores']} cores", *seen["gpus"]])


def now() -> str:
    """Today's date."""
    return time.strftime("%Y-%m-%d")


def write(rates: Rates) -> Path:
    """Keeps the rates, and returns the file."""
    place = file()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        storage.write_json_atomic(place, {"format": FORMAT} | asdict(rates))
    except OSError as error:
        raise UserError(f"{place}: {error.strerror}: set XDG_CACHE_HOME to a folder that can be written") from error
    return place


def read() -> Rates | None:
    """The rates of this machine; None if they were not measured, or on another machine."""
    try:
        kept = json.loads(file().read_text(encoding="utf-8"))
        if kept.pop("format", None) != FORMAT:
            return None
        rates = Rates(**kept)
    except (OSError, ValueError, TypeError, AttributeError):  # no file, or one that is not ours: measure again
        return None
    return rates if rates.machine == machine() else None
