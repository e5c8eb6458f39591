"""Servers start, say why they do not, and never outlive the process that started them."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from r1lab.engines import processes, temporary
from r1lab.errors import UserError
from r1lab.models import loading

pytest.importorskip("vllm")

PARENT = """
import sys, time
from pathlib import Path
from r1lab.engines import processes
started = processes.start(sys.argv[1], Path(sys.argv[2]), dtype="float32", options={"enforce_eager": True})
print(started[0].process.pid, flush=True)
processes.wait(started)
print(started[0].url, flush=True)
time.sleep(3600)
"""


def alive(found: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in found if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def wait_until_gone(found: list[psutil.Process]) -> None:
    deadline = time.monotonic() + 60
    while left := alive(found):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_model_that_vllm_cannot_load_is_one_line_with_the_log(tmp_path):
    started = processes.start(str(tmp_path / "none"), tmp_path, 2)
    with pytest.raises(UserError, match=rf"^{tmp_path}/servers/[01].log: the server ended: .*none") as raised:
        processes.wait(started)
    assert len(raised.value.problems) == 1 and "\n" not in raised.value.problems[0]
    assert all(server.process.poll() is not None for server in started)


def test_a_server_that_is_late_is_one_line_and_ended(tmp_path):
    started = processes.start("embedded", tmp_path)
    found = [psutil.Process(started[0].process.pid)]
    with pytest.raises(UserError, match=r"servers/0.log: the server does not answer after 1 s; last line"):
        processes.wait(started, limit=1)
    wait_until_gone(found)


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (signal.SIGKILL, "the server was killed by SIGKILL, possibly out of memory"),
        (signal.SIGSTOP, r"the server has done nothing for 3 s \(see launch.timeout\)"),
    ],
)
def test_a_server_that_is_killed_or_stopped_while_it_starts_is_one_line_and_ended(number, problem, tmp_path):
    started = processes.start("embedded", tmp_path, 2)
    guards = [psutil.Process(server.process.pid) for server in started]
    deadline = time.monotonic() + 60
    while not all(guard.children() for guard in guards):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    found = [*guards, *guards[1].children()]
    found[-1].send_signal(number)
    other = psutil.Process(guards[0].children()[0].pid)
    if number == signal.SIGSTOP:
        other.send_signal(number)
    with pytest.raises(UserError, match=rf"^{tmp_path}/servers/[01].log: {problem}; last line .*: see the log, then"):
        processes.wait(started, 3)
    wait_until_gone([*found, other])


def semaphores(found: list[psutil.Process]) -> set[str]:
    """The names in /dev/shm of the semaphores that processes use."""
    lines = [line.split() for one in found for line in open(f"/proc/{one.pid}/maps") if "/dev/shm/sem." in line]
    used = {int(line[4]) for line in lines}  # inodes: the maps have the names before they were renamed
    return {entry.path for entry in os.scandir("/dev/shm") if entry.inode() in used}


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["parent", "server"])
def test_nothing_is_left_when_the_parent_or_the_server_is_killed(killed, tmp_path, monkeypatch):
    """vLLM's engine would go on without its API server, and Python would leave its semaphores."""
    folder = tempfile.TemporaryDirectory(dir="/tmp")  # that of pytest is too long for the path of a socket
    monkeypatch.setattr(tempfile, "tempdir", folder.name)
    command = [sys.executable, "-c", PARENT, loading.resolve("embedded:tiny-qwen2"), str(tmp_path)]
    environment = os.environ | {"TMPDIR": folder.name, "PYTHONPATH": os.getcwd()}
    with folder, subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        try:
            assert parent.stdout is not None
            guard = psutil.Process(int(parent.stdout.readline()))
            assert parent.stdout.readline().startswith("http://127.0.0.1:")
            found = [guard, *guard.children(recursive=True)]
            assert len(found) >= 4  # the guard, the API server, the tracker of its semaphores and the engine
            used = semaphores(found)
            (files,) = Path(folder.name).glob("r1lab-vllm-*")
            assert used and list(files.iterdir())
            temporary.remove_left("r1lab-vllm-", Path(folder.name))  # another run starts a server
            assert files.is_dir()
            os.kill(parent.pid if killed == "parent" else guard.children()[0].pid, signal.SIGKILL)
            wait_until_gone(found)
            assert not [path for path in used if os.path.exists(path)]
            assert "resource_tracker" not in (tmp_path / "servers/0.log").read_text()
            if killed == "parent":
                processes.stop(processes.start("none", tmp_path))
                assert not files.exists()
        finally:
            parent.kill()


def test_the_files_of_a_server_are_removed_when_it_is_stopped(tmp_path):
    (server,) = processes.start(str(tmp_path / "none"), tmp_path)
    assert server.held.path.is_dir()
    processes.stop([server])
    assert not server.held.path.exists()
