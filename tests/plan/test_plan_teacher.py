"""A teacher costs its weights, sharded like the student's, and a forward pass over every token."""

import json

import pytest

from r1lab import plan
from r1lab.recipe import loading as recipes

GIB = 2**30


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def planned(*words):
    return plan.plan(recipes.load(["distill/qwen3-8b", "data.size=4096", *words]), gpu="h100").stages[0]


def test_the_teacher_is_counted():
    large, small = planned(), planned("teacher.path=Qwen/Qwen3-8B")
    assert (large.peak.reference - small.peak.reference) / GIB == pytest.approx((32.8 - 8.2) * 2e9 / 8 / GIB, rel=0.02)
    assert large.flops > small.flops and large.seconds > small.seconds
    assert planned("teacher.url=http://x/v1", "distill.exact=false").peak.reference == 0


def test_of_a_teacher_on_the_students_base_the_adapter_alone_is_counted(tmp_path):
    def shared(*words):
        return planned(*words, f"teacher={{path: {tmp_path}, share_base: true, dtype: auto}}")

    config = {"peft_type": "LORA", "target_modules": ["q_proj"], "base_model_name_or_path": "Qwen/Qwen3-8B-Base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(8 * 2**20))
    found, second = shared(), planned("teacher.path=Qwen/Qwen3-8B")
    assert found.peak.reference == 2**20, "sharded over eight devices"
    assert found.peak.weights == second.peak.weights and found.flops == second.flops
