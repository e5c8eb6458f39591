"""Environments in worker processes: a fault costs its own episode, other episodes go on, and no process is left."""

import os
import re
import resource
import signal
import subprocess
import sys
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.environments import processes
from r1lab.environments.base import Call, Turn
from r1lab.environments.host import LocalHost
from r1lab.environments.processes import ProcessHost
from r1lab.environments.worker import LONGEST
from r1lab.errors import MachineError, UserError
from tests.environments.hosted import make
from tests.processes import children, gone

MAKE = "tests.environments.hosted:make"


def spec(name: str = "Numbers") -> dict:
    return {"environment": {"name": name}, "tools": []}


def hosting(**given) -> ProcessHost:
    return ProcessHost(
        MAKE, spec(), **{"timeout": 0.5, "reset_timeout": 5.0, "workers": 1, "memory": 300 << 20} | given
    )


@pytest.fixture(scope="module")
def one():
    """A host with one worker, so that all episodes share it."""
    host = hosting()
    yield host
    host.close()


@pytest.fixture(scope="module")
def two():
    """A host with two workers."""
    host = hosting(workers=2)
    yield host
    host.close()


def asked(host, request, *given):
    """The event of one request."""
    request(*given)
    (event,) = host.events(wait=True)
    return event


def played(host, scripts: dict[int, list[str]], rows: dict[int, dict] | None = None) -> dict[int, list]:
    """What became of episodes with these turns, each with its events without their times."""
    left = {key: deque(texts) for key, texts in scripts.items()}
    found = {key: [] for key in scripts}
    for key in scripts:
        host.reset(key, (rows or {}).get(key, {"answer": 1}), seed=key % 3)
    open_ = len(scripts)
    while open_:
        for event in host.events(wait=True):
            event.seconds = 0.0
            found[event.key].append(event)
            if event.kind == "end" or event.during == "end":
                open_ -= 1
            elif event.kind == "failed" or not left[event.key]:
                host.end(event.key)
            else:
                host.step(event.key, Turn(left[event.key].popleft()))
    return found


def expected(scripts: dict[int, list[str]]) -> dict[int, list]:
    """The same in this process."""
    return played(LocalHost(lambda: make(spec())), scripts)


def test_it_says_what_an_environment_says_in_this_process(two):
    scripts = {key: ["a" * n for n in range(key % 5)] for key in range(40)}
    assert played(two, scripts) == expected(scripts)


def test_an_episode_stays_in_one_worker_and_there_are_no_more_than_asked_for(two):
    found = played(two, {key: ["pid"] * 3 for key in range(12)})
    pids = [{event.replies[0].content for event in events if event.kind == "step"} for events in found.values()]
    assert all(len(own) == 1 for own in pids) and len(set.union(*pids)) == 2
    assert len(children(two.server.pid)) == 2


