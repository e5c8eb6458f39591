"""`r1lab doctor`: checks that this machine and its packages can run r1lab, and says what to type if not.

`machine` checks the machine, `nvidia` the GPUs, `packages` the versions, `trial` generates a token with vLLM, and
`measure` measures rates, which `rates` keeps. This module checks the Hub and its cache.
"""

import contextlib
import getpass
import json
import os
import re
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path

from r1lab import __version__
from r1lab.doctor import machine, nvidia, packages
from r1lab.doctor.measure import measure as rates_of_this_machine
from r1lab.doctor.trial import trial
from r1lab.errors import UserError
from r1lab.findings import COLORS, Finding
from r1lab.net import client_settings
from r1lab.rundir import manifest
from r1lab.text import counted


def run(
    *, fast: bool, runs_dir: Path, measure: bool, as_json: bool, color: bool = False, width: int | None = None
) -> int:
    """`r1lab doctor`: prints the findings, or all of them as JSON; returns the exit status, 3 if there is an error."""

    def printed(finding: Finding) -> None:
        print(page(finding, color=color, width=width), flush=True)

    findings = examine(fast=fast, runs_dir=runs_dir, measure=measure, report=None if as_json else printed)
    good, warnings, errors = (sum(f.verdict == verdict for f in findings) for verdict in ("ok", "warning", "error"))
    if as_json:
        print(json.dumps(report(findings), indent=2))
    else:
        counts = f"{good} ok, {counted(warnings, 'warning')}, {counted(errors, 'error')}"
        print(f"\n{counted(len(findings), 'check')}: {counts}")
    return 3 if errors else 0


def examine(
    *, fast: bool, runs_dir: Path, measure: bool = False, report: Callable[[Finding], None] | None = None
) -> list[Finding]:
    """Runs all checks, the quick ones first.

    Args:
        fast: Whether to skip the trial of vLLM, which takes most of the time.
        runs_dir: The folder for run directories, which need not exist yet.
        measure: Whether to measure how fast the machine is.
        report: Called with each finding as soon as it is known.
    """
    findings: list[Finding] = []
    for finding in _findings(fast, runs_dir, measure):
        findings.append(finding)
        if report:
            report(finding)
    return findings


def _findings(fast: bool, runs_dir: Path, measure: bool) -> Iterator[Finding]:
    answer: list[tuple[str, float | None]] = []
    # Resolving a host name can take long regardless of the timeout, so this happens in a thread of its own.
    asking = threading.Thread(target=lambda: answer.append(ask_hub()), daemon=True)
    asking.start()
    yield packages.python()
    yield from packages.versions()
    yield packages.extras()
    yield from packages.settings()
    cuda = packages.torch_cuda()
    cards, found = nvidia.gpus(cuda, vllm=packages.version("vllm") is not None)
    yield from found
    yield from machine.cores(len(cards))
    if not (cards and cuda):
        yield machine.bfloat16()
    yield machine.memory()
    yield machine.shared_memory(len(cards))
    yield machine.limits()
    yield from machine.disk("runs", runs_dir, "--runs-dir DIR")
    yield from machine.disk("temporary", Path(tempfile.gettempdir()), "export TMPDIR=DIR")
    yield from machine.ports(len(cards))
    yield from machine.interfaces(len(cards))
    yield machine.compiler(bool(cuda))
    yield machine.encoding()
    yield machine.sandbox()
    asking.join(timeout=4)
    why, ahead = answer[0] if answer else ("no answer in 4 s", None)
    yield machine.clock(ahead)
    yield hub(why)
    yield from cache()
    if not fast:
        yield from trial(bool(cards and cuda))
    if measure:
        yield rates_of_this_machine()


def page(finding: Finding, color: bool = False, width: int | None = None) -> str:
    """A finding as one line, or in a narrow terminal as several lines, the later ones indented.

    >>> print(page(Finding("warning", "ports", "8000 is in use", "vllm serve MODEL --port 8001"), width=40))
    warning ports: 8000 is in use: vllm
            serve MODEL --port 8001
    """
    line = f"{finding.check}: {finding.message}"
    if width:
        wrapped = textwrap.wrap(line, max(20, width - 9), break_long_words=False, break_on_hyphens=False)
        line = "\n        ".join(wrapped)
    verdict = f"{finding.verdict:<7}"
    return f"\033[{COLORS[finding.verdict]}m{verdict}\033[0m {line}" if color else f"{verdict} {line}"


