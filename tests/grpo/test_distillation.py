"""A distill step has the gradient of the divergence from its teacher, packed and not, on one rank and two."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from trl import GRPOConfig

from r1lab.errors import UserError
from r1lab.grpo import batches
from r1lab.grpo.distillation import FIRST, DistillTrainer
from r1lab.grpo.divergence import divergence
from r1lab.grpo.teacher_server import ServedTeacher
from r1lab.models import loading
from r1lab.recipe.sections import Distill
from r1lab.recipe.training import GrpoTrain
from tests.grpo.test_step import TINY, B, C, G, batch, loss_and_gradient

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.fixture(scope="module")
def tokenizer():
    return loading.load_tokenizer("embedded:tiny-qwen2")


class Rotary(torch.nn.Module):
    """Rotary embeddings in the precision of the model."""

    def forward(self, x, position_ids):
        size = TINY["hidden_size"] // TINY["num_attention_heads"]
        angles = position_ids[..., None].to(x.dtype) * 1e4 ** -(torch.arange(0, size, 2, dtype=x.dtype) / size)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()


def model(seed, size, dtype, **more):
    """A model that computes in one precision: transformers has rotary embeddings and norms in float32."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model("qwen2", vocab_size=size, **TINY | more, initializer_range=0.3)
    made = AutoModelForCausalLM.from_config(config).to(dtype)
    made.model.rotary_emb = Rotary()
    for name, _ in list(made.named_modules()):
        if name.endswith("norm"):
            parent, _, own = name.rpartition(".")
            made.get_submodule(parent).register_module(own, torch.nn.RMSNorm(config.hidden_size, 1e-6, dtype=dtype))
    return made


def student(tokenizer, dtype):
    return model(0, len(tokenizer), dtype)


def teacher(tokenizer, dtype):
    """Of another size, with a head that is larger by padding."""
    return model(1, len(tokenizer) + 5, dtype, hidden_size=64, num_attention_heads=8, num_hidden_layers=1)


def made(
    tokenizer,
    tmp_path,
    dtype=torch.float64,
    *,
    own=None,
    per_device=B // 2,
    train=None,
    by=None,
    peft=None,
    **settings,
):
    args = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=per_device, gradient_accumulation_steps=2,
        num_generations=G, max_completion_length=C, bf16=False, report_to="none", use_cpu=True,
        gradient_checkpointing=False, loss_type="dapo", temperature=0.9, **(train or {}),
    )  # fmt: skip
    trainer = DistillTrainer(
        model=student(tokenizer, dtype), teacher=by or teacher(tokenizer, dtype), settings=Distill(**settings),
        args=args, processing_class=tokenizer, reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=Dataset.from_dict({"prompt": ["a"] * B}), own=GrpoTrain(**(own or {})), peft_config=peft,
    )  # fmt: skip
    trainer.model.train().to(dtype)
    trainer.current_gradient_accumulation_steps = 2
    return trainer


def rollout(tokenizer, dtype):
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch(len(tokenizer)).items()}


def distributions(tokenizer, inputs, dtype, *, common=True):
    """Log-probabilities (B, C, V) of a student, with gradients, and the teacher, from whole padded rows.

    `common` leaves out the padding of the teacher's head.
    """
    ids, masks = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    ours, theirs = student(tokenizer, dtype), teacher(tokenizer, dtype)
    logits = [of(input_ids=ids, attention_mask=masks).logits[:, -C - 1 : -1] for of in (ours, theirs)]
    found = [(z[..., : len(tokenizer)] if common else z).div(0.9).log_softmax(-1) for z in logits]
    return ours, found[0], found[1].detach()


def mean(values, inputs):
    """`loss_type: dapo`: over all tokens."""
    return (values * inputs["completion_mask"]).sum() / inputs["num_items_in_batch"]


def gradient(of):
    return torch.cat([p.grad.flatten() for p in of.parameters() if p.grad is not None])


