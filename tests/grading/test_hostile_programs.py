"""Hostile programs: each does no harm, leaves nothing, and ends as it should."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from r1lab.grading import sandbox
from r1lab.grading.sandbox import Limits, run

namespaces = pytest.mark.skipif(not sandbox._namespaces(), reason="no user namespaces on this machine")

LIMITS = Limits(seconds=1.0, cap=1.5, memory=256 * 2**20, processes=16, disk=4 * 2**20, output=100_000)
SECRET = "r1lab-canary-5d2f"

# Before each program. HOST is a folder of the host that holds `secret` (and the name of an abstract socket), SELF the
# process that runs the sandbox, PORT one that the host listens on.
PRELUDE = """\
import ctypes, os, resource, signal, socket, subprocess, sys, threading, time
HOST, SELF, PORT = {host!r}, {self!r}, {port!r}
libc = ctypes.CDLL(None, use_errno=True)
def denied(function, *arguments):
    try:
        print("HARM", function, function(*arguments))
    except Exception as error:
        print("denied", type(error).__name__)
def syscall(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno())
"""

# Program, and how it must end. What must not be possible is wrapped in `denied`, which prints HARM where it is.
HOSTILE = {
    # processes
    "fork bomb": ("while True: os.fork()", "error: BlockingIOError | timeout"),
    "fork bomb that ignores errors": ("while True:\n try: os.fork()\n except OSError: pass", "timeout"),
    "thread bomb": (
        "while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "error: RuntimeError",
    ),
    "thread that outlives": ("threading.Thread(target=time.sleep, args=(60,)).start()", "timeout"),
    "daemon thread": ("threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "ok"),
    "child that outlives": ("subprocess.Popen(['sleep', '60'])", "ok"),
    "double fork and setsid": (
        "if os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  [os.close(n) for n in range(3)]\n  time.sleep(60)\n"
        " os._exit(0)\nos.wait()",
        "ok",
    ),
    "setsid and busy": ("if os.fork() == 0:\n os.setsid()\n while True: pass", "ok"),
    "child deaf to signals": (
        "if os.fork() == 0:\n for n in range(1, 65):\n  try: signal.signal(n, signal.SIG_IGN)\n  except (OSError, "
        "ValueError): pass\n while True: pass\ntime.sleep(60)",
        "timeout",
    ),
    "deaf to SIGTERM and SIGXCPU": (
        "for s in (signal.SIGTERM, signal.SIGXCPU): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "timeout",
    ),
    "blocks all signals": ("signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass", "timeout"),
    "without a death signal": (
        "libc.prctl(1, 0)\nif os.fork() == 0:\n libc.prctl(1, 0)\n time.sleep(60)",
        "ok",
    ),
    "kills all": ("os.kill(-1, 9)", "error: ProcessLookupError"),
    "kills init": ("try: os.kill(1, 9)\nexcept OSError: pass\ntime.sleep(0.2)\nsys.exit(5)", "error: exit status 5"),
    "forges init's report": (
        "for n in range(64): denied(lambda: open(f'/proc/1/fd/{n}', 'w').write('exit 0'))\nsys.exit(5)",
        "error: exit status 5",
    ),
    "kills the caller": ("denied(os.kill, SELF, 9)", "ok"),
    "kills its group": ("os.killpg(0, 9)", "error: SIGKILL"),
    "kills itself": ("os.kill(os.getpid(), 9)", "error: SIGKILL"),
    "stops itself": ("os.kill(os.getpid(), signal.SIGSTOP)", "timeout"),
    "alarms init": ("denied(os.kill, 1, signal.SIGALRM)\ntime.sleep(60)", "timeout"),
    "traces init": ("denied(syscall, 'ptrace', 16, 1, 0, 0)", "ok"),
    "writes into init": ("denied(open, '/proc/1/mem', 'r+b')", "ok"),
    "init's files": ("denied(os.listdir, '/proc/1/fd')", "ok"),
    "init's root": ("denied(os.listdir, '/proc/1/root/')\ndenied(os.listdir, '/proc/1/cwd/')", "ok"),
    # time
    "sleeps": ("time.sleep(60)", "timeout"),
    "busy": ("while True: pass", "timeout"),
    "huge power": ("10 ** 10 ** 10", "timeout | memory"),
    "slow regular expression": ("import re\nre.match('(a+)+$', 'a' * 60 + 'b')", "timeout"),
    "waits for input": ("while True: sys.stdin.read(); time.sleep(0.1)", "timeout"),
    "sets the clock": ("denied(time.clock_settime, time.CLOCK_REALTIME, 0)", "ok"),
    "sets its priority": ("denied(os.nice, -5)", "ok"),
    # memory
    "memory bomb": ("data = []\nwhile True: data.append(bytearray(10**7))", "memory"),
    "memory, slowly": ("data = bytearray(4 * 10**8)\nwhile True: pass", "memory"),  # over its time as well
    "one big allocation": ("bytearray(10**10)", "memory"),
    "big list": ("[0] * 10**10", "memory"),
    "zip bomb": ("import zlib\nd = zlib.compress(bytes(10**7))\nb''.join([zlib.decompress(d)] * 100)", "memory"),
    "mmap": ("import mmap\ndenied(mmap.mmap, -1, 2**32)", "ok"),
    "shared memory": ("open('/dev/shm/x', 'wb', 0).write(bytes(2**24)) == 2**24 and print('HARM')", "ok"),
    "shared memory, again and again": (
        "for n in range(100): open(f'/dev/shm/{n}', 'wb').write(bytes(2**20))",
        "error: OSError",
    ),
    "locked memory": ("denied(syscall, 'mlockall', 3)", "ok"),
    "deep recursion": ("def f(): f()\nf()", "error: RecursionError"),
    "deeper recursion": (
        "sys.setrecursionlimit(10**9)\ndef f(x): return f([x]) if x else 0\nf([0])",
        "memory | timeout | error: SIGSEGV | error: SIGABRT",
    ),
    "deep source": ("eval('(' * 30_000 + ')' * 30_000)", "memory | error: MemoryError | error: SyntaxError"),
    "raises its limits": (
        "for n in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):\n"
        " denied(resource.setrlimit, n, (resource.RLIM_INFINITY,) * 2)",
        "ok",
    ),
    # files
    "fills the disk": ("with open('x', 'wb') as f:\n while True: f.write(bytes(10**6))", "error: OSError"),
    "fills the disk in many files": (
        "for n in range(100): open(str(n), 'wb').write(bytes(10**6))",
        "error: OSError",
    ),
    "many empty files": ("for n in range(10**6): open(str(n), 'w').close()", "error: OSError"),
    "many folders": ("while True:\n os.mkdir('d')\n os.chdir('d')", "error: OSError | timeout"),
    "sparse file": ("f = open('x', 'wb')\nf.truncate(10**12)", "error: OSError | error: SIGXFSZ"),
    "all file descriptors": ("fs = []\nwhile True: fs.append(open('/dev/null'))", "error: OSError"),
    "pipes": ("fs = []\nwhile True: fs.append(os.pipe())", "error: OSError"),
    "reads the host's file": ("denied(open, HOST + '/secret')", "ok"),
    "writes a host's file": ("denied(open, HOST + '/secret', 'w')", "ok"),
    "makes a host's file": ("denied(open, HOST + '/new', 'w')\nopen('/tmp/r1lab-hostile-new', 'w')", "ok"),
    "removes the host's files": ("import shutil\ndenied(shutil.rmtree, HOST)", "ok"),
    "removes everything": ("import shutil\nshutil.rmtree('/', ignore_errors=True)", "ok | timeout"),
    "home": ("denied(os.listdir, '/home')\nprint(os.path.expanduser('~'))", "ok"),
    "root's home": (
        "print('HARM' if set(os.listdir('/root') if os.path.exists('/root') else ()) - {'.pyenv'} else 0)",
        "ok",
    ),
    "/etc/shadow": ("denied(open, '/etc/shadow')\ndenied(open, '/etc/passwd')", "ok"),
    "walks all files": (
        "for top in ('/root', '/home', '/tmp', '/etc', '/var', '/work', '/proc'):\n"
        " for path, _, names in os.walk(top):\n"
        "  if 'secret' in names or HOST in path: print('HARM', path)",
        "ok | timeout",
    ),
    "symbolic link out": ("os.symlink(HOST, 'link')\ndenied(open, 'link/secret')\ndenied(open, 'link/x', 'w')", "ok"),
    "dots": ("denied(open, '../' * 30 + HOST + '/secret')", "ok"),
    "hard link out": ("denied(os.link, sys.executable, 'python')", "ok"),
    "writes to the system": (
        "denied(open, '/usr/x', 'w')\ndenied(open, '/x', 'w')\ndenied(open, '/dev/x', 'w')",
        "ok",
    ),
    "writes to Python": ("denied(open, os.__file__, 'a')\ndenied(open, sys.prefix + '/x', 'w')", "ok"),
    "changes rights": ("denied(os.chmod, '/usr', 0o777)\ndenied(os.chown, '/tmp', 0, 0)", "ok"),
    "device": ("denied(os.mknod, 'sda', 0o60666, os.makedev(8, 0))\ndenied(open, '/dev/mem')", "ok"),
    "set-user-id program": (
        "import shutil\nshutil.copy('/bin/sh', 'sh')\nos.chmod('sh', 0o6755)\n"
        "print('HARM' if subprocess.check_output(['./sh', '-p', '-c', 'id -u']) == b'0\\n' else 0)",
        "ok",
    ),
    "su": (
        "print(subprocess.run(['su', '-c', 'id -u'], capture_output=True, text=True).stdout == '0\\n' and 'HARM')",
        "ok | error: FileNotFoundError",
    ),
    "becomes root": ("denied(os.setuid, 0)\ndenied(os.setgid, 0)\ndenied(os.setgroups, [0])", "ok"),
    "mounts": ("denied(syscall, 'mount', b'none', b'/tmp', b'tmpfs', 0, b'')", "ok"),
    "mounts the system writable": ("denied(syscall, 'mount', b'none', b'/usr', None, 4096 | 32, None)", "ok"),
    "unmounts": ("denied(syscall, 'umount2', b'/proc', 2)\ndenied(syscall, 'umount2', b'/tmp', 2)", "ok"),
    "own user namespace": ("denied(syscall, 'unshare', 0x10000000)", "ok"),
    "own mount namespace": ("denied(syscall, 'unshare', 0x20000)", "ok"),
    "init's namespaces": (
        "denied(open, '/proc/1/ns/mnt')\ndenied(syscall, 'setns', os.open('/proc/self/ns/user', 0), 0)",
        "ok",
    ),
    "chroot": ("denied(os.chroot, '.')\ndenied(os.chroot, '/')", "ok"),
    "kernel settings": (
        "denied(open, '/proc/sys/kernel/core_pattern', 'w')\ndenied(open, '/proc/sysrq-trigger', 'w')",
        "ok",
    ),
    "core dump": ("resource.getrlimit(resource.RLIMIT_CORE)[1] and print('HARM')\nos.abort()", "error: SIGABRT"),
    # network
    "connects": ("denied(socket.create_connection, ('1.1.1.1', 53), 1)", "ok"),
    "connects to the host": ("denied(socket.create_connection, ('127.0.0.1', PORT), 1)", "ok"),
    "name service": ("denied(socket.getaddrinfo, 'example.com', 80)", "ok"),
    "listens on the host's port": ("s = socket.create_server(('127.0.0.1', PORT))\ns.listen()", "ok"),
    "sends a datagram": ("denied(socket.socket(type=socket.SOCK_DGRAM).sendto, b'x', ('1.1.1.1', 53))", "ok"),
    "raw socket": ("denied(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)", "ok"),
    "abstract socket of the host": ("denied(socket.socket(socket.AF_UNIX).connect, '\\0{name}')", "ok"),
    "opens a page": ("import urllib.request\ndenied(urllib.request.urlopen, 'http://example.com', None, 1)", "ok"),
    # secrets
    "environment": ("print(os.environ)\n'SECRET' in str(os.environ) and print('HARM')", "ok"),
    "init's environment": ("denied(open, '/proc/1/environ')", "ok"),
    "the caller's environment": ("denied(open, f'/proc/{SELF}/environ')", "ok"),
    "all command lines": (
        "for p in filter(str.isdigit, os.listdir('/proc')):\n"
        " 'pytest' in open(f'/proc/{p}/cmdline').read() and print('HARM')",
        "ok",
    ),
    "open files": (
        "for n in range(3, 64):\n try: print('HARM', os.readlink(f'/proc/self/fd/{n}')) if os.fstat(n) else 0\n"
        " except OSError: pass",
        "ok",
    ),
    "writes to all open files": ("for n in range(3, 64):\n denied(os.write, n, b'exit 0')", "ok"),
    "arguments": ("print('HARM' if len(sys.argv) > 1 or HOST in str(sys.argv + sys.path) else 0)", "ok"),
    "kernel log": (
        "denied(open, '/dev/kmsg')\ndenied(syscall, 'klogctl', 3, ctypes.create_string_buffer(99), 99)",
        "ok",
    ),
    # output
    "endless output": ("while True: print('x' * 1000)", "output_limit"),
    "endless output by children": ("os.fork()\nos.fork()\nwhile True: os.write(1, b'x' * 1000)", "output_limit"),
    "endless errors": ("while True: print('x' * 1000, file=sys.stderr)", "error: exit status 120"),
    "much on one line": ("sys.stdout.write('x' * 10**6)", "output_limit"),
    "null bytes": ("os.write(1, bytes(1000))", "ok"),
    "not UTF-8": ("os.write(1, b'\\xff\\xfe\\x80' * 100)", "ok"),
    "closes its output": ("os.close(1)\nos.close(2)", "ok | error: exit status 120"),
    "reports by itself": ("print('exit 0')\nsys.stderr.write('exit 0')\nsys.exit(3)", "error: exit status 3"),
    "names an exception": ("sys.stderr.write('MemoryError\\n' + 'A' * 10**6)\nsys.exit(1)", "error: exit status 1"),
    "after the end": ("import atexit\natexit.register(time.sleep, 60)", "timeout"),
    # ends
    "exits at once": ("os._exit(0)", "ok"),
    "exits with a number": ("os._exit(137)", "error: exit status 137"),
    "aborts": ("os.abort()", "error: SIGABRT"),
    "segmentation fault": ("ctypes.string_at(0)", "error: SIGSEGV"),
    "fault handler": ("import faulthandler\nfaulthandler.enable()\nfaulthandler._sigsegv()", "error: SIGSEGV"),
    "becomes another program": ("os.execv('/bin/sleep', ['sleep', '60'])", "timeout"),
    "syntax error": ("def f(:", "error: SyntaxError"),
    "null byte in the source": ("x = 1\0", "error: SyntaxError | error: ValueError | ok"),
    "lone surrogate in the source": ("print('\ud800')", "ok"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Each hostile program's result, and what was left of the host afterwards."""
    host = tmp_path_factory.mktemp("host")
    (host / "secret").write_text(SECRET)
    before = pid_namespaces()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
        pytest.MonkeyPatch.context() as patch,
    ):
        abstract.bind(f"\0{host}")
        abstract.listen()
        patch.setenv("R1LAB_SECRET", SECRET)
        prelude = PRELUDE.format(host=str(host), self=os.getpid(), port=server.getsockname()[1])

        def run_one(name):
            return run(prelude + HOSTILE[name][0], "", LIMITS)

        with ThreadPoolExecutor(3) as pool:
            results = dict(zip(HOSTILE, pool.map(run_one, HOSTILE), strict=True))
    # Others may use sandboxes on this machine: theirs end, and those that they start from now on are not counted.
    deadline, left = time.monotonic() + 30, pid_namespaces() - before
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left &= pid_namespaces()
    return results, host, left


