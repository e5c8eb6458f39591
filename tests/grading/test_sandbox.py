"""The sandbox: how programs end, that each run is fresh, and what happens where something is missing."""

import contextlib
import ctypes
import logging
import os
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.grading import sandbox
from r1lab.grading.sandbox import DEFAULT, Limits, Result, e2b, run

namespaces = pytest.mark.skipif(not sandbox._namespaces(), reason="no user namespaces on this machine")

LIMITS = Limits(seconds=1.0, cap=1.5, memory=256 * 2**20, processes=16, disk=4 * 2**20, output=100_000)
SECRET = "r1lab-canary-5d2f"


@namespaces
def test_every_run_is_fresh():
    leave = "open('left', 'w').close(); import os; print(sorted(os.listdir('/tmp')))"
    assert [run(leave).stdout for _ in range(2)] == ["['left', 'main.py']\n"] * 2


@namespaces
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls")
def test_keys_of_the_session_are_not_passed_on():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(248, b"user", b"r1lab", SECRET.encode(), len(SECRET), -3) == -1:  # add_key
        pytest.skip("no key can be added here")
    request = "import ctypes; print(ctypes.CDLL(None).syscall(249, b'user', b'r1lab', None, 0))"
    here = subprocess.run([sys.executable, "-c", request], capture_output=True, text=True)
    assert here.stdout != "-1\n"
    assert run(request) == Result("ok", "-1\n")


@namespaces
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may forbid it")
def test_no_system_v_memory():
    assert run("import ctypes; print(ctypes.CDLL(None).shmget(0, 2**20, 0o1666))") == Result("ok", "-1\n")


@namespaces
def test_many_at_a_time():
    with ThreadPoolExecutor(8) as pool:
        assert [r.stdout for r in pool.map(run, [f"print({n})" for n in range(24)])] == [f"{n}\n" for n in range(24)]


def test_nothing_is_left_open():
    def count():
        return len(os.listdir("/proc/self/fd"))

    run("print(1)")
    before = count()
    for program in ("print(1)", "1 / 0", "import os; os._exit(3)"):
        run(program)
    assert count() == before


ENDS = {
    "print(1)": Result("ok", "1\n"),
    "print(input())": Result("ok", "from outside\n"),
    "import sys; print(sys.stdin.read() * 2)": Result("ok", "from outsidefrom outside\n"),
    "print('é 漢 \u202e')": Result("ok", "é 漢 \u202e\n"),
    "if __name__ == '__main__': print(1)": Result("ok", "1\n"),
    "exit()": Result("ok"),
    "raise SystemExit(2)": Result("error: exit status 2"),
    "raise SystemExit('Sorry: no')": Result("error: exit status 1"),
    "import json; json.loads('')": Result("error: json.decoder.JSONDecodeError"),
    "import numpy_of_nowhere": Result("error: ModuleNotFoundError"),
    "raise MemoryError": Result("memory"),
    "print('x' * 2_000_000)": Result("output_limit", "x" * DEFAULT.output),
    "x = int('9' * 4000); print(x % 10)": Result("ok", "9\n"),
    "": Result("ok"),
}


@pytest.mark.parametrize("isolated", [pytest.param(True, marks=namespaces), False])
def test_how_a_program_ends(isolated, monkeypatch):
    monkeypatch.setattr(sandbox, "_namespaces", lambda: isolated)
    with ThreadPoolExecutor(3) as pool:
        assert dict(zip(ENDS, pool.map(lambda program: run(program, "from outside"), ENDS))) == ENDS


both = pytest.mark.parametrize("isolated", [pytest.param(True, marks=namespaces), False])
RECURSION = """
import sys, threading
sys.setrecursionlimit(10**7)
threading.stack_size(512 * 1024 * 1024)
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
def main(): print(depth(100_000))
thread = threading.Thread(target=main)
thread.start()
thread.join()
"""


@namespaces
def test_the_usual_thread_for_deep_recursion_runs():
    assert run(RECURSION, "", replace(DEFAULT, memory=256 * 2**20)) == Result("ok", "100000\n")


@both
def test_memory_that_is_filled_counts_and_memory_that_is_not_does_not(isolated, monkeypatch):
    monkeypatch.setattr(sandbox, "_namespaces", lambda: isolated)
    assert run("import mmap; print(len(mmap.mmap(-1, 400 << 20)))", "", LIMITS).status == "ok"
    filled = "data = bytearray(400 << 20)\nfor i in range(0, len(data), 4096): data[i] = 1\nprint(len(data))"
    assert run(filled, "", LIMITS).status == "memory"


@both
def test_the_limit_of_output_is_of_bytes(isolated, monkeypatch):
    monkeypatch.setattr(sandbox, "_namespaces", lambda: isolated)
    for character in ("x", "é", "汉"):
        program = f"import sys; sys.stdout.write({character!r} * int(input()))"
        most = LIMITS.output // len(character.encode())
        assert run(program, str(most), LIMITS) == Result("ok", character * most)
        assert run(program, str(most + 1), LIMITS).status == "output_limit"


