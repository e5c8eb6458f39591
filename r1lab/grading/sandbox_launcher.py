"""Starts one program inside the sandbox; `sandbox.py` runs this file as `python -I -S sandbox_launcher.py ...`.

r1lab never imports this file, and it needs only the standard library. In order, it leaves the host's namespaces,
builds a root with only Python and an empty /tmp, gives up its rights, sets the limits, starts the program, waits for
it, and reports how it ended and what it used. The waiting process is the init of the program's PID namespace: when it
ends, or `sandbox.py` ends it at the deadline, the kernel kills every process in the namespace.
"""

import ctypes
import os
import resource
import signal
import sys

NOBODY = 65534
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE, MNT_DETACH = 1 << 14, 1 << 18, 2
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
KEYCTL, KEYCTL_JOIN_SESSION_KEYRING = {"x86_64": 250, "aarch64": 219}, 1

libc = ctypes.CDLL(None, use_errno=True)


def main(report: int, source: int, python: str, prefix: str, work: str, seconds: float, *limits: int) -> None:
    """Runs the program in the file descriptor `source` and writes how it ended to `report`.

    Args:
        report: Receives `setup ERROR`, or `start ` when the program starts and then `exit STATUS SECONDS BYTES`: how
            it ended (as in wait(2)), its CPU time, and the peak memory of its largest process.
        source: The program's text.
        python: The interpreter.
        prefix: The installation that the interpreter belongs to, the only folder that the program sees besides the
            system's.
        work: A folder to run in without namespaces, or empty: a new /tmp in new namespaces.
        seconds: CPU time for each process.
        limits: Bytes of address space, processes, and bytes of disk.
    """
    os.set_inheritable(report, False)  # so that the program cannot write to it
    os.umask(0o022)
    isolated = not work
    text = open(source, "rb").read()
    die_with_parent()
    if isolated:
        enter_namespaces()
        if init := os.fork():
            os.close(report)
            os.waitpid(init, 0)
            os._exit(0)
        die_with_parent()
        work = "/tmp"
        make_root(prefix, disk=limits[2])
    os.chdir(work)
    with open("main.py", "wb") as file:
        file.write(text)
    if sys.platform == "linux":
        check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")  # no access through /proc for the same user
    program = os.fork()
    if program == 0:
        if isolated:
            os.setsid()  # so that it cannot signal its group, and thus this process's parent outside
        drop_rights(isolated, python, work)
        set_limits(seconds, *limits)
        variables = {"PATH": "/usr/bin:/bin", "HOME": work, "TMPDIR": work, "LANG": "C.UTF-8"}
        os.execve(python, [python, "-I", "-X", "utf8", "main.py"], variables)
    os.write(report, b"start ")
    _, status, used = os.wait4(program, 0)
    held = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    os.write(report, f"exit {status} {used.ru_utime + used.ru_stime:.3f} {held}".encode())
    if not isolated:
        os.killpg(0, signal.SIGKILL)  # this process and everything that is still in its session


def enter_namespaces() -> None:
    """Leaves the host's users, mounts, processes, network, System V IPC, host name and control groups.

    The program runs as nobody, because the kernel does not apply RLIMIT_NPROC to root. Root therefore maps two users,
    itself (to build the program's root) and nobody, which a process can only do for another one: hence the helper.
    """
    uid, gid, parent = os.geteuid(), os.getegid(), os.getpid()
    ready, go = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(go)
        os.read(ready, 1)  # returns when the parent has closed its end
        if uid:
            write(f"/proc/{parent}/setgroups", "deny")
        for kind, own in ("uid", uid), ("gid", gid):
            both = f"0 {own} 1\n{NOBODY} {NOBODY} 1\n"
            write(f"/proc/{parent}/{kind}_map", f"{NOBODY} {own} 1\n" if uid else both)
        os._exit(0)
    check(
        libc.unshare(
            CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
        ),
        "unshare",
    )
    os.close(go)
    if os.waitpid(helper, 0)[1]:
        os._exit(1)  # the helper has reported why


