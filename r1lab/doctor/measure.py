"""`r1lab doctor --measure`: how fast this machine computes, copies, generates and trains, in under a minute.

`python -m r1lab.doctor.measure` measures and prints the rates as JSON; the libraries' output goes to standard error.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

from r1lab import hardware
from r1lab.doctor import rates
from r1lab.doctor.rates import MODEL, ROWS, Rates
from r1lab.findings import Finding

SECONDS = 300
"""Limit for the whole measurement, which takes less than a minute on an idle machine."""

LEAST = 0.5
"""Seconds for which a short operation is repeated."""

WRITTEN = 64
"""The length of the completions that are generated."""


def measure() -> Finding:
    """Measures in a process of its own, and keeps the rates unless other programs use the machine."""
    try:
        command = [sys.executable, "-P", "-m", "r1lab.doctor.measure"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        seen = f"not finished within {SECONDS} s"
        return Finding("warning", "rates", seen, "run r1lab doctor --measure again when the machine is idle")
    if done.returncode:
        last = ([line.strip() for line in done.stderr.splitlines() if line.strip()] or ["nothing was printed"])[-1]
        seen = f"cannot be measured ({last[:200]})"
        return Finding("error", "rates", seen, "python -m r1lab.doctor.measure shows the full output")
    measured = Rates(**json.loads(done.stdout))
    if hardware.busy():
        seen = f"{described(measured)}; not kept, because other programs use the machine"
        return Finding("warning", "rates", seen, "run r1lab doctor --measure again when it is idle")
    return Finding("ok", "rates", f"{described(measured)}; r1lab plan uses them ({rates.write(measured)})")


def described(measured: Rates) -> str:
    """The rates in one line."""
    products = f"matrix products {measured.float32 / 1e9:,.0f} GFLOP/s in float32, {measured.bfloat16 / 1e9:,.0f} in"
    model = f"tiny-qwen2: {measured.generating:,.0f} tokens/s generated, {measured.training:,.0f} trained"
    return f"{products} bfloat16, copies {measured.copy / 1e9:,.0f} GB/s, {model}"


def main() -> int:
    """Measures, and prints the rates as JSON."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    began = time.perf_counter()
    import torch
    import transformers  # noqa: F401
    import trl  # noqa: F401

    imported = time.perf_counter() - began
    computed = {"float32": products(torch.float32), "bfloat16": products(torch.bfloat16), "copy": copies()}
    computed |= {"importing": imported, "training": trained()}
    found = Rates(machine=rates.machine(), time=rates.now(), **computed, **generated())
    print(json.dumps(asdict(found)), file=output)
    return 0


def _seconds(work: Callable[[], object]) -> float:
    """Seconds of the fastest repetition: other programs only ever make one slower."""
    import torch

    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    taken: list[float] = []
    while sum(taken) < LEAST or len(taken) < 3:
        began = time.perf_counter()
        work()
        synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def products(dtype) -> float:
    """FLOPs per second of products of square matrices."""
    import torch

    size = 8192 if _device() == "cuda" else 768  # on a processor without bfloat16 units, a larger one takes long
    a, b = (torch.randn(size, size, device=_device()).to(dtype) for _ in range(2))
    return 2 * size**3 / _seconds(lambda: a @ b)


def copies() -> float:
    """Bytes read and written per second by a copy of a quarter of a GiB, which no cache holds."""
    import torch

    source = torch.zeros(2**26, device=_device())
    target = torch.ones_like(source)
    return 2 * source.numel() * 4 / _seconds(lambda: target.copy_(source))


def trained() -> float:
    """Tokens per second of a forward and backward pass over 16 rows of 128 tokens."""
    import torch

    from r1lab.models.loading import load_model

    model = load_model(MODEL, dtype="float32")
    model.to(_device())  # pyright: ignore[reportArgumentType]  transformers' decorator hides that it is a method
    ids = torch.randint(0, model.config.vocab_size, (16, 128), device=_device())
    return ids.numel() / _seconds(lambda: model(input_ids=ids, labels=ids).loss.backward())


def generated() -> dict:
    """The engine, the seconds of its start and of a step with one row, and tokens per second with many rows."""
    from r1lab import engines

    kind, started = engines.choose("auto"), time.perf_counter()
    engine = engines.load(MODEL, engine=kind, max_model_length=2 * WRITTEN, gpu_memory_utilization=0.2)
    start = time.perf_counter() - started

    def seconds(rows: int) -> tuple[float, int]:
        sampling = engines.Sampling(n=rows, max_tokens=WRITTEN, temperature=2.0)  # hot, so that few rows end early
        began = time.perf_counter()
        (made,) = engines.generate(engine, ["A B C D"], sampling)
        return time.perf_counter() - began, max(1, sum(len(one.token_ids) for one in made))

    seconds(ROWS)  # the first call is slow
    alone = [seconds(1) for _ in range(4)]
    many = [seconds(ROWS) for _ in range(2)]
    step, rate = min(took / tokens for took, tokens in alone), max(tokens / took for took, tokens in many)
    return {"engine": kind, "start": start, "step": step, "generating": rate}


if __name__ == "__main__":
    sys.exit(main())
