"""Estimates of time: compared with what was measured, and with rates of a machine that were measured."""

from dataclasses import replace

import pytest

from benchmarks import plan as benchmark
from r1lab import plan
from r1lab.doctor import rates
from r1lab.errors import UserError
from r1lab.plan import cost, gpus, rollouts, shapes
from r1lab.plan.changes import _planned
from r1lab.recipe import loading as recipes

CORES = gpus.cores(2, 24 * gpus.GIB, avx512=True)
RATES = rates.Rates(
    machine="two cores", time="2026-11-29", float32=2e11, bfloat16=1e11, copy=4e10, importing=6.0, engine="vllm",
    start=9.0, step=0.004, generating=8000.0, training=10_000.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", ["quickstart", "tiny/llama-base", "tiny/deepseek-v3-base"])
def test_time_is_within_a_factor_of_two_of_what_was_measured(name):
    for row in benchmark.times([run for run in benchmark.MEASURED if run[0] == name]):
        assert 0.5 <= row["ratio"] <= 2, row


def decoding(device=CORES, *, rows=128, at_once=128, longest=448, mean=130.0, vllm=True):
    shape = shapes.find("embedded:tiny-qwen2")
    sizes = {"rows": rows, "prompts": rows / 8, "at_once": at_once, "prompt": 80, "longest": longest, "mean": mean}
    return cost.decoding(shape, device, **sizes, size=4, vllm=vllm)


def test_generation_takes_as_many_steps_as_its_longest_completion_and_then_goes_with_the_tokens():
    assert decoding() < decoding(mean=260.0) < 2 * decoding()
    assert decoding(rows=1280) > 4 * decoding()
    assert decoding(longest=896) > decoding()


def test_vllm_fills_the_places_of_completions_that_ended_and_generate_does_not():
    vllm, generate = decoding(rows=1280), decoding(rows=1280, vllm=False)
    assert generate > 2 * vllm


def test_rates_that_were_measured_are_used_and_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(rates, "machine", lambda: "two cores")
    assert rates.read() is None
    assert "r1lab doctor --measure" in gpus.cpu().source
    rates.write(RATES)
    assert rates.read() == RATES
    device = gpus.cpu()
    assert (device.flops, device.bandwidth, device.step, device.engine_start) == (2e11, 4e10, 0.004, 9.0)
    text = plan.as_text(plan.plan(recipes.load(["quickstart"]), device=device))
    assert "rates were measured on 2026-11-29 by `r1lab doctor --measure`" in text


def test_rates_of_another_machine_and_a_broken_file_are_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rates.write(RATES)
    assert rates.read() is None
    monkeypatch.setattr(rates, "machine", lambda: "two cores")
    assert rates.read() == RATES
    rates.file().write_text("{")
    assert rates.read() is None


def test_a_faster_machine_takes_less_time():
    twice = replace(RATES, float32=4e11, training=20_000.0)
    device, faster = (gpus.with_rates(CORES, found) for found in (RATES, twice))
    assert decoding(faster) <= decoding(device)
    shape = shapes.find("embedded:tiny-qwen2")
    assert cost.training(shape, 1e12, faster, 1) == pytest.approx(cost.training(shape, 1e12, device, 1) / 2)


def test_overlap_gains_half_of_the_overhead_of_the_tail():
    tail = rollouts.tail(longest=1000, mean=100.0, n=4, device=CORES, weights=0)
    assert tail.steps == pytest.approx(1000 - 100 * (1 + 1 / 2 + 1 / 3 + 1 / 4))
    assert rollouts.overlapped(60, 40, tail) == pytest.approx(100 - tail.steps * CORES.step / 2)
    heavy = rollouts.tail(longest=1000, mean=100.0, n=4, device=CORES, weights=10**9)
    assert rollouts.overlapped(600, 40, heavy) == pytest.approx(640 - tail.steps * CORES.step / 2)
    assert rollouts.overlapped(0, 40, heavy) > 40  # nothing to train on, and vLLM has half of the cores
    assert rollouts.tail(longest=100, mean=45.0, n=16, device=CORES, weights=0).steps == 0


RECIPE = """
stage: grpo
model: {path: "embedded:tiny-qwen2"}
data: {builder: knights_knaves, people: 2, size: 16}
prompt: {template: r1-zero}
rewards: [{name: knights_knaves}]
rollout: {engine: ENGINE, num_generations: 4, max_completion_length: 256}
train: {max_steps: 10, global_batch_size: 64, per_device_train_batch_size: 64, beta: 0.0, overlap: OVERLAP}
"""


def planned(folder, *words, overlap="true", engine="vllm", **given):
    file = folder / "r.yaml"
    file.write_text(RECIPE.replace("OVERLAP", overlap).replace("ENGINE", engine))
    return plan.plan(recipes.load([str(file), *words]), **given)


def test_a_plan_counts_overlap_on_a_cpu_and_says_where_it_has_no_effect(tmp_path):
    pytest.importorskip("vllm")
    (ours,), (theirs,) = (planned(tmp_path, overlap=x, device=CORES).stages for x in ("true", "false"))
    assert 0.8 * theirs.seconds < ours.seconds < theirs.seconds
    assert any("train.overlap gains half" in line for line in ours.assumed)
    (ours,), (theirs,) = (planned(tmp_path, overlap=x, gpu="h100").stages for x in ("true", "false"))
    assert ours.seconds == theirs.seconds
    assert any("train.overlap has no effect on a GPU" in line for line in ours.assumed)


def test_a_plan_refuses_overlap_where_run_does_and_suggests_nothing_that_run_refuses(tmp_path):
    pytest.importorskip("vllm")
    with pytest.raises(UserError, match=r"--gpus 2: .*train.overlap: true: needs launch.gpus=1"):
        planned(tmp_path, gpu="h100", gpus=2)
    for overlap in ("true", "false"):
        (tmp_path / "r.yaml").write_text(RECIPE.replace("OVERLAP", overlap).replace("ENGINE", "vllm"))
        recipe = recipes.load([str(tmp_path / "r.yaml")])
        made = _planned(recipe, {"train.gradient_checkpointing": True}, lambda _: "planned")
        assert (made is None) == (overlap == "true")
