"""What `r1lab doctor` looks at on the machine itself: cores, memory, disks, limits, ports, network, sandbox, clock.

Each function looks at one thing and returns a `Finding`, or a list of them. None needs torch or more than a second.
"""

import errno
import fcntl
import locale
import os
import re
import resource
import shutil
import socket
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from r1lab import hardware
from r1lab.findings import Finding
from r1lab.hardware import allowed_cores, busy, cgroup, cpu_quota, usable_cores
from r1lab.models import loading

GIB = 2**30
SERVER, MASTER = 8000, 29500
"""Ports that are taken where none is named: by `vllm serve`, and by the processes of a training on several GPUs."""

_SYS = Path("/proc/sys")


def cores(gpus: int) -> list[Finding]:
    """Cores that this process may use (affinity, quota), how busy they are, and how many threads torch starts.

    Args:
        gpus: How many GPUs there are; what they compute needs few threads.
    """
    usable, quota, limit = usable_cores(), cpu_quota(), allowed_cores()
    seen = f"{usable}" + (f", limited to {quota:.1f} by the control group" if limit < usable else "")
    if limit < 2:
        found = [Finding("warning", "cores", f"{seen}, the examples are made for two", "r1lab run RECIPE --tiny")]
    elif busy():
        found = [
            Finding(
                "warning", "cores", f"{seen}, which {os.getloadavg()[0]:.1f} processes share (load average)", "top"
            )
        ]
    else:
        found = [Finding("ok", "cores", f"{seen}, load {os.getloadavg()[0]:.1f}")]
    return [*found, threads(limit, gpus)]


def threads(limit: int, gpus: int) -> Finding:
    """`OMP_NUM_THREADS` against the cores: torch takes it, or one thread for each core that it sees.

    Args:
        limit: The cores that may be used.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    fix = f"export OMP_NUM_THREADS={limit}"
    if asked and not re.fullmatch(r"[1-9]\d*(,\d+)*", asked):
        return Finding("warning", "threads", f"OMP_NUM_THREADS={asked} is no number", fix)
    # torch looks at the affinity, not at the quota.
    wanted = int(asked.partition(",")[0]) if asked else usable_cores()
    told = f"OMP_NUM_THREADS={asked}" if asked else "OMP_NUM_THREADS is not set"
    if wanted > limit:
        return Finding("warning", "threads", f"{told}, and {wanted} threads on {limit} cores slow each other", fix)
    if wanted < limit and not gpus:
        return Finding("warning", "threads", f"{told}, and a training here takes {wanted} of {limit} cores", fix)
    return Finding("ok", "threads", told)


def memory() -> Finding:
    """Memory in all and free, the control group's limit if lower."""
    limit, free, total = hardware.memory()
    seen = f"{free / GIB:.1f} of {limit / GIB:.1f} GiB free"
    if limit < total:
        seen += f" (the control group's limit; the machine has {total / GIB:.0f})"
    if free < 4 * GIB:
        return Finding("warning", "memory", f"{seen}, the examples take up to 6", "top -o %MEM")
    return Finding("ok", "memory", seen)


def bfloat16() -> Finding:
    """Whether the processor computes in bfloat16, which matters where there is no GPU."""
    if loading.cpu_emulates_bfloat16():
        seen = (
            "this processor only emulates it (no avx512_bf16, no amx_bf16): keep model.dtype: auto, which is float32"
        )
        return Finding("ok", "bfloat16", seen)
    return Finding("ok", "bfloat16", "this processor computes in it; model.dtype: auto is float32 all the same")


