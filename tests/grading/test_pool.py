"""The pool of grading workers: order, deadlines, crashes, memory, load, threads, forks, and nothing left behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from r1lab.errors import MachineError
from r1lab.grading import fork_server, pool
from r1lab.grading.pool import Pool
from tests.processes import children, gone


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


def test_outcomes_come_in_order(make):
    squares = make("def task(x): return x * x", workers=2)
    assert [o.value for o in squares.map([(i,) for i in range(500)])] == [i * i for i in range(500)]
    assert squares.map([]) == []
    assert [o.value for o in squares.map([(7,)])] == [49]  # the same workers, again


def test_any_text_goes_and_comes_back(make):
    echo = make("def task(text): return text", workers=1)
    texts = ["", "\x00", "\ud800 alone", "é 汉 \u202e", "x" * 1_000_000, "\n\\{}"]
    assert [o.value for o in echo.map([(t,) for t in texts])] == texts


SPIN = """
def spin(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until: pass
"""


def test_what_hangs_is_a_timeout_keeps_nobody_waiting_and_never_needs_more_workers(make, tmp_path, capfd, monkeypatch):
    """Ordinary items are graded before those that hang are tried again, and a killed worker makes no noise."""
    log = tmp_path / "log"
    body = f"""{SPIN}
def task(i):
    with open({str(log)!r}, "a") as file: file.write(f"{{i}}\\n")
    spin(100 if 30 <= i < 36 else 0.01)
    return i
"""
    monkeypatch.setattr(pool, "FIRST", 0.2)
    spins = make(body, workers=2, deadline=0.4)
    spins.map([(0,)])
    most, done = 0, threading.Event()

    def count():
        nonlocal most
        while not done.is_set():
            most = max(most, len(children(spins._server.pid)))
            time.sleep(0.05)

    counter = threading.Thread(target=count)
    counter.start()
    outcomes = spins.map([(i,) for i in range(66)])
    done.set()
    counter.join()
    assert [o.status for o in outcomes] == ["timeout" if 30 <= i < 36 else "ok" for i in range(66)]
    assert most <= 2
    begun = list(map(int, log.read_text().split()))[1:]
    assert sorted(begun[-6:]) == [30, 31, 32, 33, 34, 35]  # once more, when all others are graded
    assert "Traceback" not in capfd.readouterr().err


def test_what_sleeps_is_a_timeout_at_the_cap(make):
    naps = make("def task(seconds): time.sleep(seconds); return seconds", workers=2, cap=0.4)
    assert [o.status for o in naps.map([(0.01,), (600,), (0.01,)])] == ["ok", "timeout", "ok"]


def test_a_busy_machine_changes_no_verdict(make, monkeypatch):
    """Each item takes several times its deadline by the wall clock."""
    core = fork_server.CORES[:1]
    monkeypatch.setattr(fork_server, "CORES", core)  # the workers and the loops share one
    spins = make(f"{SPIN}\ndef task(seconds): spin(seconds); return seconds", workers=2, deadline=0.2, cap=0.5)
    busy = f"import os\nos.sched_setaffinity(0, {core})\nwhile os.getppid() == {os.getpid()}: pass"
    loops = [
        subprocess.Popen([sys.executable, "-c", busy]) for _ in range(3)
    ]  # they end with the tests, even if killed
    try:
        outcomes = spins.map([(0.15,)] * 4 + [(100,)])
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    assert [o.status for o in outcomes] == ["ok"] * 4 + ["timeout"]


def test_the_time_of_children_counts_and_an_answer_that_comes_too_late_is_none(make):
    body = f"""{SPIN}
def task(kind):
    if kind == "fine": return kind
    child = os.fork()
    if child == 0:
        spin(0.5 if kind == "ends" else 100)
        os._exit(0)
    os.waitpid(child, 0)
    return kind
"""
    outcomes = make(body, workers=1, deadline=0.3, cap=100).map([("fine",), ("ends",), ("goes on",), ("fine",)])
    assert [o.status for o in outcomes] == ["ok", "timeout", "timeout", "ok"]


def test_a_second_try_is_alone(make, tmp_path):
    """An item that cannot stand company is right all the same."""
    log = tmp_path / "log"
    body = f"""
def task(i):
    with open({str(log)!r}, "a") as file: file.write("+")
    time.sleep(0.05)
    company = open({str(log)!r}).read()
    with open({str(log)!r}, "a") as file: file.write("-")
    if i % 4 == 0 and company.count("+") - company.count("-") > 1: os._exit(1)
    return i
"""
    assert [o.value for o in make(body, workers=4).map([(i,) for i in range(12)])] == list(range(12))


def test_a_server_that_answers_late_costs_the_parent_nothing(make):
    """The training itself was once given the lowest priority, in place of a worker that was not there yet."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    echo = make("def task(x): return x", workers=2)
    echo.map([(1,)])
    os.kill(echo._server.pid, signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (echo._server.pid, signal.SIGCONT)).start()
    assert [o.value for o in echo.map([(i,) for i in range(20)])] == list(range(20))
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_what_a_module_warms_up_is_there_in_each_worker(make):
    body = "found = []\ndef warm(): found.append(os.getpid())\ndef task(): return found"
    made = make(body, workers=2)
    values = [o.value for o in made.map([()] * 4)]
    assert values == [[made._server.pid]] * 4


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def task(x): os.kill(os.getpid(), signal.SIGKILL)", "a worker was killed, as the kernel does"),
        ("def task(x): raise OSError(12, os.strerror(12))", "OSError: .Errno 12. Cannot allocate memory"),
        (
            "def fork(): raise OSError(11, os.strerror(11))\nos.fork = fork\ndef task(x): return x",
            "no worker can be started: Resource temporarily unavailable",
        ),
        (
            "import resource\ndef warm(): resource.setrlimit(resource.RLIMIT_AS, (400 << 20,) * 2)\n"
            "def task(x): return len(bytearray(400 << 20))",
            "there is no memory left",
        ),
    ],
)
def test_what_fails_for_the_machines_sake_raises(make, body, said):
    with pytest.raises(MachineError, match=said):
        make(body, workers=2).map([(i,) for i in range(20)])