def test_two_megabytes_of_output_are_read_whole():
    result = run("for i in range(300_000): print(i)", "", replace(DEFAULT, output=4 * 2**20))
    assert result == Result("ok", "".join(f"{i}\n" for i in range(300_000)))


@both
def test_a_busy_machine_changes_no_verdict(isolated, monkeypatch):
    """The program takes several times its limit by the wall clock, and one that goes on is ended all the same."""
    monkeypatch.setattr(sandbox, "_namespaces", lambda: isolated)
    spin = "import time\nwhile time.process_time() < {}: pass\nprint('done')"
    busy = f"import os\nwhile os.getppid() == {os.getpid()}: pass"  # ends with the tests, also when they are killed
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # what this thread starts from here on shares one core
    loops = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(3)]
    try:
        limits = replace(LIMITS, seconds=0.5, cap=0.8)
        assert run(spin.format(0.3), "", limits) == Result("ok", "done\n")
        assert run(spin.format(0.8), "", limits).status == "timeout"
        assert run(spin.format(100), "", limits).status == "timeout"
    finally:
        os.sched_setaffinity(0, cores)
        for loop in loops:
            loop.kill()
            loop.wait()


@namespaces
def test_the_processes_of_a_program_share_its_time():
    spin = "import os, time\nchildren = [os.fork() for _ in range({})]\nwhile time.process_time() < 0.4: pass\n"
    wait = "for child in children: child and os.waitpid(child, 0)"
    assert run(spin.format(1) + wait, "", LIMITS).status == "ok"
    assert run(spin.format(3) + wait, "", LIMITS).status == "timeout"


def test_a_kill_for_lack_of_memory_says_nothing_of_the_program(monkeypatch):
    kill = "import os; os.kill(os.getpid(), 9)"
    assert run(kill).status == "error: SIGKILL"
    counts = iter(range(10))
    monkeypatch.setattr(sandbox, "kills_for_memory", lambda: next(counts))
    assert run(kill).status.startswith("unavailable: this machine has no memory left")


@both
def test_large_input(isolated, monkeypatch):
    monkeypatch.setattr(sandbox, "_namespaces", lambda: isolated)
    assert run("import sys; print(len(sys.stdin.read()))", "x\n" * 500_000).stdout == "1000000\n"
    assert run("# " + "x" * 1_000_000 + "\nprint(1)").stdout == "1\n"


def test_missing_namespaces_are_said_once(monkeypatch, caplog):
    sandbox._namespaces.cache_clear()
    launch = sandbox._launch
    monkeypatch.setattr(sandbox, "_launch", lambda *a: launch(*a) if len(a) > 3 else Result("unavailable: EPERM"))
    try:
        with caplog.at_level(logging.WARNING):
            assert [run("print(1)").stdout for _ in range(3)] == ["1\n"] * 3
    finally:
        sandbox._namespaces.cache_clear()
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert "without namespaces (EPERM): the network, other files and processes are NOT isolated" in record.getMessage()


def test_e2b_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "e2b_code_interpreter", None)
    with pytest.raises(UserError, match="sandbox: e2b: needs its package: pip install e2b-code-interpreter"):
        e2b("print(1)")


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "status"),
    [
        (0, "4", "", "ok"),
        (1, "", 'Traceback\n  File "main.py"\nValueError: no', "error: ValueError"),
        (1, "", "Traceback\nMemoryError", "memory"),
        (None, "", "", "timeout"),
        (0, "x" * 200_000, "", "output_limit"),
    ],
)
def test_e2b(code, stdout, stderr, status, monkeypatch):
    class Exit(Exception):
        exit_code = code

    Exit.stdout, Exit.stderr = stdout, stderr
    given = {}

    class Box(contextlib.nullcontext):
        @classmethod
        def create(cls, *, allow_internet_access):
            assert not allow_internet_access
            return cls(types.SimpleNamespace(files=files, commands=types.SimpleNamespace(run=command)))

    def command(line, timeout):
        assert timeout == LIMITS.seconds
        assert "-I" in line and line.endswith("/tmp/main.py </tmp/stdin")
        if code is None:
            raise TimeoutError
        if code:
            raise Exit
        return Exit

    files = types.SimpleNamespace(write=given.__setitem__)
    package = types.SimpleNamespace(CommandExitException=Exit, Sandbox=Box, TimeoutException=TimeoutError)
    monkeypatch.setitem(sys.modules, "e2b_code_interpreter", package)
    result = e2b("print(input())", "4", LIMITS)
    assert given == {"/tmp/main.py": "print(input())", "/tmp/stdin": "4"}
    assert result.status == status
    assert len(result.stdout) <= LIMITS.output


@given(code=st.integers(-70, 255), stderr=st.text())
@settings(max_examples=200, deadline=None)
def test_any_end_has_a_status(code, stderr):
    status = sandbox._status(code, stderr)
    assert (status == "ok") == (code == 0)
    assert len(status) < 80 and "\n" not in status