FAULTS = {
    "raise": "KeyError: 'no such key' .*hosted.py",
    "mute": r"Mute:  \(.*hosted.py",
    "exit": "its process ended during step",
    "sys_exit": "SystemExit: 3",
    "interrupt": "KeyboardInterrupt",
    "segv": "its process ended during step",
    "kill": "its process was killed, or closed its connection, during step",
    "spin": "step exceeded its deadline of 0.5 s of CPU time",
    "lock": "step exceeded its deadline",
    "memory": "MemoryError|300 MiB",
    "close_all": "its process was killed, or closed its connection, during step",
    "many": "5000 replies to a turn; at most 1000 are read",
    "role": "the role of a reply is tool or user, and not 'system'",
    "no_process": "Resource temporarily unavailable",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_its_own_episode(one, fault):
    """The neighbor in the same worker goes on as if nothing had happened."""
    before = expected({1: ["a", "bb", "ccc"]})[1]
    assert asked(one, one.reset, 1, {"answer": 1}, 1).text == before[0].text
    assert asked(one, one.reset, 2, {"answer": 1}, 2).kind == "reset"
    assert asked(one, one.step, 1, Turn("a")).replies == before[1].replies
    event = asked(one, one.step, 2, Turn(fault))
    assert event.kind == "failed" and event.during == "step"
    assert event.timeout == (fault in ("spin", "lock"))
    assert re.search(FAULTS[fault], event.text), event.text
    assert asked(one, one.step, 1, Turn("bb")).replies == before[2].replies
    end = asked(one, one.end, 2)
    assert (end.kind, end.reward) == ("end", None)
    assert asked(one, one.step, 1, Turn("ccc")).replies == before[3].replies
    assert asked(one, one.end, 1).reward == before[4].reward


REPLIES = {
    "print": "printed",
    "close_streams": "closed",
    "print_again": "printed",
    "bytes": "\ufffd bytes",
    "object": "<class 'object'>",
    "surrogate": "? alone",
    "fork": "parent",
}


def test_what_an_environment_does_to_its_streams_or_returns_is_no_fault(one, capfd):
    found = played(one, {key: [text, "a"] for key, text in enumerate(REPLIES)})
    assert [events[1].replies[0].content for events in found.values()] == list(REPLIES.values())
    assert all(events[2].kind == "step" and events[3].kind == "end" for events in found.values())
    assert capfd.readouterr() == ("", "")


def test_a_turn_without_a_reply_is_the_last_one(one):
    assert played(one, {0: ["none"]})[0][1].replies == []


def test_a_long_reply_is_shortened_and_says_so(one):
    (reply,) = played(one, {0: ["huge"]})[0][1].replies
    assert len(reply.content) < LONGEST + 100 and reply.content.endswith("z")
    assert f"[{(3 << 20) + 1 - LONGEST} characters left out]" in reply.content


def test_what_cannot_be_written_as_json_is_a_text_in_the_record(one):
    end = played(one, {0: ["info"]})[0][-1]
    assert end.reward == 0.0 and end.info["object"].startswith("<object") and len(end.info) == 1


@pytest.mark.parametrize(
    ("fault", "told"), [("raise", "KeyError"), ("spin", "reset exceeded"), ("exit", "during reset")]
)
def test_a_fault_at_the_start(one, fault, told):
    host = one
    host.limits["reset"] = 0.5
    try:
        found = played(host, {0: ["a"], 1: ["a"]}, {0: {"fault": fault}})
    finally:
        host.limits["reset"] = 5.0
    assert [event.kind for event in found[0]] == ["failed", "end"] and found[0][0].during == "reset"
    assert told in found[0][0].text and found[0][0].timeout == (fault == "spin")
    assert found[1] == expected({1: ["a"]})[1]


def test_a_reward_that_is_none_fails_the_episode_at_its_end(one):
    one.spec = spec("Wordless")
    try:
        event = played(one, {0: ["a"]})[0][-1]
    finally:
        one.spec = spec()
    assert (event.kind, event.during) == ("failed", "end") and "TypeError" in event.text


def test_an_episode_without_a_seed_fails_when_its_worker_is_lost(one):
    one.spec = spec("Unseeded")
    try:
        assert asked(one, one.reset, 0, {}, 1).kind == asked(one, one.reset, 1, {}, 1).kind == "reset"
        assert asked(one, one.step, 1, Turn("exit")).kind == "failed"
        event = asked(one, one.step, 0, Turn("a"))
        assert event.kind == "failed" and not event.timeout and "reset takes no seed" in event.text
        assert [asked(one, one.end, key).kind for key in (0, 1)] == ["end", "end"]
    finally:
        one.spec = spec()


def test_an_episode_whose_replay_differs_fails(one):
    for key in range(3):
        asked(one, one.reset, key, {}, 1)
    asked(one, one.step, 0, Turn("chance"))
    asked(one, one.step, 1, Turn("a"))
    assert asked(one, one.step, 2, Turn("exit")).kind == "failed"
    event = asked(one, one.step, 0, Turn("a"))
    assert event.kind == "failed" and not event.timeout and "in the replay step gives something else" in event.text
    assert asked(one, one.end, 1).reward == 1.5
    assert [asked(one, one.end, key).kind for key in (0, 2)] == ["end", "end"]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["a", "bb", "ccc", "exit", "raise"]), max_size=5), min_size=2, max_size=6))
def test_replayed_episodes_are_those_that_nothing_disturbed(one, texts):
    """Whatever the others do, an episode has the events that it has in a process of its own."""
    found = played(one, dict(enumerate(texts)))
    for key, own in enumerate(texts):
        fault = next((i for i, text in enumerate(own) if text in ("exit", "raise")), None)
        right = expected({key: own if fault is None else own[:fault]})[key]
        if fault is None:
            assert found[key] == right
        else:
            assert found[key][:-2] == right[:-1]
            assert [event.kind for event in found[key][-2:]] == ["failed", "end"]


def test_deadlines_are_in_cpu_time_and_sleep_has_a_limit_of_its_own(one):
    assert played(one, {0: ["sleep 0.8"]})[0][1].replies[0].content == "slept"
    one.cap = 0.5
    try:
        found = played(one, {0: ["sleep 600"], 1: ["a"]})
    finally:
        one.cap = processes.CAP
    assert found[0][1].timeout and found[1] == expected({1: ["a"]})[1]


