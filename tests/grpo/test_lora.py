"""LoRA under the trainer: TRL's loss and gradient, the reference without the adapter, vLLM's weights, resuming."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
import trl
from peft import PeftModel

from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import loading
from r1lab.models.lora import lora_config
from r1lab.recipe.sections import Lora
from tests.grpo.test_step import B, agree, batch, loss_and_gradient, tokenizer, trainer  # noqa: F401


def lora_trainer(cls, tokenizer, tmp_path, kind="qwen2", **settings):  # noqa: F811
    """A trainer of a tiny model with LoRA on all linear layers, its B matrices random instead of zero."""
    made = trainer(partial(cls, peft_config=lora_config(Lora(r=4))), tokenizer, tmp_path, kind, **settings)
    torch.manual_seed(2)
    for name, parameter in made.model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_" in name:
            parameter.data.normal_(std=0.1)
    return made


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "cispo"])
def test_lora_has_trls_loss_and_gradient(tokenizer, tmp_path, kind, beta, loss_type):  # noqa: F811
    inputs = batch(len(tokenizer), beta=beta, off_policy=True)
    ours, theirs = (
        lora_trainer(cls, tokenizer, tmp_path, kind, beta=beta, loss_type=loss_type)
        for cls in (GRPOTrainer, trl.GRPOTrainer)
    )
    assert ours.packs
    agree(loss_and_gradient(ours, dict(inputs)), loss_and_gradient(theirs, dict(inputs)))
    expected = {name: p.grad for name, p in theirs.model.named_parameters() if p.requires_grad}
    assert len(expected) == 2 * 2 * 7  # A and B of seven linear layers in each of two
    for name, parameter in ours.model.named_parameters():
        if parameter.requires_grad:
            assert expected[name].norm() > 0
            assert (parameter.grad - expected[name]).norm() <= 1e-5 * expected[name].norm(), name
        else:
            assert parameter.grad is None


def test_the_reference_is_the_model_without_its_adapter(tokenizer, tmp_path):  # noqa: F811
    made = lora_trainer(GRPOTrainer, tokenizer, tmp_path, beta=0.04, loss_type="dapo")
    assert made.ref_model is None
    scored = made._generate_and_score_completions([{"prompt": "Zoey is a knight."}] * B)
    mask = scored["completion_mask"].bool()
    ids, masks = (
        torch.cat([scored[f"prompt_{part}"], scored[f"completion_{part}"]], dim=1) for part in ("ids", "mask")
    )
    plain = loading.load_model(str(tmp_path / "model"), dtype="float32")

    def logps(model):
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=masks).logits[:, -mask.size(1) - 1 : -1].log_softmax(-1)
        return found.gather(-1, scored["completion_ids"][..., None])[..., 0][mask]

    reference = scored["ref_per_token_logps"][mask]
    assert (reference - logps(plain)).abs().max() < 1e-5
    made.model.get_base_model().forward = partial(type(plain).forward, made.model.get_base_model())
    assert (reference - logps(made.model)).abs().max() > 0.1


@pytest.mark.slow
def test_vllm_log_probabilities_follow_the_adapter(tiny_model, tmp_path):
    pytest.importorskip("vllm")
    from datasets import Dataset
    from trl import GRPOConfig

    from tests.grpo.test_weight_sync import PROMPTS, gap, sampled

    config = GRPOConfig(
        output_dir=str(tmp_path), use_vllm=True, vllm_mode="colocate", vllm_max_model_length=256,
        vllm_gpu_memory_utilization=0.3, per_device_train_batch_size=4, num_generations=4, max_completion_length=32,
        bf16=False, gradient_checkpointing=False, report_to="none",
    )  # fmt: skip
    made = GRPOTrainer(
        model=loading.load_model(str(tiny_model), dtype="float32"),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS, "row": [0, 1]}),
        processing_class=loading.load_tokenizer(str(tiny_model)),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        peft_config=lora_config(Lora(r=4)),
    )
    assert gap(made, sampled(made)) < 1e-2
    torch.manual_seed(0)
    for name, parameter in made.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    assert gap(made, sampled(made)) > 0.1  # same step: not synced yet

    before = {name: parameter.clone() for name, parameter in made.model.named_parameters()}
    made._last_loaded_step = -1  # as after an optimizer step
    fresh = sampled(made)
    assert gap(made, fresh) < 1e-2
    assert not any(module.merged for module in made.model.modules() if hasattr(module, "merged"))
    for name, parameter in made.model.named_parameters():
        assert torch.equal(parameter, before[name]), name  # TRL's merging in place would round the base


RECIPE = """
stage: grpo
name: lora
model: {path: embedded:tiny-qwen2, lora: {r: 4, MERGE}}
data: {builder: knights_knaves, people: 2, size: 32}
prompt: {template: r1-zero}
rewards: [{name: "./varied.py:varied"}]
rollout: {engine: transformers, num_generations: 4, max_completion_length: 32}
train: {max_steps: STEPS, per_device_train_batch_size: 8, learning_rate: 1.0e-3, beta: 0.04}
"""


def command(folder, text: str, *words) -> list[str]:
    (folder / "recipe.yaml").write_text(text)
    # A reward that differs within every group: without one the adapter would stay zero.
    varied = "def varied(completions, **columns):\n    return [float(len(set(c))) for c in completions]\n"
    (folder / "varied.py").write_text(varied)
    path, runs = str(folder / "recipe.yaml"), str(folder / "runs")
    return [sys.executable, "-m", "r1lab", "run", "--no-check", path, "--runs-dir", runs, *words]


@pytest.mark.slow
@pytest.mark.parametrize("merge", [True, False])
def test_a_stage_saves_the_adapter_and_the_model(tmp_path, merge):
    text = RECIPE.replace("MERGE", f"merge: {str(merge).lower()}").replace("STEPS", "2")
    done = subprocess.run(command(tmp_path, text), capture_output=True, text=True, timeout=300)
    run = tmp_path / "runs" / "lora"
    assert done.returncode == 0, done.stderr + (run / "log.txt").read_text()[-2000:]
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 4 and config["base_model_name_or_path"] == loading.resolve("embedded:tiny-qwen2")
    assert (run / "model" / "model.safetensors").is_file() is merge

    base = loading.load_model("embedded:tiny-qwen2", dtype="float32")
    found = loading.load_model(str(run / "model"), dtype="float32").state_dict()
    adapted = PeftModel.from_pretrained(base, str(run / "adapter")).merge_and_unload().state_dict()
    plain = loading.load_model("embedded:tiny-qwen2", dtype="float32").state_dict()
    assert found.keys() == plain.keys()
    assert all((found[name] - adapted[name]).abs().max() < 1e-6 for name in found)
    assert any((found[name] - plain[name]).abs().max() > 1e-5 for name in found)


@pytest.mark.slow
def test_an_interrupted_lora_run_is_taken_up(tmp_path):
    text = RECIPE.replace("MERGE", "").replace("STEPS", "300")
    metrics = tmp_path / "runs" / "lora" / "metrics.jsonl"

    def steps():
        rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
        return [row["step"] for row in rows if row["phase"] == "train"]

    for words, until in (((), 2), (("--resume",), 6)):
        process = subprocess.Popen(command(tmp_path, text, *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        deadline = time.time() + 120
        while len(steps()) < until:
            assert time.time() < deadline and process.poll() is None
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=120)
        assert process.returncode == 130
    assert steps() == list(range(1, len(steps()) + 1))
    (*_, last) = sorted((metrics.parent / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    assert (last / "adapter_model.safetensors").is_file() and not (last / "model.safetensors").is_file()


def test_a_quantised_base_takes_grpo_steps_and_stays(tokenizer, tmp_path):  # noqa: F811
    pytest.importorskip("bitsandbytes")
    from datasets import Dataset
    from trl import GRPOConfig

    made = GRPOTrainer(
        model=loading.load_model("embedded:tiny-qwen2", dtype="float32", quantize="4bit"),
        args=GRPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_completion_length=16,
            bf16=False, use_cpu=True, report_to="none", gradient_checkpointing=False, max_steps=2, beta=0.04,
            learning_rate=1e-3, save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["Zoey is a knight.", "Luke said"], "row": [0, 1]}),
        processing_class=tokenizer,
        reward_funcs=lambda completions, **_: [float(len(set(c))) for c in completions],
        peft_config=lora_config(Lora(r=4)),
    )  # fmt: skip
    before = {name: parameter.clone() for name, parameter in made.model.named_parameters()}
    made.train()
    changed = {name for name, parameter in made.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if "lora_" in name}
