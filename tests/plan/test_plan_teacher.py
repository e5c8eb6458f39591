"""A teacher costs its weights, sharded like the student's, and a forward pass over every token."""

import pytest

from r1lab import plan
from r1lab.recipe import loading as recipes
from r1lab.recipe.sections import Teacher

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
    served = planned("teacher.url=http://x/v1", "distill.exact=false") if "url" in Teacher.model_fields else None
    assert served is None or served.peak.reference == 0