def make_root(prefix: str, disk: int) -> None:
    """Makes a root of the system's programs and Python, an empty /tmp, a private /proc and devices."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    os.mkdir("/tmp/old")
    check(libc.pivot_root(b"/tmp", b"/tmp/old"), "pivot_root")
    os.chdir("/")
    os.mkdir("/tmp")
    options = f"size={disk},nr_inodes=2048,mode=700,uid={NOBODY},gid={NOBODY}"
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, options)
    for path in ("/usr", "/bin", "/lib", "/lib64", prefix):
        if os.path.islink("/old" + path):
            os.symlink(os.readlink("/old" + path), path)
        elif os.path.isdir("/old" + path) and not os.path.exists(path):
            os.makedirs(path)
            mount("/old" + path, path, None, MS_BIND | MS_REC)
            kept = os.statvfs(path).f_flag & MS_NOEXEC
            mount("none", path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)
    os.mkdir("/dev")
    for device in ("null", "zero", "urandom"):
        write(f"/dev/{device}", "")
        mount(f"/old/dev/{device}", f"/dev/{device}", None, MS_BIND)
    os.symlink("/tmp", "/dev/shm")
    # With user namespaces a program could mount file systems without a limit, and System V memory has no limit. Inside
    # some containers either setting may be forbidden (the second to all but root), and so may /proc.
    attempt(write, "/old/proc/sys/user/max_user_namespaces", "0")
    attempt(write, "/old/proc/sys/kernel/shmmni", "0")
    os.mkdir("/proc")
    attempt(mount, "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    check(libc.umount2(b"/old", MNT_DETACH), "umount")
    os.rmdir("/old")
    mount("none", "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def drop_rights(isolated: bool, python: str, work: str) -> None:
    """Becomes nobody for good. Capabilities end with root's user id, or else with execve(2)."""
    root = os.geteuid() == 0
    reachable = all(os.stat(path).st_mode & 1 for path in (python, *parents(python), *parents(work)))
    if isolated or (root and reachable):
        if root:
            os.setgroups([])
            os.chown(work, NOBODY, NOBODY)
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    if sys.platform == "linux":
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
        libc.syscall(KEYCTL.get(os.uname().machine, -1), KEYCTL_JOIN_SESSION_KEYRING, None)  # a new one, without keys
        die_with_parent()


def set_limits(seconds: float, memory: int, processes: int, disk: int) -> None:
    """Sets the limits of one process. Without namespaces RLIMIT_NPROC counts the user's other processes: then 0."""
    limits = {
        "CPU": int(seconds) + 1,
        "AS": memory,
        "NPROC": processes,
        "FSIZE": disk,
        "NOFILE": 64,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
    }
    for name, value in limits.items():
        if (kind := getattr(resource, f"RLIMIT_{name}", None)) is not None and (name, sys.platform) != (
            "AS",
            "darwin",
        ):
            _, most = resource.getrlimit(kind)
            value = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(kind, (value, value))


def parents(path: str) -> list[str]:
    """The folders above a path."""
    above = []
    while path != "/":
        path = os.path.dirname(path)
        above.append(path)
    return above


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2)."""
    code = libc.mount(
        source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    check(code, f"mount {target}")


def write(path: str, text: str) -> None:
    """Writes a file with one write call, as the kernel's own files require."""
    with open(path, "w") as file:
        file.write(text)


def attempt(function, *arguments) -> None:
    """Makes a system call that some systems do not support."""
    try:
        function(*arguments)
    except OSError:
        pass


def die_with_parent() -> None:
    """Has the kernel kill this process when the one that started it ends."""
    if sys.platform == "linux":
        check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def check(code: int, what: str) -> None:
    """Raises the error that a failed call of the C library left in errno."""
    if code:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    report = int(sys.argv[1])
    try:
        source, python, prefix, work, seconds, *limits = sys.argv[2:]
        main(report, int(source), python, prefix, work, float(seconds), *map(int, limits))
    except OSError as error:  # of any of the processes forked above
        os.write(report, f"setup {error}".encode())
        os._exit(1)
    os._exit(0)
