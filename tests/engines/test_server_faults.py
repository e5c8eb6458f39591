"""Faults of a real server in each phase of a rollout: each is one reason within the time limit, and the server or its
successor is used again after it. tests/run/test_faults.py has those of whole stages."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import psutil
import pytest

from benchmarks import held
from r1lab.engines import processes, sync
from r1lab.engines.fleet import Fleet, NoServer
from r1lab.models import loading
from tests.engines.conftest import PROMPTS
from tests.engines.test_fleet import LONG, SHORT, wait_for
from tests.engines.test_sync import gap, moved

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow
SECONDS = 10.0


@pytest.fixture(scope="module")
def policy():
    return loading.load_model("embedded:tiny-qwen2", dtype="float32").eval()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with the worker extension `Held`."""
    folder = tmp_path_factory.mktemp("held")
    options = {"enforce_eager": True, "max_num_seqs": 8, "worker_extension_cls": held.EXTENSION}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(held.FOLDER, str(folder))
        path = loading.resolve("embedded:tiny-qwen2")
        started = processes.start(path, folder, dtype="float32", max_model_length=512, options=options)
    processes.wait(started)
    yield started[0]
    processes.stop(started)


@pytest.fixture
def sender(server, tmp_path):
    made = sync.WeightSync([server.url], folder=tmp_path, timeout=300)
    yield made
    made.close()
    assert list(tmp_path.iterdir()) == []


def process_of(server) -> psutil.Process:
    """The API server, without its guard; the engine is a child of it."""
    (found,) = psutil.Process(server.process.pid).children()
    return found


def in_phase(phase: str, server, number: signal.Signals) -> threading.Thread:
    """Sends a signal to the server when it reaches a phase of the next load."""
    folder = server.log.parent.parent
    (folder / f"{phase}-waits").touch()

    def watch() -> None:
        wait_for((folder / f"{phase}-reached").is_file, 300)
        process_of(server).send_signal(number)
        (folder / f"{phase}-waits").unlink()
        (folder / f"{phase}-reached").unlink()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@contextmanager
def stopped_in(phase: str, server, monkeypatch):
    """The server is stopped in a phase of the sync in this context, and continues after it."""
    if phase == "exporting":
        write = sync.write

        def stop_and_write(folder, weights):
            process_of(server).send_signal(signal.SIGSTOP)
            return write(folder, weights)

        monkeypatch.setattr(sync, "write", stop_and_write)
        yield
        monkeypatch.undo()
    else:
        thread = in_phase(phase, server, signal.SIGSTOP)
        yield
        thread.join()
    process_of(server).send_signal(signal.SIGCONT)


def test_an_error_in_the_worker_extension_does_not_end_the_server(server, sender, policy):
    folder = server.log.parent.parent
    for version, phase in enumerate(("loading", "half", "verifying"), start=1):
        assert sender.send(10 * version, policy.named_parameters()).failed == {}
        (folder / f"{phase}-raises").touch()
        failed = sender.send(10 * version + 1, moved(policy, version).named_parameters()).failed
        assert failed == {server.url: f"worker 0: RuntimeError: no memory left while {phase}"}
        (folder / f"{phase}-raises").unlink()
        after = moved(policy, 10 + version)
        assert sender.send(10 * version + 2, after.named_parameters()).failed == {}
        assert gap(after, server.url, 10 * version + 2) <= 1e-4


@pytest.mark.parametrize("phase", ["exporting", "loading", "verifying"])
def test_a_server_that_is_stopped_during_a_sync_is_noticed_in_time(phase, server, sender, policy, monkeypatch):
    before = moved(policy, 1)
    sender._client.timeout = SECONDS
    with stopped_in(phase, server, monkeypatch):
        failed = sender.send(1, before.named_parameters()).failed
        assert failed == {server.url: "ReadTimeout: timed out"}
        assert list(sender.folder.iterdir()) == []
    sender._client.timeout = 300
    assert sender.send(2, policy.named_parameters()).failed == {}
    assert gap(policy, server.url, 2) <= 1e-4


def test_a_server_that_is_stopped_with_requests_in_flight_is_not_waited_for_twice(server, sender, policy):
    fleet = Fleet([server.url], timeout=300)
    prompt = loading.load_tokenizer("embedded:tiny-qwen2")(PROMPTS[0], add_special_tokens=False)["input_ids"]
    try:
        fleet.synced(1, sender.send(1, policy.named_parameters()).failed)
        future = fleet.submit(prompt, 4, LONG)
        wait_for(lambda: len(fleet._lines[0].tasks) > 0)
        fleet.timeout = SECONDS
        process_of(server).send_signal(signal.SIGSTOP)
        with fleet.paused():
            why = {server.url: f"no complete response in {SECONDS:g} s"}
            assert fleet.failures == why
            absent = fleet.absent()
            assert absent == why
            failed = sender.send(2, policy.named_parameters(), absent=absent).failed
            assert failed == why
            fleet.synced(2, failed)
        with pytest.raises(NoServer, match=f"^no server is left: {server.url}: no complete response in 10 s: look"):
            future.result(60)
        process_of(server).send_signal(signal.SIGCONT)
        fleet.timeout = 300
        wait_for(lambda: fleet.absent() == {}, 300)
        with fleet.paused():  # the server has executed the request to pause late
            fleet.synced(3, sender.send(3, policy.named_parameters()).failed)
        ((one,),) = fleet.complete([(prompt, 1)], SHORT)
        assert set(one.versions) == {3}
    finally:
        process_of(server).send_signal(signal.SIGCONT)
        fleet.close()


def test_a_server_that_is_killed_during_a_sync_is_one_line_with_its_own_log(server, sender, policy):
    """The last test of this server."""
    guard = psutil.Process(server.process.pid)
    found = [guard, *guard.children(recursive=True)]
    assert len(found) >= 3  # the guard, the API server and the engine
    thread = in_phase("loading", server, signal.SIGKILL)
    began = time.monotonic()
    (problem,) = sender.send(1, policy.named_parameters()).failed.values()
    thread.join()
    assert "Error" in problem and time.monotonic() - began < 300
    line = processes.described(server, problem)
    killed = "the server was killed by SIGKILL, possibly out of memory; last line of the log: "
    assert line.startswith(f"{server.log}: {killed}") and "\n" not in line
    psutil.wait_procs(found, timeout=60)
    assert not any(process.is_running() and process.status() != "zombie" for process in found)
    assert os.listdir(sender.folder) == []
