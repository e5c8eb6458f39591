"""The layouts of a grpo stage: their times, and the fastest one that `r1lab run` accepts."""

import pytest

from r1lab import plan
from r1lab.plan import layouts, rollouts
from r1lab.recipe import loading as recipes
from r1lab.recipe.sections import Asynchronous

LONG = [
    "templates/full-1.5b", "model.path=Qwen/Qwen2.5-0.5B-Instruct", "rollout.max_completion_length=8192",
    "train.per_device_train_batch_size=4", "launch.gpus=2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def together(longest: float, each: float):
    """Seconds of a number of rollouts whose longest completion takes `longest` seconds."""
    return lambda count: max(longest, count * each)


def seconds(train, generate, staleness, *, in_flight=True, **more):
    asynchronous = Asynchronous(staleness=staleness, in_flight=in_flight)
    return rollouts.seconds(train, generate, asynchronous=asynchronous, **more)


@pytest.mark.parametrize(("train", "longest", "each"), [(10, 100, 5), (100, 10, 5), (50, 60, 55), (1, 1, 1)])
def test_no_staleness_is_synchronous_and_more_of_it_is_never_slower(train, longest, each):
    generate = together(longest, each)
    synchronous = rollouts.seconds(train, generate, sync=2.0)
    assert synchronous == 2 + generate(1) + train
    found = [seconds(train, generate, staleness, sync=2.0) for staleness in (0, 1, 2, 4, 8)]
    assert found[0] == synchronous
    assert found == sorted(found, reverse=True)
    assert all(one >= max(train, each) + 2 for one in found)


def test_without_in_flight_one_rollout_is_generated_while_another_one_is_trained_on():
    found = {seconds(10, together(100, 5), n, in_flight=False, sync=2.0) for n in (1, 2, 8)}
    assert found == {102}


def test_reading_again_after_a_sync_is_a_cost_of_servers_and_not_of_the_trainer():
    assert seconds(100, together(10, 5), 2, reading=20.0) == 100
    assert seconds(1, together(10, 50), 2, reading=20.0) == 70


def test_the_recommended_layout_is_accepted_by_run_and_takes_the_time_that_it_says():
    planned = plan.plan(recipes.load(LONG), gpu="h100")
    found = planned.layouts["full-1.5b"]
    best = layouts.fastest(found)
    assert found[0].words == () and found[0].seconds == planned.seconds
    assert best.seconds < 0.9 * planned.seconds
    again = plan.plan(recipes.load([*LONG, *best.words]), gpu="h100")
    assert again.fits and again.seconds == pytest.approx(best.seconds)
    lines = plan.as_text(planned).splitlines()
    (place,) = [i for i, line in enumerate(lines) if line.startswith("fastest layout")]
    assert lines[place + 1] == f"  {' '.join(best.words)}"
    own = plan.as_json(again)["stages"][0]["layouts"][0]
    assert own["words"] == () and own["seconds"] == pytest.approx(best.seconds)
    assert "fastest layout: full-1.5b: that of the recipe" in plan.as_text(again)


@pytest.mark.parametrize(
    "more", [[], ["train.vllm_enable_sleep_mode=true"], ["launch.rollout=server", "launch.rollout_gpus=2"]]
)
def test_every_layout_is_one_that_run_accepts(more):
    sources = ["templates/full-7b", "rollout.max_completion_length=2048", "launch.gpus=4", *more]
    found = plan.plan(recipes.load(sources), gpu="h100").layouts["full-7b"]
    assert len(found) >= 2 and len({one.words for one in found}) == len(found)
    for layout in found:
        recipes.load([*sources, *layout.words])


def test_a_layout_on_several_nodes_has_no_servers_where_run_refuses_them():
    sources = ["templates/full-7b", "launch.nodes=2"]
    for layout in plan.plan(recipes.load(sources), gpu="h100").layouts["full-7b"]:
        recipes.load([*sources, *layout.words])


def test_without_a_gpu_no_layout_is_compared():
    assert plan.plan(recipes.load(["quickstart"])).layouts == {}


def test_half_of_the_devices_wait_for_synchronous_servers():
    colocated, served = (
        plan.plan(recipes.load([*LONG, "rollout.gpu_memory_utilization=0.3", *more]), gpu="h100").seconds
        for more in ([], ["launch.rollout=server"])
    )
    assert served > 1.1 * colocated