def report(findings: list[Finding]) -> dict:
    """Versions, platform and findings for a bug report, without the user's name, home folder or keys."""
    found = [
        {"verdict": finding.verdict, "check": finding.check}
        | {"seen": _anonymous(finding.seen), "fix": _anonymous(finding.fix)}
        for finding in findings
    ]
    return {
        "r1lab": __version__,
        "versions": manifest.versions(),
        "platform": manifest.machine(),
        "findings": found,
    }


def _anonymous(text: str) -> str:
    """The text without home folder, user name, and the values of environment variables that contain keys."""
    secret = [value for name, value in os.environ.items() if re.search("TOKEN|KEY|SECRET|PASSWORD", name.upper())]
    for value in sorted((v for v in secret if len(v) > 5), key=len, reverse=True):
        text = text.replace(value, "***")
    text = re.sub(r"\bhf_\w{8,}|://[^/\s@]+@", lambda m: "://***@" if m[0].startswith(":") else "***", text)
    for home in {str(Path.home()), str(Path.home().resolve())} - {"/"}:
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    with contextlib.suppress(KeyError, OSError):  # a user without an entry in the password file
        user = getpass.getuser()
        if user != "root":
            text = re.sub(rf"(?<![\w-]){re.escape(user)}(?![\w-])", "USER", text)
    return text


# The Hub


def _offline() -> bool:
    return any(
        os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def ask_hub() -> tuple[str, float | None]:
    """Why the Hub cannot be used (empty if it can), and how many seconds its clock is ahead of this one."""
    if _offline():
        return "", None
    import httpx

    url = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        response = httpx.head(url, timeout=3, **client_settings(url))
    except UserError as error:  # a proxy that cannot be used
        return str(error), None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # ValueError: an invalid address
        return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__, None
    date = response.headers.get("date")
    ahead = parsedate_to_datetime(date).timestamp() - time.time() if date else None
    return (f"it answers {response.status_code}" if response.status_code >= 400 else ""), ahead


def hub(why: str) -> Finding:
    """Whether the Hugging Face Hub can be reached, and whether a token is set; its value is never shown.

    Args:
        why: Why the Hub cannot be reached; empty if it can.
    """
    from huggingface_hub import get_token

    if _offline():
        return Finding("ok", "hub", "offline, because HF_HUB_OFFLINE is set: models and data come from the cache")
    if why:
        seen = f"cannot be reached ({why}): only embedded and cached models are available"
        return Finding("warning", "hub", seen, "export HF_HUB_OFFLINE=1, or HF_ENDPOINT=URL of a mirror")
    token = "a token is set" if get_token() else "no token (for gated models: hf auth login)"
    return Finding("ok", "hub", f"reachable, {token}")


def cache() -> list[Finding]:
    """The Hub's cache: its folder, its free space, and which models are complete."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    folder = Path(constants.HF_HUB_CACHE)
    # Never an error: cached models can still be read, and other models need no cache.
    place = [
        replace(finding, verdict="warning") if finding.verdict == "error" else finding
        for finding in machine.disk("cache", folder, "export HF_HOME=DIR")
    ]
    try:
        info = scan_cache_dir()
    except (CacheNotFound, ValueError):  # ValueError: a file instead of a folder
        return place if place[0].verdict != "ok" else [Finding("ok", "cache", "no model or data set of the Hub")]
    models = sorted((repo for repo in info.repos if repo.repo_type == "model"), key=lambda repo: -repo.last_accessed)
    whole = [repo.repo_id for repo in models if any(_is_weights(f.file_name) for r in repo.revisions for f in r.files)]
    halves = [repo.repo_id for repo in models if list(repo.repo_path.glob("blobs/*.incomplete"))]
    size = info.size_on_disk / machine.GIB
    shown = f"{len(whole)} model{'s' * (len(whole) != 1)}" + (f" ({_some(whole)})" if whole else "")
    seen = f"{shown}, {sum(repo.repo_type == 'dataset' for repo in info.repos)} data sets, {size:.1f} GiB"
    found = [finding for finding in place if finding.verdict != "ok"] + [Finding("ok", "cache", seen)]
    if halves:
        seen = f"{_some(halves)}: incomplete download"
        found.append(Finding("warning", "cache", seen, f"hf download {halves[0]}"))
    bare = [repo.repo_id for repo in models if repo.repo_id not in (*whole, *halves)]
    if bare and _offline():
        found.append(Finding("warning", "cache", f"{_some(bare)}: no weights in the cache", "unset HF_HUB_OFFLINE"))
    return found


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".gguf"))


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
