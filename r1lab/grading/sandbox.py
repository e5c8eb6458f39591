"""Runs an untrusted program: new process, no network, no files but its own, and a deadline.

On Linux, if a user may create user namespaces, the sandbox provides:

- The program has its own root: the system's /usr, /bin, /lib and the Python installation, read-only; an empty /tmp
with a size limit, deleted afterwards; null, zero and urandom; no home, no /etc, no /proc or /dev of the host.
- It has its own network without any connection, no other processes to see or signal, and none of the caller's
environment, open files or keys.
- It runs as nobody, without capabilities, and cannot gain any or create namespaces.
- CPU time is limited for all its processes together; memory, file size and open files are limited per process, and so
is the number of processes and threads. At the deadline, or when the program ends, its PID namespace ends and with it
every process that it has started, whatever session or signal mask they have.
- The deadline is in CPU time, so the load of the machine changes no verdict; the wall clock ends sleeping programs.
- Output over the limit is not read.

If namespaces are not permitted (many containers) or do not exist (macOS), one line in the log says so. The program
then still has the limits (macOS: not memory), a cleaned environment, its own folder and the deadline. It may not start
processes or threads; it can read and write what its user can, signal what its user may (and so escape the deadline),
and use the network. As root on Linux it runs as nobody, if nobody can access the Python installation; if not, it has
all of root's rights.

What it does not protect against:

- It is not a virtual machine. The program uses the host's kernel, and a kernel bug is a way out. There is no seccomp
filter.
- Memory is limited per process, not for all of a program's processes together, and only where it is mapped: a program
may use `processes` times the limit and `STACKS`, and more in memory files (memfd) and, unless root runs the sandbox,
System V segments. If that matters, run the training in a control group.
- /proc/meminfo, /proc/cpuinfo and similar files describe the machine. So do timing and caches.
- Only the standard library and the packages of the base installation can be imported, not the virtual environment.
- There is no GPU.
"""

import contextlib
import functools
import logging
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from r1lab.errors import UserError
from r1lab.grading.clock import Watch, held, kills_for_memory, used

_LAUNCHER = Path(__file__).with_name("sandbox_launcher.py")
_GRACE = 10  # seconds for the launcher to end
_SETUP = 10  # CPU seconds for the launcher to start the program; it takes a tenth of a second
_EXCEPTION = re.compile(r"([A-Za-z_][\w.]{0,59})(?::|$)")
_log = logging.getLogger(__name__)
_lock = threading.Lock()