def pid_namespaces() -> set[str]:
    """The PID namespaces that any process on this machine is in."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/pid"):
        with contextlib.suppress(OSError):  # it has just ended, or is not ours
            found.add(os.readlink(link))
    return found


@namespaces
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_program(name, outcomes):
    result = outcomes[0][name]
    assert "HARM" not in result.stdout
    assert SECRET not in result.stdout
    assert len(result.stdout) <= LIMITS.output
    assert result.status in HOSTILE[name][1].split(" | ")


@namespaces
def test_hostile_programs_leave_no_process_and_no_file(outcomes):
    _, host, left = outcomes
    assert not left
    assert [path.name for path in host.iterdir()] == ["secret"]
    assert (host / "secret").read_text() == SECRET
    assert not Path("/tmp/r1lab-hostile-new").exists()


@namespaces
def test_a_process_that_outlives_is_seen():
    """What the test above looks for is there while a program runs."""
    before = pid_namespaces()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, "import time; time.sleep(60)", "", replace(LIMITS, seconds=1))
        time.sleep(0.7)
        assert pid_namespaces() - before
        assert running.result().status == "timeout"


@namespaces
def test_nothing_outlives_the_caller():
    before = pid_namespaces()
    # The probe for namespaces opens one for a moment itself: it is over when the caller prints.
    program = "from r1lab.grading.sandbox import _namespaces, run; _namespaces(); print(flush=True); "
    program += "run('import time; time.sleep(60)', '')"
    caller = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    caller.stdout.readline()
    deadline = time.monotonic() + 20
    while not pid_namespaces() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pid_namespaces() - before
    with caller:
        caller.kill()
    while (left := pid_namespaces() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


# What is still enforced without namespaces: as root only where nobody can reach the interpreter.
PLAIN = {
    "time.sleep(60)": "timeout",
    "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass": "timeout",
    "data = []\nwhile True: data.append(bytearray(10**7))": "memory",
    "with open('x', 'wb') as f:\n while True: f.write(bytes(10**6))": "error: OSError",
    "while True: print('x' * 1000)": "output_limit",
    "for n in range(3, 64): denied(os.write, n, b'exit 0')": "ok",
    "print('HARM') if 'SECRET' in str(os.environ) else 0": "ok",
    "os.setpgid(0, 0) if os.getpgid(0) == os.getpid() else os.setsid()\ntime.sleep(60)": "timeout",
    "os.kill(os.getppid(), 9)\ntime.sleep(60)": "error: SIGKILL",
    "os.killpg(0, 9)": "error: SIGKILL",
}


def test_without_namespaces(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "_namespaces", lambda: False)
    monkeypatch.setenv("R1LAB_SECRET", SECRET)
    prelude = PRELUDE.format(host="/", self=os.getpid(), port=1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # others may use sandboxes on this machine
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda program: run(prelude + program, "", LIMITS), PLAIN))
    assert [result.status for result in results] == list(PLAIN.values())
    assert not any("HARM" in result.stdout for result in results)
    assert list(tmp_path.iterdir()) == []
