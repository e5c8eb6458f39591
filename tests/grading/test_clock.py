"""The CPU time of processes, and when they have had their time."""

import subprocess
import sys
import time

import pytest

from r1lab.grading.clock import Watch, used

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def start():
    """Starts Python programs, and ends them."""
    started = []

    def program(text):
        started.append(subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE))
        started[-1].stdout.readline()
        return started[-1].pid

    yield program
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


# Ends with the tests, also when they are killed.
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


def until(happens):
    """Waits for half a minute at most."""
    end = time.monotonic() + 30
    while not happens() and time.monotonic() < end:
        time.sleep(0.02)
    return happens()


def test_children_and_threads_count(start):
    child = start(f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {SPIN!r}]); print(); p.wait()")
    before = used(child).seconds
    assert until(lambda: used(child).seconds > before + 0.3) and used(child).running == 1
    thread = start(f"import threading; threading.Thread(target=lambda: exec({SPIN!r})).start(); print(flush=True)")
    assert until(lambda: used(thread).running == 1) and until(lambda: used(thread).seconds > 0.3)


def test_a_process_that_is_gone_uses_nothing():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert used(process.pid) == (0.0, 0)


@pytest.mark.parametrize("nap", [1000, 0.002])
def test_what_sleeps_is_over_at_the_cap_however_often_it_wakes(start, nap):
    watch = Watch(start(f"import time; print(flush=True)\nwhile True: time.sleep({nap})"), seconds=1000, cap=1.0)
    assert until(watch.over)
    assert watch.slept >= 1.0


def test_what_works_is_over_by_its_cpu_time_alone(start):
    pid = start(f"print(flush=True)\n{SPIN}")
    before = used(pid).seconds
    watch = Watch(pid, seconds=0.5, cap=0.2, before=before)
    assert until(watch.over)
    assert used(pid).seconds - before >= 0.5 and watch.slept == 0