def agree(ours, theirs, dtype):
    assert (ours - theirs).norm() <= TOLERANCE[dtype] * theirs.norm()
    assert theirs.norm() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("beta", [1.0, 0.0, 0.4])
def test_exact_gradient_is_autograds(tokenizer, tmp_path, dtype, pack, beta):
    trainer = made(tokenizer, tmp_path, dtype, own={"pack": pack}, beta=beta)
    assert trainer.packs == pack
    inputs = rollout(tokenizer, dtype)
    loss, found = loss_and_gradient(trainer, inputs)
    plain, log_p, log_q = distributions(tokenizer, inputs, dtype)
    whole = mean(divergence(log_p, log_q, beta), inputs)
    whole.backward()
    agree(found, gradient(plain), dtype)
    assert loss == pytest.approx(whole.item(), rel=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("pack", [True, False])
def test_sampled_gradient_is_that_of_an_advantage_per_token(tokenizer, tmp_path, pack):
    trainer = made(tokenizer, tmp_path, own={"pack": pack}, exact=False)
    inputs = rollout(tokenizer, torch.float64)
    _, found = loss_and_gradient(trainer, inputs)
    plain, log_p, log_q = distributions(tokenizer, inputs, torch.float64, common=False)
    ours, theirs = (x.gather(-1, inputs["completion_ids"][..., None]).squeeze(-1) for x in (log_p, log_q))
    (-mean((theirs - ours.detach()) * ours, inputs)).backward()
    agree(found, gradient(plain), torch.float64 if pack else torch.float32)  # TRL's own head is in float32


def test_a_teacher_behind_a_server_gives_the_same_sampled_gradient(tokenizer, tmp_path):
    inputs = rollout(tokenizer, torch.float64)
    _, expected = loss_and_gradient(made(tokenizer, tmp_path, exact=False), dict(inputs))
    _, _, log_q = distributions(tokenizer, inputs, torch.float64, common=False)
    theirs = log_q.gather(-1, inputs["completion_ids"][..., None]).squeeze(-1)
    trainer = made(tokenizer, tmp_path, exact=False, by=ServedTeacher("http://127.0.0.1:9/v1", "teacher"))
    _, found = loss_and_gradient(trainer, inputs | {"teacher_per_token_logps": theirs})
    agree(found, expected, torch.float64)


def test_the_sampled_gradient_is_the_exact_one_on_average():
    """For one token: the expectation over the student's own distribution of what a sample gives."""
    g = torch.Generator().manual_seed(0)
    z, log_q = torch.randn(7, generator=g).double().requires_grad_(), torch.randn(7, generator=g).double()
    log_p, log_q = z.log_softmax(-1), log_q.log_softmax(-1)
    [exact] = torch.autograd.grad(divergence(log_p, log_q, 1.0), z, retain_graph=True)
    each = [torch.autograd.grad(-(log_q - log_p.detach())[y] * log_p[y], z, retain_graph=True)[0] for y in range(7)]
    expected = sum(p * one for p, one in zip(log_p.detach().exp(), each))
    torch.testing.assert_close(expected, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("exact", [True, False])
def test_rewards_are_added_by_weight(tokenizer, tmp_path, exact):
    inputs = rollout(tokenizer, torch.float64)
    found = [
        loss_and_gradient(made(tokenizer, tmp_path, exact=exact, reward_weight=weight), dict(inputs))[1]
        for weight in (0.0, 1.0, 3.0)
    ]
    plain, log_p, _ = distributions(tokenizer, inputs, torch.float64)
    logps = log_p.gather(-1, inputs["completion_ids"][..., None]).squeeze(-1)
    (-mean(inputs["advantages"][:, None] * logps, inputs)).backward()
    agree(found[1] - found[0], gradient(plain), torch.float64)
    agree(found[2] - found[0], 3 * gradient(plain), torch.float64)


def test_rewards_of_a_policy_that_has_moved_are_clipped_and_the_divergence_is_not(tokenizer, tmp_path):
    inputs = rollout(tokenizer, torch.float64)
    plain, log_p, log_q = distributions(tokenizer, inputs, torch.float64)
    logps = log_p.gather(-1, inputs["completion_ids"][..., None]).squeeze(-1)
    inputs["old_per_token_logps"] = logps.detach() + 0.5 * torch.randn(B, C, dtype=torch.float64)
    trainer = made(tokenizer, tmp_path, reward_weight=2.0)
    _, found = loss_and_gradient(trainer, dict(inputs))
    ratios, advantages = (logps - inputs["old_per_token_logps"]).exp(), inputs["advantages"][:, None]
    rewarded = -torch.min(ratios * advantages, ratios.clamp(0.8, 1.2) * advantages)
    mean(divergence(log_p, log_q, 1.0) + 2 * rewarded, inputs).backward()
    agree(found, gradient(plain), torch.float64)
    outside = ((ratios < 0.8) & (advantages < 0)) | ((ratios > 1.2) & (advantages > 0))
    share = outside[inputs["completion_mask"].bool()].double().mean().item()
    trainer.log({"loss": 0.0})
    assert trainer.state.log_history[-1]["clip_ratio/region_mean"] == pytest.approx(share) and 0.1 < share < 0.9


def test_kl_by_position_is_that_of_the_sampled_tokens(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("r1lab.grpo.distillation.FIRST", 4)
    trainer = made(tokenizer, tmp_path)
    inputs = rollout(tokenizer, torch.float64)
    loss_and_gradient(trainer, inputs)
    logs: dict[str, float] = {"loss": 0.0}
    trainer.log(logs)
    _, log_p, log_q = distributions(tokenizer, inputs, torch.float64)
    ours, theirs = (x.gather(-1, inputs["completion_ids"][..., None]).squeeze(-1) for x in (log_p, log_q))
    mask = inputs["completion_mask"].bool()
    for first, end in ((0, 4), (4, 8), (8, 16)):
        part = mask.clone()
        part[:, :first] = part[:, end:] = False
        assert logs[f"teacher/kl/{first}"] == pytest.approx((ours - theirs)[part].mean().item())
    assert logs["teacher/kl"] == pytest.approx((ours - theirs)[mask].mean().item())
    assert logs["teacher/divergence"] == pytest.approx(divergence(log_p, log_q, 1.0)[mask].mean().item())
    assert FIRST == 16 and not trainer._sums.any()


@pytest.fixture(scope="module")
def adapter(tokenizer, tmp_path_factory):
    """The folder of an adapter of the student's base, on other layers than the student's, with dropout."""
    folder = tmp_path_factory.mktemp("adapter")
    settings = LoraConfig(r=3, target_modules=["q_proj", "up_proj"], lora_dropout=0.5, task_type="CAUSAL_LM")
    adapted = random_adapter(get_peft_model(student(tokenizer, torch.float32), settings), 3)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def random_adapter(of, seed):
    torch.manual_seed(seed)
    for parameter in of.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    return of


def with_adapter(tokenizer, tmp_path, by, **more):
    """A trainer whose student has an adapter of its own, on a part of the layers of `adapter` and others."""
    peft = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    trainer = made(tokenizer, tmp_path, torch.float32, by=by, peft=peft, **more)
    random_adapter(trainer.model, 4)
    return trainer


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("pack", [True, False])
def test_a_teacher_on_the_students_base_is_the_same_teacher_merged(tokenizer, tmp_path, adapter, exact, pack):
    merged = PeftModel.from_pretrained(student(tokenizer, torch.float32), adapter).merge_and_unload()
    inputs, more = rollout(tokenizer, torch.float32), {"exact": exact, "own": {"pack": pack}}
    shared, second = (with_adapter(tokenizer, tmp_path, by, **more) for by in (adapter, merged))
    assert shared.packs == second.packs == pack
    (loss, found), (other, expected) = (loss_and_gradient(one, dict(inputs)) for one in (shared, second))
    assert loss == pytest.approx(other, rel=1e-4 if exact else 1e-3)
    agree(found, expected, torch.float32)
    trained = {name for name, p in shared.model.named_parameters() if p.grad is not None}
    assert trained == {name for name, p in second.model.named_parameters() if p.grad is not None}
    assert trained and all(".default." in name for name in trained)
    assert {name for name, p in shared.model.named_parameters() if p.requires_grad} == trained

    logs: list[dict[str, float]] = [{"loss": 0.0}, {"loss": 0.0}]
    for one, row in zip((shared, second), logs):
        one.log(row)
    assert logs[0]["teacher/kl"] == pytest.approx(logs[1]["teacher/kl"], rel=1e-4)
    assert abs(logs[0]["teacher/kl"]) > 1e-3, "the teacher is another model than the student"


def test_the_students_adapter_is_the_active_one_but_for_the_teachers_pass(tokenizer, tmp_path, adapter):
    trainer = with_adapter(tokenizer, tmp_path, adapter)
    ids = rollout(tokenizer, torch.float32)["completion_ids"][:2]
    before = trainer.model(input_ids=ids).logits.detach()
    with trainer.asked() as teacher:
        assert not teacher.training
        first, second = (teacher(input_ids=ids).logits for _ in range(2))
        assert torch.equal(first, second) and not first.requires_grad, "the dropout of its adapter is off"
        assert (first - before).abs().max() > 0.1
    assert trainer.model.training and torch.equal(trainer.model(input_ids=ids).logits, before)


def test_an_adapter_on_the_head_is_refused(tokenizer, tmp_path):
    settings = LoraConfig(r=3, target_modules=r".*(q_proj|lm_head)", task_type="CAUSAL_LM")
    get_peft_model(student(tokenizer, torch.float32), settings).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="changes the head of the base: remove share_base"):
        with_adapter(tokenizer, tmp_path, tmp_path / "adapter")


@pytest.mark.slow
def test_two_ranks_have_the_gradient_of_one(tmp_path):
    """In float64: each of two processes has half of the groups, and their gradients are averaged by DDP."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", __name__]
    root = Path(__file__).parents[2]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr[-3000:]
    vocabulary = loading.load_tokenizer("embedded:tiny-qwen2")
    inputs = rollout(vocabulary, torch.float64)
    plain, log_p, log_q = distributions(vocabulary, inputs, torch.float64)
    mean(divergence(log_p, log_q, 1.0), inputs).backward()
    for pack in (True, False):
        for rank in (0, 1):
            agree(torch.load(tmp_path / f"{pack}-{rank}.pt"), gradient(plain), torch.float64)


def _rank(folder):
    """The gradient of a rank's half of the batch, after DDP has averaged it."""
    tokenizer = loading.load_tokenizer("embedded:tiny-qwen2")
    for pack in (True, False):
        trainer = made(tokenizer, folder, own={"pack": pack}, per_device=B // 4)
        accelerator, whole = trainer.accelerator, rollout(tokenizer, torch.float64)
        half = slice(accelerator.process_index * B // 2, (accelerator.process_index + 1) * B // 2)
        inputs = {k: v[half] if v.dim() else v for k, v in whole.items()}
        wrapped = accelerator.prepare_model(trainer.model)
        micro_steps = batches.micro_steps(trainer, inputs)
        for number, part in enumerate(micro_steps):
            accelerator.gradient_state._set_sync_gradients(number == len(micro_steps) - 1)
            with accelerator.no_sync(wrapped) if number < len(micro_steps) - 1 else torch.enable_grad():
                trainer.compute_loss(wrapped, part).backward()
        torch.save(gradient(trainer.model), f"{folder}/{pack}-{accelerator.process_index}.pt")


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    _rank(sys.argv[1])
    torch.distributed.destroy_process_group()  # or the threads of gloo may end the process with SIGABRT
