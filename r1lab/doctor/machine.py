"""The checks of `r1lab doctor` on the machine: cores, memory, disks, limits, ports, network, sandbox, clock.

Each function checks one thing and returns a `Finding` or a list of them. None needs torch or more than a second.
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
"""Default ports of `vllm serve`, and of the processes of a training on several GPUs."""

_SYS = Path("/proc/sys")


def cores(gpus: int) -> list[Finding]:
    """Cores that this process may use (affinity, quota), how busy they are, and how many threads torch starts.

    Args:
        gpus: The number of GPUs; computing on them needs few threads.
    """
    usable, quota, limit = usable_cores(), cpu_quota(), allowed_cores()
    seen = f"{usable}" + (f", limited to {quota:.1f} by the control group" if limit < usable else "")
    if limit < 2:
        found = [Finding("warning", "cores", f"{seen}, but the examples need two", "r1lab run RECIPE --tiny")]
    elif busy():
        found = [
            Finding(
                "warning",
                "cores",
                f"{seen}, shared by {os.getloadavg()[0]:.1f} processes (load average)",
                "run top to see them",
            )
        ]
    else:
        found = [Finding("ok", "cores", f"{seen}, load {os.getloadavg()[0]:.1f}")]
    return [*found, threads(limit, gpus)]


def threads(limit: int, gpus: int) -> Finding:
    """Compares `OMP_NUM_THREADS` with the cores: torch uses it, or one thread for each core that it sees.

    Args:
        limit: The cores that may be used.
    """
    value = os.environ.get("OMP_NUM_THREADS", "")
    fix = f"export OMP_NUM_THREADS={limit}"
    if value and not re.fullmatch(r"[1-9]\d*(,\d+)*", value):
        return Finding("warning", "threads", f"OMP_NUM_THREADS={value} is not a number", fix)
    # torch reads the affinity, not the quota.
    count = int(value.partition(",")[0]) if value else usable_cores()
    seen = f"OMP_NUM_THREADS={value}" if value else "OMP_NUM_THREADS is not set"
    if count > limit:
        return Finding("warning", "threads", f"{seen}, and {count} threads on {limit} cores slow each other down", fix)
    if count < limit and not gpus:
        return Finding("warning", "threads", f"{seen}, so training would use {count} of {limit} cores", fix)
    return Finding("ok", "threads", seen)


def memory() -> Finding:
    """Free and total memory, or the control group's limit if that is lower."""
    limit, free, total = hardware.memory()
    seen = f"{free / GIB:.1f} of {limit / GIB:.1f} GiB free"
    if limit < total:
        seen += f" (the control group's limit; the machine has {total / GIB:.0f})"
    if free < 4 * GIB:
        seen += ", and the examples need up to 6"
        return Finding("warning", "memory", seen, "run top -o %MEM to see what uses it")
    return Finding("ok", "memory", seen)


def bfloat16() -> Finding:
    """Whether the processor computes in bfloat16, which matters on a machine without a GPU."""
    if loading.cpu_emulates_bfloat16():
        seen = (
            "this processor only emulates it (no avx512_bf16, no amx_bf16): keep model.dtype: auto, which is float32"
        )
        return Finding("ok", "bfloat16", seen)
    return Finding("ok", "bfloat16", "this processor computes in it, but model.dtype: auto is float32 anyway")


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
        return Finding("warning", "/dev/shm", f"{seen}, NCCL needs more for {gpus} GPUs", "docker run --shm-size=8g")
    if free < 32 * 2**20:
        return Finding("warning", "/dev/shm", seen, "delete files in it, or mount -o remount,size=1G /dev/shm")
    return Finding("ok", "/dev/shm", seen)


def limits() -> Finding:
    """The limits on open files, processes and address space."""
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    # RLIMIT_NPROC does not apply to root.
    counts = [processes] if processes != resource.RLIM_INFINITY and os.geteuid() else []
    counts += [int(text) for text in cgroup("pids", "pids.max", "pids.max") if text.isdigit()]
    most = min(counts, default=None)
    if space != resource.RLIM_INFINITY:
        return Finding("warning", "limits", f"limit: {space / GIB:.0f} GiB of address space", "ulimit -v unlimited")
    if files != resource.RLIM_INFINITY and files < 1024:
        fix = f"ulimit -n {hard if 0 < hard < 65536 else 65536}" if hard != files else "raise nofile in limits.conf"
        return Finding("warning", "limits", f"limit: {files} open files", fix)
    if most is not None and most < 512:
        fix = "ulimit -u 4096, or docker run --pids-limit=4096"
        return Finding("warning", "limits", f"limit: {most} processes and threads", fix)
    opened = "no limit on open files" if files == resource.RLIM_INFINITY else f"{files:,} open files"
    return Finding("ok", "limits", f"{opened}, {f'{most:,} processes' if most else 'no limit on processes'}")


