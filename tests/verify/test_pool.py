"""The pool of grading workers: order, deadlines, crashes, memory, threads, forks, and nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from r1lab.verify import pool
from r1lab.verify.pool import Pool


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Builds pools for functions of a module that is written here; closes them."""
    pools = []

    def build(body, **settings):
        name = f"task_{len(pools)}_{os.getpid()}"
        (tmp_path / f"{name}.py").write_text(f"import os, time, signal\n{body}\n")
        monkeypatch.syspath_prepend(tmp_path)
        pools.append(Pool(f"{name}:task", **settings))
        return pools[-1]

    yield build
    for made in pools:
        made.close()


def children(pid):
    """The live descendants of a process."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True).stdout.split("\n")
    rows = [line.split() for line in found if line.split() and not line.split()[2].startswith("Z")]
    below, grown = {pid}, True
    while grown:
        more = {int(p) for p, parent, _ in rows if int(parent) in below}
        grown = not more <= below
        below |= more
    return below - {pid}


def gone(pids, seconds):
    """Whether all of these processes end within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        alive = [pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in stat(pid)]
        if not alive:
            return True
        time.sleep(0.05)
    return False


def stat(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_outcomes_come_in_order(make):
    squares = make("def task(x): return x * x", workers=2)
    assert [o.value for o in squares.map([(i,) for i in range(500)])] == [i * i for i in range(500)]
    assert squares.map([]) == []
    assert [o.value for o in squares.map([(7,)])] == [49]  # the same workers, again


def test_any_text_goes_and_comes_back(make):
    echo = make("def task(text): return text", workers=1)
    texts = ["", "\x00", "\ud800 alone", "é 汉 \u202e", "x" * 1_000_000, "\n\\{}"]
    assert [o.value for o in echo.map([(t,) for t in texts])] == texts


def test_what_hangs_is_a_timeout_and_keeps_nobody_waiting(make):
    naps = make("def task(seconds): time.sleep(seconds); return seconds", workers=2, deadline=2.0)
    items = [0.01] * 30 + [60] * 9 + [0.01] * 30
    started = time.monotonic()
    outcomes = naps.map([(s,) for s in items])
    assert time.monotonic() - started < 2.0 + 2.0 + 9 * pool.STUCK / 2
    assert [o.status for o in outcomes] == ["timeout" if s == 60 else "ok" for s in items]
    assert len(children(naps._server.pid)) <= 2


def test_a_held_interpreter_lock_is_a_timeout_too(make):
    powers = make("def task(n): return len(bin(9 ** (9 ** n)))", workers=1, deadline=1.0)
    statuses = [o.status for o in powers.map([(2,), (12,), (3,)])]
    assert statuses == ["ok", "timeout", "ok"]


def test_a_slow_item_is_set_aside_and_still_answers(make):
    naps = make("def task(seconds): time.sleep(seconds); return seconds", workers=1, deadline=5.0)
    started = time.monotonic()
    outcomes = naps.map([(1.5,)] * 3 + [(0.0,)])
    assert [o.status for o in outcomes] == ["ok"] * 4 and time.monotonic() - started < 3 * 1.5


def test_errors_crashes_and_memory_cost_their_row_alone(make):
    body = """
def task(kind):
    if kind == "raise": raise KeyError("no such key")
    if kind == "exit": os._exit(3)
    if kind == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if kind == "memory": return len(bytearray(4 << 30))
    if kind == "deep":
        def f(): return f()
        return f()
    return kind
"""
    kinds = ["fine", "raise", "exit", "fine", "kill", "memory", "deep", "fine"]
    outcomes = make(body, workers=2).map([(kind,) for kind in kinds])
    assert [o.status for o in outcomes] == ["ok", "error", "died", "ok", "died", "memory", "error", "ok"]
    assert outcomes[1].value == "KeyError: 'no such key'" and outcomes[6].value.startswith("RecursionError")


def test_a_worker_that_dies_by_chance_costs_nothing(make, tmp_path):
    body = f"""
def task(i):
    if i == 5 and not os.path.exists({str(tmp_path / "once")!r}):
        open({str(tmp_path / "once")!r}, "w").close()
        os._exit(1)
    return i
"""
    assert [o.value for o in make(body, workers=2).map([(i,) for i in range(20)])] == list(range(20))


def test_children_of_a_worker_die_with_it(make, tmp_path):
    body = f"""
def task(i):
    if i == 1:
        child = os.fork()
        if child == 0: time.sleep(600)
        open({str(tmp_path / "child")!r}, "w").write(str(child))
        time.sleep(600)
    return i
"""
    outcomes = make(body, workers=1, deadline=1.0).map([(0,), (1,), (2,)])
    assert [o.status for o in outcomes] == ["ok", "timeout", "ok"]
    assert gone([int((tmp_path / "child").read_text())], 2)


def test_it_works_from_threads_at_the_same_time(make):
    slow = make("def task(x): time.sleep(0.01); return -x", workers=2)
    results = {}
    threads = [
        threading.Thread(target=lambda k=k: results.update({k: slow.map([(k * 100 + i,) for i in range(20)])}))
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {k: [o.value for o in r] for k, r in results.items()} == {
        k: [-(k * 100 + i) for i in range(20)] for k in range(4)
    }


def test_a_killed_server_is_replaced(make):
    echo = make("def task(x): return x", workers=2)
    assert echo.map([(1,)])[0].value == 1
    workers = children(echo._server.pid)
    os.kill(echo._server.pid, signal.SIGKILL)
    assert gone(workers, 2)  # no worker outlives its server
    assert [o.value for o in echo.map([(i,) for i in range(50)])] == list(range(50))


def test_a_task_that_cannot_be_imported_says_so(make):
    with pytest.raises(RuntimeError, match="does not start"):
        make("raise ImportError('not here')").map([(1,)])


def test_a_forked_process_has_a_pool_of_its_own():
    assert pool.shared("r1lab.verify.pool:echo").map([(1,)])[0].value == [1]
    server = pool.shared("r1lab.verify.pool:echo")._server.pid
    pid = os.fork()
    if pid == 0:
        mine = pool.shared("r1lab.verify.pool:echo")
        same = mine.map([(2,)])[0].value == [2] and mine._server.pid != server
        mine.close()
        os._exit(0 if same else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert pool.shared("r1lab.verify.pool:echo").map([(3,)])[0].value == [3]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_parent_is_killed(tmp_path, how):
    script = tmp_path / "parent.py"
    script.write_text(
        "import signal, threading, time\nfrom r1lab.verify.pool import Pool\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "busy = Pool('time:sleep', workers=2, deadline=600)\n"
        "threading.Thread(target=busy.map, args=([(600,)] * 4,), daemon=True).start()\n"
        "time.sleep(1.0); print('up', flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert parent.stdout.readline() == "up\n"
    below = children(parent.pid)
    assert len(below) >= 3
    parent.send_signal(how)
    parent.wait(10)
    assert gone(below, 5)


def test_closing_ends_every_process(make):
    echo = make("def task(x): return x", workers=2)
    echo.map([(i,) for i in range(20)])
    below = children(echo._server.pid) | {echo._server.pid}
    echo.close()
    assert gone(below, 2)


def test_the_heartbeat_goes_on_beside_a_thread_that_grades(make):
    powers = make("def task(n): return len(bin(9 ** (9 ** n)))", workers=2, deadline=1.0)
    beats, done = [time.monotonic()], threading.Event()
    thread = threading.Thread(target=lambda: (powers.map([(12,)] * 4 + [(2,)] * 40), done.set()))
    thread.start()
    while not done.is_set():
        time.sleep(0.01)
        beats.append(time.monotonic())
    thread.join()
    assert max(b - a for a, b in zip(beats, beats[1:])) < 0.2