def test_a_process_that_is_stopped_costs_its_episode(one, monkeypatch):
    monkeypatch.setattr(one, "cap", 0.5)
    assert played(one, {0: ["stop"]})[0][1].timeout


def test_a_worker_that_is_killed_by_chance_costs_nothing(one, tmp_path):
    found = played(one, {0: ["a", f"killed_once {tmp_path / 'once'}", "b"]})[0]
    assert [event.kind for event in found] == ["reset", "step", "step", "step", "end"]
    assert found[2].replies[0].content == "survived" and found[-1].reward == 3.0


def test_a_worker_that_ends_between_two_requests_costs_nothing(one):
    asked(one, one.reset, 0, {}, 0)
    (worker,) = children(one.server.pid)
    os.kill(worker, signal.SIGKILL)
    assert gone([worker], 5)
    assert asked(one, one.step, 0, Turn("a")).replies == expected({0: ["a"]})[0][1].replies
    os.kill(one.server.pid, signal.SIGKILL)
    assert asked(one, one.step, 0, Turn("b")).replies == expected({0: ["a", "b"]})[0][2].replies
    assert asked(one, one.end, 0).reward == 3.0


def test_requests_return_at_once_and_events_wait_only_if_asked_to(one):
    one.reset(0, {}, 0)
    one.step(0, Turn("sleep 0.3"))
    assert one.events(wait=False) == []  # the worker sleeps at least 0.3 s
    found = []
    while len(found) < 2:
        found += one.events(wait=True)
    assert [event.kind for event in found] == ["reset", "step"] and found[1].seconds >= 0.3
    assert asked(one, one.end, 0).kind == "end" and one.events(wait=True) == []


def test_tools_get_their_calls(one):
    host = ProcessHost("tests.environments.test_processes:with_tools", {}, workers=1)
    try:
        asked(host, host.reset, 0, {}, 0)
        turn = Turn("", [Call("calculator", {"expression": "6 * 7"}), Call("python", {"code": "print(6 * 7)"})])
        assert [reply.content for reply in asked(host, host.step, 0, turn).replies] == ["42", "42"]
    finally:
        host.close()


def with_tools(_):
    from r1lab.environments import own_tools
    from r1lab.environments.toolset import Session

    return Session(tools=[own_tools.calculator, own_tools.python])


def test_a_row_that_is_no_json_is_an_error_of_the_user(one):
    with pytest.raises(UserError, match="data: an environment cannot get a row: Object of type object"):
        one.reset(0, {"x": object()}, 0)


@pytest.mark.parametrize("fault", ["no_memory", "machine"])
def test_what_fails_for_the_machines_sake_raises(fault):
    host = hosting()
    try:
        asked(host, host.reset, 0, {}, 0)
        with pytest.raises(MachineError, match="Cannot allocate memory|the machine is broken"):
            asked(host, host.step, 0, Turn(fault))
    finally:
        host.close()


def test_without_file_descriptors_no_worker_can_be_started():
    host = hosting()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        host.server.start()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        with pytest.raises(MachineError, match="Too many open files"):
            asked(host, host.reset, 0, {}, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        host.close()


def test_closing_ends_every_process_and_closes_environments(tmp_path):
    host = hosting(workers=2)
    asked(host, host.reset, 0, {}, 0)
    assert asked(host, host.step, 0, Turn(f"forks {tmp_path / 'pids'}")).replies[0].content == "forked"
    host.spec = spec("Closing")
    asked(host, host.reset, 1, {"path": str(tmp_path / "closed")}, 0)
    host.step(0, Turn("sleep 600"))
    below = children(host.server.pid) | {host.server.pid, *map(int, os.listdir(tmp_path / "pids"))}
    host.close()
    assert len(below) == 7 and gone(below, 5) and (tmp_path / "closed").exists()
    assert host.events(wait=True) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_parent_ends(tmp_path, how):
    script = tmp_path / "parent.py"
    script.write_text(
        "import signal, sys\nfrom r1lab.environments.base import Turn\n"
        "from tests.environments.test_processes import asked, hosting\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "host = hosting()\nasked(host, host.reset, 0, {}, 0)\n"
        f"asked(host, host.step, 0, Turn('forks {tmp_path / 'pids'}'))\n"
        "host.step(0, Turn('sleep 600'))\nprint('up', flush=True)\nhost.events(wait=True)\n"
    )
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    parent = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert parent.stdout is not None and parent.stdout.readline() == "up\n"
    below = children(parent.pid) | set(map(int, os.listdir(tmp_path / "pids")))
    assert len(below) == 6
    parent.send_signal(how)
    parent.wait(30)
    assert gone(below, 30)
