"""The simulation of synchronous and asynchronous training on many GPUs."""

from dataclasses import replace

import pytest

from benchmarks import cluster_simulation as simulation
from benchmarks.simulated_cluster import Cluster, asynchronous
from r1lab.plan import gpus, shapes

SETTING = simulation.Setting("Qwen/Qwen2.5-0.5B", "h100", 8, 512, 300.0, 1024)
H100, SHAPE = gpus.find("h100"), shapes.find("Qwen/Qwen2.5-0.5B")


def steps(places, context=50):
    return [simulation.step_seconds(SHAPE, H100, rows, simulation.PROMPT + context) for rows in range(places + 1)]


def test_rows_of_equal_length_take_as_many_steps_as_they_have_tokens():
    one = steps(4)[4]
    assert simulation.generating(steps(4), [100] * 4) == pytest.approx(100 * one)
    assert simulation.generating(steps(4), [100] * 8) == pytest.approx(200 * one)


def test_a_row_starts_when_another_ends():
    _, lone, pair = steps(2)
    # 30 and 60 tokens in two places, then 30 more in the place of the first: 60 steps of two rows
    assert simulation.generating(steps(2), [30, 60, 30]) == pytest.approx(60 * pair)
    assert simulation.generating(steps(1), [40, 40]) == pytest.approx(80 * lone)


def test_lengths_have_the_mean_and_the_maximum_that_were_set():
    drawn = simulation.lengths(replace(SETTING, completions=20_000), seed=0)
    assert max(drawn) == 1024 and min(drawn) >= 1
    assert sum(drawn) / len(drawn) == pytest.approx(300, rel=0.1)
    assert drawn == simulation.lengths(replace(SETTING, completions=20_000), seed=0)


def test_more_gpus_for_the_same_batch_are_faster_and_idle_more():
    few, many = (simulation.simulated(replace(SETTING, gpus=count)) for count in (8, 64))
    assert few["step"] > many["step"] > few["step"] / 8
    for part in ("generation_used", "training_used"):
        assert 0 < many[part] < few[part] <= 1


def drawn(count=4000, seed=0):
    return simulation.lengths(replace(SETTING, completions=count), seed)


def run(staleness, *, rows=None, servers=4, per_token=1e-3, groups=8, size=4, updates=9, first=9, **more):
    """Training on `groups` groups of `size` completions in each update."""
    rows = rows or drawn()
    cluster = Cluster(
        servers, [0.0, *[0.01] * 32], lambda taken: per_token * sum(map(sum, taken)), sync=0.1, reading=0.0, grade=0.0
    )
    options = {"in_flight": more.get("in_flight", True), "updates": updates, "first": first}
    return asynchronous(
        cluster, lambda number: rows[number * size : (number + 1) * size], groups, staleness=staleness, **options
    )


@pytest.mark.parametrize("in_flight", [True, False])
def test_laws_of_asynchronous_training(in_flight):
    found = {staleness: run(staleness, in_flight=in_flight) for staleness in (0, 1, 2, 4, 8)}
    for staleness, one in found.items():
        assert one.staleness == staleness  # the bound is reached and never exceeded
        assert 0 < one.trains <= 1 and 0 < one.generates <= 1 and 0 < one.used <= 1
    times = [one.seconds for one in found.values()]
    for earlier, later in zip(times, times[1:]):
        assert later <= earlier * 1.05  # the completions of other groups are drawn in the updates that are measured
    assert times[1] < 0.95 * times[0]


def test_in_flight_overlaps_the_longest_completions_of_several_updates():
    assert run(4, per_token=1e-4).seconds < 0.5 * run(4, per_token=1e-4, in_flight=False).seconds


def test_no_staleness_is_the_synchronous_simulation():
    rows, size, groups, servers = drawn(128), 4, 8, 4
    found = run(0, rows=rows, updates=1, first=0)
    batch = rows[: size * groups]
    took = max(simulation.generating([0.0, *[0.01] * 32], batch[server::servers]) for server in range(servers))
    assert found.seconds == pytest.approx(0.1 + took + 1e-3 * sum(batch))
    assert found.trains == pytest.approx(1e-3 * sum(batch) / found.seconds)


def test_completions_that_were_interrupted_are_read_again():
    settings = {"servers": 2, "steps": [0.0, *[0.01] * 32], "train": lambda taken: 2.0, "sync": 0.1}
    rows = drawn()

    def seconds(reading):
        cluster = Cluster(**settings, reading=reading)
        return asynchronous(cluster, lambda number: rows[4 * number : 4 * number + 4], 8, staleness=2).seconds

    assert seconds(0.0) < seconds(1e-4) < seconds(1e-3)


def test_the_formula_of_plan_is_near_the_simulation():
    setting = replace(SETTING, completions=512)
    for staleness in (0, 1, 4):
        for in_flight in (True, False):
            found = simulation.layout(setting, 4, staleness, in_flight=in_flight).seconds
            expected = simulation.expected(setting, 4, staleness, in_flight=in_flight)
            assert 0.8 < expected / found < 1.25, (staleness, in_flight, expected, found)


def test_more_gpus_than_one_layout_can_use_are_divided_as_the_formula_says():
    chosen = simulation.best(SETTING, 1, in_flight=True)
    times = {n: simulation.expected(SETTING, n, 1, in_flight=True) for n in (1, 4, 7)}
    assert 1 <= chosen < 8 and simulation.expected(SETTING, chosen, 1, in_flight=True) <= min(times.values())
