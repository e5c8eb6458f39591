"""The reference model is what training starts from, also where the model's config names another one."""

import json
import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from r1lab.models import loading
from tests.stages.several_ranks import logs, prepared

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    """A LoRA adapter whose weights are far from zero; its config names the base."""
    torch.manual_seed(0)
    path, folder = str(base / "start"), tmp_path_factory.mktemp("adapter")
    model = get_peft_model(loading.load_model(path), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    model.save_pretrained(folder)
    loading.load_tokenizer(path).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(adapter, start, base, tmp_path_factory):
    """The first step of a grpo and of a dpo stage that train all weights from a merged adapter."""
    folder = tmp_path_factory.mktemp("trained")
    train = {"beta": 0.1, "max_steps": 1}
    found = {s: prepared(base, folder / s, s, 1, model={"path": str(adapter)}, train=train) for s in ("grpo", "dpo")}
    assert start(1, list(found.values())) == [0], "\n".join(map(logs, found.values()))
    return found


def first(run_dir: Path) -> dict:
    steps = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return next(row for row in steps if row["phase"] == "train")


def test_the_reference_has_the_adapter_that_the_policy_starts_with(trained):
    assert first(trained["grpo"])["kl"] == pytest.approx(0, abs=1e-6)
    assert first(trained["dpo"])["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first(trained["dpo"])["margin"] == pytest.approx(0, abs=1e-5)
