"""The simulation of synchronous steps on many GPUs."""

from dataclasses import replace

import pytest

from benchmarks import cluster_simulation as simulation
from r1lab.plan import gpus, shapes

SETTING = simulation.Setting("Qwen/Qwen2.5-0.5B", "h100", 8, 512, 300.0, 1024)
H100, SHAPE = gpus.find("h100"), shapes.find("Qwen/Qwen2.5-0.5B")


def test_rows_of_equal_length_take_as_many_steps_as_they_have_tokens():
    one = simulation.step_seconds(SHAPE, H100, 4, simulation.PROMPT + 50)
    assert simulation.generating(SHAPE, H100, [100] * 4, 4) == pytest.approx(100 * one)
    assert simulation.generating(SHAPE, H100, [100] * 8, 4) == pytest.approx(200 * one)


def test_a_row_starts_when_another_ends():
    lone, pair = (simulation.step_seconds(SHAPE, H100, rows, simulation.PROMPT + 20) for rows in (1, 2))
    # 30 and 60 tokens in two places, then 30 more in the place of the first: 60 steps of two rows
    assert simulation.generating(SHAPE, H100, [30, 60, 30], 2) == pytest.approx(60 * pair)
    assert simulation.generating(SHAPE, H100, [40, 40], 1) == pytest.approx(80 * lone)


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
