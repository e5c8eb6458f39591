"""Clients of real servers whose weights change: what comes out of them, and what a fault of one of them costs."""

import os
import signal
import threading
import time
from concurrent.futures import as_completed

import httpx
import psutil
import pytest

from r1lab import engines
from r1lab.engines import processes
from r1lab.engines.fleet import Fleet
from r1lab.engines.sync import WeightSync
from r1lab.errors import UserError
from r1lab.models import loading
from tests.engines.conftest import PROMPTS
from tests.engines.test_sync import SETTINGS, moved

pytest.importorskip("vllm")
LONG = SETTINGS | {"max_tokens": 400, "ignore_eos": True}
SHORT = LONG | {"max_tokens": 64}
GREEDY = LONG | {"temperature": 0.0, "max_tokens": 200}


@pytest.fixture(scope="module")
def policy():
    return loading.load_model("embedded:tiny-qwen2", dtype="float32").eval()


@pytest.fixture(scope="module")
def prompts():
    tokenizer = loading.load_tokenizer("embedded:tiny-qwen2")
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROMPTS]


@pytest.fixture
def fleet(served, policy):
    """A fleet of both servers, which have version 1."""
    made = Fleet([server.url for server in served], timeout=300)
    send(made, 1, policy)
    yield made
    made.close()


def send(fleet: Fleet, version: int, policy) -> None:
    sender = WeightSync(fleet.urls, timeout=60)
    done = sender.send(version, policy.named_parameters())
    sender.close()
    fleet.synced(version, done.failed)


def busy(fleet: Fleet) -> list[int]:
    return [line.asked for line in fleet._lines]


def tree_of(server) -> list[psutil.Process]:
    guard = psutil.Process(server.process.pid)
    return [guard, *guard.children(recursive=True)]


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_groups_arrive_whole_with_tokens_log_probabilities_and_versions(fleet, prompts):
    heard = {}
    asked = [(ids, 3) for ids in prompts]
    groups = fleet.complete(asked, SETTINGS, finished=lambda i, group: heard.update({i: group}))
    assert [heard[i] for i in range(3)] == groups and [len(group) for group in groups] == [3, 3, 3]
    for one in (one for group in groups for one in group):
        assert 0 < len(one.token_ids) == len(one.logprobs) == len(one.versions) <= 24
        assert one.finish == ("length" if len(one.token_ids) == 24 and one.token_ids[-1] != 2 else "stop")
        assert set(one.versions) == {1} and all(value <= 0 for value in one.logprobs)
    assert len({tuple(one.token_ids) for one in groups[0]}) > 1
    assert busy(fleet) == [0, 0] and all(line.total > 0 for line in fleet._lines)
    drawn = [fleet.complete(asked, SETTINGS, seeds=[5, 6, 7]) for _ in range(2)]
    assert drawn[0] == drawn[1] and drawn[0][0][0] != drawn[0][0][1]
    with pytest.raises(UserError, match="^http://127.0.0.1:.*/v1/completions: .*context length"):
        fleet.complete([([5] * 600, 1)], SETTINGS)
    assert not fleet.failures


@pytest.mark.slow
def test_a_fleet_is_an_engine(fleet, prompts):
    tokenizer = loading.load_tokenizer("embedded:tiny-qwen2")
    from r1lab.engines.served import FleetEngine

    engine = FleetEngine(fleet, tokenizer, max_length=512)
    sampling = engines.Sampling(max_tokens=40, temperature=0.0, logprobs=True)
    model = loading.load_model("embedded:tiny-qwen2", dtype="float32")
    from r1lab.engines.transformers import TransformersEngine

    theirs = engines.generate(TransformersEngine(model, tokenizer), PROMPTS, sampling)
    ours = engines.generate(engine, PROMPTS, sampling)
    assert [(c.text, c.token_ids, c.truncated) for (c,) in ours] == [
        (c.text, c.token_ids, c.truncated) for (c,) in theirs
    ]
    assert all(len(c.logprobs) == len(c.token_ids) for (c,) in ours)
    drawn = engines.Sampling(n=2, max_tokens=8, seed=3)
    whole = dict(engine.stream(PROMPTS, drawn))
    assert dict(engine.stream(PROMPTS, drawn, done={0, 2})) == {1: whole[1]}