def shared_memory(gpus: int) -> Finding:
    """`/dev/shm`, over which processes of one machine exchange tensors; Docker gives 64 MiB of it."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return Finding("ok", "/dev/shm", f"none on {sys.platform}")
    problem = write_problem(place)
    if problem:
        return Finding("error", "/dev/shm", problem, "mount -t tmpfs tmpfs /dev/shm")
    free = shutil.disk_usage(place).free
    seen = f"{free / GIB:.1f} GiB free"
    if free < GIB and gpus > 1:
        return Finding("warning", "/dev/shm", f"{seen}, NCCL wants more for {gpus} GPUs", "docker run --shm-size=8g")
    if free < 32 * 2**20:
        return Finding("warning", "/dev/shm", seen, "delete what lies there, or mount -o remount,size=1G /dev/shm")
    return Finding("ok", "/dev/shm", seen)


def limits() -> Finding:
    """Open files, processes and address space that a process may have."""
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    # Root is above RLIMIT_NPROC.
    counts = [processes] if processes != resource.RLIM_INFINITY and os.geteuid() else []
    counts += [int(text) for text in cgroup("pids", "pids.max", "pids.max") if text.isdigit()]
    most = min(counts, default=None)
    if space != resource.RLIM_INFINITY:
        return Finding("warning", "limits", f"address space of {space / GIB:.0f} GiB at most", "ulimit -v unlimited")
    if files != resource.RLIM_INFINITY and files < 1024:
        fix = f"ulimit -n {hard if 0 < hard < 65536 else 65536}" if hard != files else "raise nofile in limits.conf"
        return Finding("warning", "limits", f"{files} open files at most", fix)
    if most is not None and most < 512:
        fix = "ulimit -u 4096, or docker run --pids-limit=4096"
        return Finding("warning", "limits", f"{most} processes and threads at most", fix)
    opened = "any number of" if files == resource.RLIM_INFINITY else f"{files:,}"
    return Finding("ok", "limits", f"{opened} open files, {most or 'any number of'} processes")


def disk(check: str, path: Path, option: str) -> list[Finding]:
    """A folder that is to be written: is it possible, and how much goes in.

    Args:
        check: What it is called.
        path: The folder, there or not yet.
        option: What to type to have it elsewhere, as in `--runs-dir DIR`.
    """
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return [Finding("error", check, f"{place} is a file, not a folder", option)]
    problem = write_problem(place)
    if problem:
        return [Finding("error", check, problem, option)]
    free = shutil.disk_usage(place).free
    inodes = os.statvfs(place)
    seen = f"{path}{'' if path.exists() else ' (will be made)'}, {free / GIB:.1f} GiB free"
    if inodes.f_files and inodes.f_favail < 10_000:
        verdict = "warning" if inodes.f_favail > 100 else "error"
        return [Finding(verdict, check, f"{path}: room for {inodes.f_favail:,} more files (inodes: df -i)", option)]
    if free < 10 * GIB:
        return [Finding("warning" if free > GIB else "error", check, seen, f"make room, or {option}")]
    return [Finding("ok", check, seen)]


def write_problem(folder: Path) -> str:
    """Why a file cannot be made, locked and renamed in a folder that is there; empty where it can."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".r1lab-", delete=False) as file:
            name = file.name
            try:
                file.write(b"r1lab")
                file.flush()
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as a run does, so that no other takes its folder
                os.replace(name, f"{name}.renamed")
                name = f"{name}.renamed"
            finally:
                os.unlink(name)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            return f"{folder}: this file system has no locks (flock)"
        return f"{folder} cannot be written ({error.strerror})"
    return ""


def ports(gpus: int) -> list[Finding]:
    """Whether something listens on the ports that are taken where none is named.

    Args:
        gpus: How many GPUs there are; one process alone takes any port that is free.
    """
    wanted = [SERVER, MASTER] if gpus > 1 else [SERVER]
    found, free = [], []
    for port in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                free.append(str(port))
                continue
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    seen = f"127.0.0.1 has no port to give ({error.strerror})"
                    return [Finding("error", "ports", seen, "ip link set lo up")]
        if port == MASTER:
            seen = f"{port} is in use, where processes of a training meet"
            found.append(Finding("warning", "ports", seen, f"export MASTER_PORT={MASTER + 1}"))
        elif served := _served(port):
            found.append(Finding("ok", "ports", f"{port}: a server for {', '.join(served)}"))
        else:
            seen = f"{port} is in use, and not by an OpenAI-compatible server"
            found.append(Finding("warning", "ports", seen, f"vllm serve MODEL --port {SERVER + 1}"))
    return found or [Finding("ok", "ports", f"{' and '.join(free)} free")]


def _served(port: int) -> list[str]:
    import httpx

    from r1lab.engines.replies import models

    try:
        return models(httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=1, trust_env=False))[:3]
    except httpx.HTTPError:
        return []