def disk(check: str, path: Path, option: str) -> list[Finding]:
    """Whether a folder can be written, and how much space it has.

    Args:
        check: The name of the check.
        path: The folder, which need not exist yet.
        option: What to type to use another folder, as in `--runs-dir DIR`.
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
    seen = f"{path}{'' if path.exists() else ' (will be created)'}, {free / GIB:.1f} GiB free"
    if inodes.f_files and inodes.f_favail < 10_000:
        verdict = "warning" if inodes.f_favail > 100 else "error"
        return [Finding(verdict, check, f"{path}: space for {inodes.f_favail:,} more files (inodes: df -i)", option)]
    if free < 10 * GIB:
        return [Finding("warning" if free > GIB else "error", check, seen, f"free some space, or {option}")]
    return [Finding("ok", check, seen)]


def write_problem(folder: Path) -> str:
    """Why a file cannot be created, locked and renamed in an existing folder; empty if it can."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".r1lab-", delete=False) as file:
            name = file.name
            try:
                file.write(b"r1lab")
                file.flush()
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as a run does, so that no other run uses its folder
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
    """Whether something listens on the default ports.

    Args:
        gpus: The number of GPUs; a single process uses any free port.
    """
    defaults = [SERVER, MASTER] if gpus > 1 else [SERVER]
    found, free = [], []
    for port in defaults:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                free.append(str(port))
                continue
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    seen = f"no port of 127.0.0.1 can be used ({error.strerror})"
                    return [Finding("error", "ports", seen, "ip link set lo up")]
        if port == MASTER:
            seen = f"{port} is in use, the rendezvous port of training processes"
            found.append(Finding("warning", "ports", seen, f"export MASTER_PORT={MASTER + 1}"))
        elif served := _served(port):
            found.append(Finding("ok", "ports", f"{port}: a server for {', '.join(served)}"))
        else:
            seen = f"{port} is in use, but not by an OpenAI-compatible server"
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
    """The network interfaces that NCCL and Gloo are configured to use, and whether the host name resolves."""
    names = [name for _, name in socket.if_nameindex()]
    found = []
    for variable, there in ("NCCL_SOCKET_IFNAME", nccl_finds), ("GLOO_SOCKET_IFNAME", gloo_finds):
        value = os.environ.get(variable, "")
        if value and not there(value, names):
            # vLLM on a CPU and every training on several processes start Gloo; NCCL is used only on GPUs.
            verdict = "error" if gpus > 1 or variable.startswith("GLOO") else "warning"
            seen = f"{variable}={value} is not an interface of this machine (available: {', '.join(names)})"
            found.append(Finding(verdict, "network", seen, f"unset {variable}"))
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        seen = "the host name does not resolve, so processes may not find each other"
        found.append(Finding("warning", "network", seen, 'echo "127.0.0.1 $(hostname)" >> /etc/hosts'))
    left = [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in os.environ]
    if left:
        seen = f"{' and '.join(left)} {'are' if len(left) > 1 else 'is'} set, so a run would wait for other processes"
        found.append(Finding("warning", "network", seen, f"unset {' '.join(left)}"))
    return found or [Finding("ok", "network", f"interfaces {', '.join(names)}")]


def nccl_finds(value: str, names: list[str]) -> bool:
    """Whether `NCCL_SOCKET_IFNAME` selects an interface: by prefixes, exact names (`=`), or exclusion (`^`)."""
    mode = value[0] if value[0] in "^=" else ""
    words = value.removeprefix(mode).split(",")
    hit = [name for name in names if any(name == w if mode == "=" else name.startswith(w) for w in words)]
    return len(hit) < len(names) if mode == "^" else bool(hit)


def gloo_finds(value: str, names: list[str]) -> bool:
    """Whether `GLOO_SOCKET_IFNAME` can be used: each prefix must match, or Gloo raises when it starts."""
    return all(any(name.startswith(word) for name in names) for word in value.split(","))


def sandbox() -> Finding:
    """Whether programs of the reward `code` run in their own namespaces, by a real call of the sandbox."""
    from r1lab.grading import sandbox

    problem = sandbox._launch("", "", sandbox.DEFAULT).status if sys.platform == "linux" else f"none on {sys.platform}"
    if problem == "ok":
        return Finding("ok", "sandbox", "each program gets its own namespaces")
    seen = (
        f"no namespaces ({problem.removeprefix('unavailable: ')}): the reward code runs programs with weaker isolation"
    )
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
    """The C++ compiler that torch.compile calls, and on a GPU Python's headers, which Triton's stubs include."""
    name = os.environ.get("CXX") or ("gcc" if cuda else "g++")
    if not shutil.which(name):
        return Finding("warning", "compiler", f"no {name}: vLLM and torch.compile need it", "apt-get install g++")
    if cuda and not Path(sysconfig.get_path("include"), "Python.h").is_file():
        fix = f"apt-get install python3.{sys.version_info.minor}-dev"
        return Finding("warning", "compiler", f"{name} is installed, but not Python.h, which Triton needs", fix)
    return Finding("ok", "compiler", name)


def encoding() -> Finding:
    """Whether files and the terminal use UTF-8."""
    found = {"files": locale.getpreferredencoding(False), "output": getattr(sys.stdout, "encoding", None) or "utf-8"}
    bad = [f"{what} {name}" for what, name in found.items() if name.lower().replace("-", "") != "utf8"]
    if bad:
        return Finding("warning", "encoding", f"{', '.join(bad)} instead of UTF-8", "export PYTHONUTF8=1")
    return Finding("ok", "encoding", "UTF-8")


def clock(served: float | None) -> Finding:
    """Compares the clock with a server's, or else with the newest file of the package.

    Args:
        served: How many seconds a server's clock is ahead; None without a server.
    """
    now = time.strftime("%Y-%m-%d %H:%M %Z")
    if served is not None and abs(served) > 120:
        seen = f"{now} is {abs(served):.0f} s {'behind' if served > 0 else 'ahead'}: certificates may be refused"
        return Finding("warning", "clock", seen, "timedatectl set-ntp true")
    if time.time() < max(file.stat().st_mtime for file in Path(__file__).parent.glob("*.py")) - 3600:
        return Finding("warning", "clock", f"{now} is before r1lab was installed", "timedatectl set-ntp true")
    return Finding("ok", "clock", now + ("" if served is None else ", which agrees with the Hub's"))