@pytest.mark.slow
def test_a_completion_that_a_sync_interrupts_has_the_exact_version_of_each_token(fleet, policy, prompts):
    before = fleet.complete([(ids, 1) for ids in prompts], GREEDY)
    other = moved(policy, 3)
    futures = [fleet.submit(ids, n, s) for ids in prompts for n, s in ((1, GREEDY), (4, LONG))]
    time.sleep(0.3)
    with fleet.paused():
        assert busy(fleet) == [0, 0] and not all(future.done() for future in futures)
        late = fleet.submit(prompts[0], 1, GREEDY)
        send(fleet, 2, other)
    greedy = [futures[i].result(300)[0] for i in (0, 2, 4)]
    both = [one for future in futures for one in future.result(300)] + late.result(300)
    assert all(one.finish == "length" and one.versions == sorted(one.versions) for one in both)
    assert any(set(one.versions) == {1, 2} for one in both) and set(late.result()[0].versions) == {2}
    assert all(len(one.token_ids) == len(one.logprobs) == len(one.versions) in (200, 400) for one in both)
    # What either version samples after what was sampled before.
    for prompt, one, (old,) in zip(prompts, greedy, before):
        first = one.versions.count(1)
        assert one.token_ids[:first] == old.token_ids[:first]
        (new,) = fleet.complete([(prompt + old.token_ids[:first], 1)], GREEDY | {"max_tokens": 200 - first})[0]
        assert one.token_ids[first:] == new.token_ids and set(new.versions) == {2}


@pytest.mark.slow
def test_a_server_with_other_weights_is_never_asked(fleet, policy, prompts, served):
    sender = WeightSync(fleet.urls[:1], timeout=60)
    assert sender.send(5, policy.named_parameters()).failed == {}
    sender.close()
    fleet.synced(5)  # though the second server does not have it, as if it had been started again
    groups = fleet.complete([(ids, 2) for ids in prompts * 2], SETTINGS)
    assert {version for group in groups for one in group for version in one.versions} == {5}
    assert fleet.failures == {fleet.urls[1]: "its weights have the version 1 in place of 5"}
    fleet.synced(6)
    with pytest.raises(UserError, match=r"^no server is left: .* version 5 in place of 6; .* 1 in place of 6: look"):
        fleet.complete([(prompts[0], 1)], SETTINGS)


@pytest.mark.slow
def test_a_server_that_stops_costs_a_request_to_the_other_one_or_one_line_if_it_was_the_only_one(
    fleet, served, policy, prompts
):
    group = tree_of(served[1])
    fleet.timeout = 30.0
    try:
        futures = [fleet.submit(ids, 2, SHORT) for ids in prompts * 2]
        wait_for(lambda: all(len(line.tasks) > 0 for line in fleet._lines))
        for process in group:
            process.send_signal(signal.SIGSTOP)
        for future in as_completed(futures, 300):
            assert [len(one.token_ids) for one in future.result()] == [64, 64]
        assert fleet.failures == {served[1].url: "no complete response in 30 s"}
        alone = Fleet([served[1].url], timeout=5)
        alone.synced(1)
        began = time.monotonic()
        with pytest.raises(UserError, match="^no server is left: http.*: no complete response in 5 s: look"):
            alone.complete([(prompts[0], 1)], SHORT)
        assert time.monotonic() - began < 60
        alone.close()
    finally:
        for process in group:
            process.send_signal(signal.SIGCONT)
    send(fleet, 2, policy)  # which takes it back
    assert not fleet.failures


@pytest.mark.slow
def test_nothing_is_left_of_requests_that_nobody_waits_for(fleet, prompts, served):
    futures = [fleet.submit(ids, 4, LONG) for ids in prompts]
    wait_for(lambda: sum(busy(fleet)) >= 3)
    for future in futures:
        future.cancel()
    wait_for(lambda: busy(fleet) == [0, 0])

    def running(url: str) -> float:
        lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))

    wait_for(lambda: [running(server.url) for server in served] == [0, 0])
    names = [thread.name for thread in threading.enumerate()]
    fleet.close()
    assert [thread.name for thread in threading.enumerate()].count("fleet") == names.count("fleet") - 1


@pytest.mark.slow
def test_a_server_that_is_killed_costs_a_request_to_the_other_one(tmp_path, served, policy, prompts):
    path = loading.resolve("embedded:tiny-qwen2")
    options = {"enforce_eager": True, "max_num_seqs": 8}
    third = processes.start(path, tmp_path, dtype="float32", max_model_length=512, options=options)
    fleet = Fleet([served[0].url, third[0].url], timeout=300)
    try:
        processes.wait(third)
        send(fleet, 1, policy)
        futures = [fleet.submit(ids, 2, LONG) for ids in prompts * 2]
        wait_for(lambda: all(len(line.tasks) > 0 for line in fleet._lines))
        os.kill(tree_of(third[0])[1].pid, signal.SIGKILL)  # the first one is the guard
        for future in as_completed(futures, 300):
            assert [len(one.token_ids) for one in future.result()] == [400, 400]
        assert list(fleet.failures) == [third[0].url]
    finally:
        fleet.close()
        processes.stop(third)