def interfaces(gpus: int) -> list[Finding]:
    """The network interfaces that NCCL and Gloo are told to use, and whether this machine finds itself."""
    names = [name for _, name in socket.if_nameindex()]
    found = []
    for variable, there in ("NCCL_SOCKET_IFNAME", nccl_finds), ("GLOO_SOCKET_IFNAME", gloo_finds):
        asked = os.environ.get(variable, "")
        if asked and not there(asked, names):
            # Gloo is started by vLLM on a CPU and by every training of several processes, NCCL only on GPUs.
            verdict = "error" if gpus > 1 or variable.startswith("GLOO") else "warning"
            seen = f"{variable}={asked} is no interface here (there are: {', '.join(names)})"
            found.append(Finding(verdict, "network", seen, f"unset {variable}"))
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        seen = "this host's own name has no address, processes may not find each other"
        found.append(Finding("warning", "network", seen, 'echo "127.0.0.1 $(hostname)" >> /etc/hosts'))
    left = [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in os.environ]
    if left:
        seen = f"{' and '.join(left)} set: a run would wait for other processes"
        found.append(Finding("warning", "network", seen, f"unset {' '.join(left)}"))
    return found or [Finding("ok", "network", f"interfaces {', '.join(names)}")]


def nccl_finds(asked: str, names: list[str]) -> bool:
    """Whether `NCCL_SOCKET_IFNAME` leaves an interface: one of its prefixes (`=`: names), or none of them (`^`)."""
    mode = asked[0] if asked[0] in "^=" else ""
    words = asked.removeprefix(mode).split(",")
    hit = [name for name in names if any(name == w if mode == "=" else name.startswith(w) for w in words)]
    return len(hit) < len(names) if mode == "^" else bool(hit)


def gloo_finds(asked: str, names: list[str]) -> bool:
    """Whether `GLOO_SOCKET_IFNAME` can be used: prefixes, each of which must fit, or Gloo raises at its start."""
    return all(any(name.startswith(word) for name in names) for word in asked.split(","))


def sandbox() -> Finding:
    """Whether programs of the reward `code` run in namespaces of their own: the sandbox is asked itself."""
    from r1lab.grading import sandbox

    problem = sandbox._launch("", "", sandbox.DEFAULT).status if sys.platform == "linux" else f"none on {sys.platform}"
    if problem == "ok":
        return Finding("ok", "sandbox", "namespaces of its own for each program")
    seen = f"no namespaces ({problem.removeprefix('unavailable: ')}): the reward code runs programs with fewer walls"
    switches = {
        "kernel/unprivileged_userns_clone": ("0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
        "kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        "user/max_user_namespaces": ("0", "sudo sysctl user.max_user_namespaces=10000"),
    }
    fixes = [fix for name, (off, fix) in switches.items() if _said(_SYS / name) == off]
    return Finding("warning", "sandbox", seen, fixes[0] if fixes else "docker run --security-opt seccomp=unconfined")


def _said(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def compiler(cuda: bool) -> Finding:
    """The C++ compiler that torch.compile calls, on a GPU also Python's headers, which Triton's stubs include."""
    name = os.environ.get("CXX") or ("gcc" if cuda else "g++")
    if not shutil.which(name):
        return Finding("warning", "compiler", f"no {name}: vLLM and torch.compile need it", "apt-get install g++")
    if cuda and not Path(sysconfig.get_path("include"), "Python.h").is_file():
        fix = f"apt-get install python3.{sys.version_info.minor}-dev"
        return Finding("warning", "compiler", f"{name} is there, Python.h is not: Triton needs it", fix)
    return Finding("ok", "compiler", name)


def encoding() -> Finding:
    """Whether files and the terminal take UTF-8."""
    found = {"files": locale.getpreferredencoding(False), "output": getattr(sys.stdout, "encoding", None) or "utf-8"}
    bad = [f"{what} {name}" for what, name in found.items() if name.lower().replace("-", "") != "utf8"]
    if bad:
        return Finding("warning", "encoding", f"{', '.join(bad)} instead of UTF-8", "export PYTHONUTF8=1")
    return Finding("ok", "encoding", "UTF-8")


def clock(served: float | None) -> Finding:
    """The clock against a server's, or else against the newest file of the package.

    Args:
        served: How many seconds a server's clock was ahead, None where none was asked.
    """
    now = time.strftime("%Y-%m-%d %H:%M %Z")
    if served is not None and abs(served) > 120:
        seen = f"{now} is {abs(served):.0f} s {'behind' if served > 0 else 'ahead'}: certificates may be refused"
        return Finding("warning", "clock", seen, "timedatectl set-ntp true")
    if time.time() < max(file.stat().st_mtime for file in Path(__file__).parent.glob("*.py")) - 3600:
        return Finding("warning", "clock", f"{now} is before r1lab was installed", "timedatectl set-ntp true")
    return Finding("ok", "clock", now + ("" if served is None else ", the Hub's too"))