def test_workers_that_are_killed_at_their_start_are_not_started_over_and_over(make, tmp_path):
    log = tmp_path / "log"
    body = f"""
def end():
    with open({str(log)!r}, "a") as file: file.write("+")
    os.kill(os.getpid(), signal.SIGKILL)
os.register_at_fork(after_in_child=end)
def task(x): return x
"""
    with pytest.raises(MachineError, match="3 workers in a row ended before they were ready"):
        make(body, workers=2).map([(i,) for i in range(50)])
    assert len(log.read_text()) <= 4


def test_an_interrupt_leaves_a_pool_that_works(make):
    class Interrupt(BaseException):
        pass

    def ring(*_):
        raise Interrupt

    naps = make("def task(seconds): time.sleep(seconds); return seconds", workers=2)
    naps.map([(0,)])
    before = signal.signal(signal.SIGALRM, ring)
    try:
        for seconds in (0.001, 0.003, 0.01, 0.03, 0.1):
            signal.setitimer(signal.ITIMER_REAL, seconds)
            with pytest.raises(Interrupt):
                naps.map([(1,)] * 8)
            assert [o.value for o in naps.map([(0.001 * i,) for i in range(4)])] == [0.001 * i for i in range(4)]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_held_interpreter_lock_is_a_timeout_too(make):
    powers = make("def task(n): return len(bin(9 ** (9 ** n)))", workers=1, deadline=1.0)
    statuses = [o.status for o in powers.map([(2,), (12,), (3,)])]
    assert statuses == ["ok", "timeout", "ok"]


def test_errors_crashes_and_memory_cost_their_row_alone(make):
    body = """
def task(kind):
    if kind == "raise": raise KeyError("no such key")
    if kind == "exit": os._exit(3)
    if kind == "crash": os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "memory": return len(bytearray(4 << 30))
    if kind == "deep":
        def f(): return f()
        return f()
    return kind
"""
    kinds = ["fine", "raise", "exit", "fine", "crash", "memory", "deep", "fine"]
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
    outcomes = make(body, workers=1, cap=0.5).map([(0,), (1,), (2,)])
    assert [o.status for o in outcomes] == ["ok", "timeout", "ok"]
    assert gone([int((tmp_path / "child").read_text())], 2)


def test_processes_in_sessions_of_their_own_end_with_the_worker_that_started_them(make, tmp_path):
    body = f"""
def task(i):
    for orphan in (False, True) if i == 1 else ():
        if os.fork() == 0:
            os.setsid()
            if orphan and os.fork(): os._exit(0)
            open(os.path.join({str(tmp_path / "pids")!r}, str(os.getpid())), "w").close()
            time.sleep(600)
    if i == 1:
        while len(os.listdir({str(tmp_path / "pids")!r})) < 2: time.sleep(0.01)
        os._exit(1)
    return i
"""
    (tmp_path / "pids").mkdir()
    made = make(body, workers=1)
    assert [o.status for o in made.map([(0,), (1,), (2,)])] == ["ok", "died", "ok"]
    assert gone([int(path.name) for path in (tmp_path / "pids").iterdir()], 2)


def test_a_forked_child_that_goes_on_answers_nothing(make):
    body = "def task(i): os.fork(); return i"
    assert [o.value for o in make(body, workers=1).map([(i,) for i in range(20)])] == list(range(20))


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
    with pytest.raises(MachineError, match="does not start"):
        make("raise ImportError('not here')").map([(1,)])


def test_a_forked_process_has_a_pool_of_its_own():
    assert pool.shared("r1lab.grading.pool:echo").map([(1,)])[0].value == [1]
    server = pool.shared("r1lab.grading.pool:echo")._server.pid
    pid = os.fork()
    if pid == 0:
        mine = pool.shared("r1lab.grading.pool:echo")
        same = mine.map([(2,)])[0].value == [2] and mine._server.pid != server
        mine.close()
        os._exit(0 if same else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert pool.shared("r1lab.grading.pool:echo").map([(3,)])[0].value == [3]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_parent_is_killed(tmp_path, how):
    script = tmp_path / "parent.py"
    script.write_text(
        "import signal, threading, time\nfrom r1lab.grading.pool import Pool\n"
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
    powers = make("def task(n): return len(bin(9 ** (9 ** n)))", workers=2, deadline=0.3)
    beats, done = [time.monotonic()], threading.Event()
    thread = threading.Thread(target=lambda: (powers.map([(12,)] * 4 + [(2,)] * 40), done.set()))
    thread.start()
    while not done.is_set():
        time.sleep(0.01)
        beats.append(time.monotonic())
    thread.join()
    assert len(beats) > 20  # a grader that held the interpreter lock would let none through