STACKS = 2**30
"""Bytes of address space in addition to `Limits.memory`. The usual thread for deep recursion reserves 512 MiB for its
stack and uses little of it."""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: CPU time of all its processes together, including Python's own start (about 0.03). Outside Linux:
            wall-clock time, and one second more.
        cap: Wall-clock seconds after which a sleeping program is ended too. A program that is ready to run is only
            waiting for a core.
        memory: Bytes that each process may use. It may map `STACKS` more, for stacks that it does not fill.
        processes: The number of processes and threads at a time.
        disk: Bytes in the work folder, and in any one file.
        output: Bytes of standard output.
    """

    seconds: float = 10.0
    cap: float = 30.0
    memory: int = 512 * 2**20
    processes: int = 32
    disk: int = 32 * 2**20
    output: int = 2**20


@dataclass(frozen=True)
class Result:
    """How a program ended.

    Attributes:
        status: `ok` (exit status 0), `timeout`, `memory`, `output_limit`, `error: NAME` (the exception, the signal or
            the exit status), or `unavailable: WHY` if the sandbox itself failed, or the machine had no memory.
        stdout: Its output, as UTF-8, up to the limit; bytes that are not UTF-8 become U+FFFD.
    """

    status: str
    stdout: str = ""


DEFAULT = Limits()


def run(program: str, stdin: str = "", limits: Limits = DEFAULT) -> Result:
    """Runs a Python program in a process of its own on this machine.

    >>> run("print(int(input()) + 1)", "41")
    Result(status='ok', stdout='42\\n')
    >>> run("1 / 0").status
    'error: ZeroDivisionError'
    """
    with _lock:  # so that threads do not check, and warn, at the same time
        isolated = _namespaces()
    if isolated:
        return _launch(program, stdin, limits)
    work = os.path.realpath(tempfile.mkdtemp(prefix="r1lab-"))
    try:
        return _launch(program, stdin, limits, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def e2b(program: str, stdin: str = "", limits: Limits = DEFAULT) -> Result:
    """Runs a Python program in a new E2B sandbox (e2b.dev), with E2B's own limits except for the time.

    Raises:
        UserError: The package is not installed.
    """
    try:
        from e2b_code_interpreter import (  # pyright: ignore[reportMissingImports]  # optional
            CommandExitException,
            Sandbox,
            TimeoutException,
        )
    except ImportError as error:
        raise UserError(
            "sandbox: e2b: needs its package: pip install e2b-code-interpreter, and set E2B_API_KEY"
        ) from error
    with Sandbox.create(allow_internet_access=False) as box:
        box.files.write("/tmp/main.py", program)
        box.files.write("/tmp/stdin", stdin)
        try:
            done = box.commands.run("python3 -I -X utf8 /tmp/main.py </tmp/stdin", timeout=limits.seconds)
        except TimeoutException:
            return Result("timeout")
        except CommandExitException as error:
            done = error
    printed = done.stdout.encode("utf-8", "replace")
    status = "output_limit" if len(printed) > limits.output else _status(done.exit_code, done.stderr)
    return Result(status, printed[: limits.output].decode("utf-8", "replace"))


@functools.cache
def _namespaces() -> bool:
    """Whether this machine provides namespaces; if not, logs once what is not enforced without them."""
    problem = _launch("", "", DEFAULT).status if sys.platform == "linux" else f"none on {sys.platform}"
    if problem == "ok":
        return True
    _log.warning(
        "code runs without namespaces (%s): the network, other files and processes are NOT isolated; "
        "it may not start processes or threads%s",
        problem.removeprefix("unavailable: "),
        ", but it runs as root, to which that does not apply" if os.geteuid() == 0 else "",
    )
    return False


def _launch(program: str, stdin: str, limits: Limits, work: str = "") -> Result:
    """Starts sandbox_launcher.py, waits for its report, and reads the program's output."""
    python = os.path.realpath(sys._base_executable)  # pyright: ignore[reportAttributeAccessIssue]  # CPython has it
    processes = 0 if work else limits.processes
    with contextlib.ExitStack() as files:
        source, standard_in, out, err = (files.enter_context(tempfile.TemporaryFile()) for _ in range(4))
        for file, text in (source, program), (standard_in, stdin):
            file.write(text.encode("utf-8", "replace"))
            file.seek(0)
        report, reports = os.pipe()
        out_of_memory = kills_for_memory()
        files.callback(os.close, report)
        numbers = (limits.seconds, limits.memory + STACKS, processes, limits.disk)
        launched = (reports, source.fileno(), python, os.path.realpath(sys.base_prefix), work, *numbers)
        try:
            launcher = subprocess.Popen(
                [python, "-I", "-S", _LAUNCHER, *map(str, launched)],
                stdin=standard_in,
                stdout=out,
                stderr=err,
                pass_fds=(reports, source.fileno()),
                start_new_session=True,
                env={},
                cwd="/",
            )
        finally:
            os.close(reports)
        started, ended = _report(launcher, report, limits)
        out.seek(0)
        err.seek(max(0, err.seek(0, os.SEEK_END) - limits.output))
        printed = out.read(limits.output + 1)
        complaint = err.read().decode("utf-8", "replace")
    what, _, detail = ended.partition(" ")
    if what == "exit":
        code, seconds, held = detail.split()
        status = _status(os.waitstatus_to_exitcode(int(code)), complaint)
        if int(held) > limits.memory:  # checked first: where memory is slow, allocating it uses up the time too
            status = "memory"
        elif float(seconds) > limits.seconds:
            status = "timeout"
    elif what in ("timeout", "memory"):
        status = what
    elif started and not detail:
        status = "error: SIGKILL"  # the launcher ended: without namespaces a program may have caused it
    else:
        status = f"unavailable: {detail or 'the launcher was killed'}"
    if status == "error: SIGKILL" and kills_for_memory() != out_of_memory:
        status = "unavailable: this machine has no memory left, and the kernel killed the program"
    if len(printed) > limits.output and not status.startswith("unavailable"):
        status = "output_limit"
    return Result(status, printed[: limits.output].decode("utf-8", "replace"))


def _report(launcher: subprocess.Popen, report: int, limits: Limits) -> tuple[bool, str]:
    """Whether the program was started, and how it ended according to the launcher, or `timeout` or `memory`.

    Afterwards none of its processes is left.
    """
    poll = select.poll()
    poll.register(report, select.POLLIN)
    started, watch = False, Watch(launcher.pid, _SETUP, max(_SETUP, limits.cap))
    try:
        while True:
            if poll.poll(max(0.0, watch.next - time.monotonic()) * 1000):
                outcome = os.read(report, 4096).decode("utf-8", "replace")
                if outcome.startswith("start "):
                    # The launcher reports the time of a program that ends. This check is for one that does not end by
                    # itself, so it leaves the kernel's own limit (`set_limits`) enough time to end a program and free
                    # its memory.
                    before = used(launcher.pid).seconds
                    started, watch = True, Watch(launcher.pid, limits.seconds + 2, limits.cap, before)
                    outcome = outcome.removeprefix("start ")
                    if not outcome:
                        continue
                with contextlib.suppress(subprocess.TimeoutExpired):
                    launcher.wait(timeout=_GRACE)
                return started, outcome
            if watch.over() and not poll.poll(0):  # unless it has just ended by itself
                if not started:
                    return started, "setup no answer"
                return started, "memory" if held(launcher.pid) > limits.memory else "timeout"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def _status(code: int, stderr: str) -> str:
    """The status for an exit code (negative: a signal) and the text on standard error."""
    if code == 0:
        return "ok"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return "timeout" if name == "SIGXCPU" else f"error: {name}"
    *before, last = stderr.strip().split("\n")
    if code == 1 and last == "MemoryError":  # there may be no memory for a traceback
        return "memory"
    raised = _EXCEPTION.match(last) if code == 1 and any('File "' in line for line in before) else None
    return f"error: {raised[1]}" if raised else f"error: exit status {code}"
