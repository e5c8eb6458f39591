"""`r1lab doctor`: what of this machine and its packages stands in the way of a run, and what to type about it.

`machine` looks at the machine, `nvidia` at GPUs, `packages` at versions,
`trial` lets vLLM write a token; the Hub and its cache are looked at here.
"""

import contextlib
import getpass
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
from r1lab.doctor.trial import trial
from r1lab.errors import UserError
from r1lab.findings import COLORS, Finding
from r1lab.net import client_settings
from r1lab.rundir import manifest


def examine(*, fast: bool, runs_dir: Path, tell: Callable[[Finding], None] | None = None) -> list[Finding]:
    """Looks at everything, what is quick first.

    Args:
        fast: Whether to leave out the trial of vLLM, which takes most of the time.
        runs_dir: Where run directories are to lie, there or not yet.
        tell: Called with each finding as it is made.
    """
    findings: list[Finding] = []
    for finding in _findings(fast, runs_dir):
        findings.append(finding)
        if tell:
            tell(finding)
    return findings


def _findings(fast: bool, runs_dir: Path) -> Iterator[Finding]:
    answer: list[tuple[str, float | None]] = []
    # A name that does not resolve can take long, whatever the timeout: so it is asked aside, and not waited for.
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


def page(finding: Finding, color: bool = False, width: int | None = None) -> str:
    """A finding as one line, or where a terminal is narrower, as lines with the later ones set in.

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
    """For a bug report: versions, platform and findings, without the user's name, home folder or keys."""
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
    """Without home folder, user name, and the values of environment variables that hold keys."""
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
    """Why the Hub cannot be used, empty where it can, and how many seconds its clock is ahead of this one."""
    if _offline():
        return "", None
    import httpx

    url = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        response = httpx.head(url, timeout=3, **client_settings(url))
    except UserError as error:  # a proxy that cannot be used
        return str(error), None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:  # ValueError: an address that is none
        return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__, None
    date = response.headers.get("date")
    ahead = parsedate_to_datetime(date).timestamp() - time.time() if date else None
    return (f"it answers {response.status_code}" if response.status_code >= 400 else ""), ahead


def hub(why: str) -> Finding:
    """Whether the Hugging Face Hub can be read, and whether there is a token, which is never told.

    Args:
        why: Why it cannot be reached, empty where it can.
    """
    from huggingface_hub import get_token

    if _offline():
        return Finding("ok", "hub", "offline, as HF_HUB_OFFLINE says: models and data come from the cache")
    if why:
        seen = f"cannot be reached ({why}): only embedded and cached models"
        return Finding("warning", "hub", seen, "export HF_HUB_OFFLINE=1, or HF_ENDPOINT=URL of a mirror")
    token = "a token is set" if get_token() else "no token (for gated models: hf auth login)"
    return Finding("ok", "hub", f"reachable, {token}")


def cache() -> list[Finding]:
    """The Hub's cache: where it is, what room there is, which models are whole."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    folder = Path(constants.HF_HUB_CACHE)
    # Never an error: what lies there can be read, and other models need no cache.
    place = [
        replace(finding, verdict="warning") if finding.verdict == "error" else finding
        for finding in machine.disk("cache", folder, "export HF_HOME=DIR")
    ]
    try:
        info = scan_cache_dir()
    except (CacheNotFound, ValueError):  # ValueError: a file in its place
        return place if place[0].verdict != "ok" else [Finding("ok", "cache", "no model or data set of the Hub")]
    models = sorted((repo for repo in info.repos if repo.repo_type == "model"), key=lambda repo: -repo.last_accessed)
    whole = [repo.repo_id for repo in models if any(_is_weights(f.file_name) for r in repo.revisions for f in r.files)]
    halves = [repo.repo_id for repo in models if list(repo.repo_path.glob("blobs/*.incomplete"))]
    size = info.size_on_disk / machine.GIB
    shown = f"{len(whole)} model{'s' * (len(whole) != 1)}" + (f" ({_some(whole)})" if whole else "")
    seen = f"{shown}, {sum(repo.repo_type == 'dataset' for repo in info.repos)} data sets, {size:.1f} GiB"
    found = [finding for finding in place if finding.verdict != "ok"] + [Finding("ok", "cache", seen)]
    if halves:
        found.append(Finding("warning", "cache", f"{_some(halves)}: not all was loaded", f"hf download {halves[0]}"))
    bare = [repo.repo_id for repo in models if repo.repo_id not in (*whole, *halves)]
    if bare and _offline():
        found.append(Finding("warning", "cache", f"{_some(bare)}: no weights here", "unset HF_HUB_OFFLINE"))
    return found


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".gguf"))


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
