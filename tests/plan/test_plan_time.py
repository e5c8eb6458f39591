"""Estimates of time: compared with what was measured, and with rates of a machine that were measured."""

from dataclasses import replace

import pytest

from benchmarks import plan as benchmark
from r1lab import plan
from r1lab.doctor import rates
from r1lab.plan import cost, gpus, shapes
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
