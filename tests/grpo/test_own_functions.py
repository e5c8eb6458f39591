"""Advantages and losses of a user's own: TRL's where they write its formula, and refused in one line where wrong."""

import pytest
import torch
import trl

from r1lab.errors import UserError
from r1lab.grpo.advantages import advantages
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.recipe import loading, trial
from tests.grpo.test_step import agree, batch, loss_and_gradient, tokenizer, trainer  # noqa: F401

MINE = """
import torch

def clipped(*, ratios, advantages):
    return -torch.min(ratios * advantages, ratios.clamp(0.8, 1.2) * advantages)

def pull(*, logps, mask, **more):
    return logps * mask

def mean_only(rewards):
    return rewards - rewards.nanmean(dim=1, keepdim=True)

def typing_error(*, logp):
    return logp

def of_rows(*, logps):
    return logps.sum(dim=1)

def without_gradient(*, logps, advantages):
    return logps.detach() * advantages

def number(rewards):
    return 0.5

def transposed(rewards):
    return rewards.T

def no_arguments():
    pass

def raises(rewards):
    return rewards / {}
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return lambda name: f"{tmp_path}/mine.py:{name}"


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize("more", [{}, {"beta": 0.04}, {"importance_sampling_level": "sequence"}])
@pytest.mark.parametrize("pack", [True, False])
def test_a_loss_that_writes_trls_formula_has_its_value_and_gradient(tokenizer, tmp_path, mine, loss_type, more, pack):  # noqa: F811
    inputs = batch(len(tokenizer), beta=more.get("beta", 0), off_policy=True)
    settings = {"loss_type": loss_type, **more}
    ours = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", {"loss": mine("clipped"), "pack": pack}, **settings)
    theirs = trainer(trl.GRPOTrainer, tokenizer, tmp_path, "qwen2", **settings)
    assert ours.packs == pack
    agree(loss_and_gradient(ours, inputs), loss_and_gradient(theirs, inputs))


def test_a_loss_of_ones_own_is_on_policy_where_there_are_no_old_log_probabilities(tokenizer, tmp_path, mine):  # noqa: F811
    inputs = batch(len(tokenizer))
    ours = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", {"loss": mine("clipped")}, loss_type="dapo")
    theirs = trainer(trl.GRPOTrainer, tokenizer, tmp_path, "qwen2", loss_type="dapo")
    agree(loss_and_gradient(ours, inputs), loss_and_gradient(theirs, inputs))


def test_a_loss_of_ones_own_sees_rows_without_a_signal_too(tokenizer, tmp_path, mine):  # noqa: F811
    inputs = batch(len(tokenizer)) | {"advantages": torch.zeros(16)}
    ours = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", {"loss": mine("pull")}, loss_type="dapo")
    loss, gradient = loss_and_gradient(ours, inputs)
    assert loss < -1 and gradient.norm() > 0


def test_advantages_of_ones_own(mine):
    rewards = torch.tensor([1.0, 0.0, torch.nan, 0.5])
    assert torch.equal(advantages(rewards, 2, mine("mean_only")), advantages(rewards, 2, "dr_grpo"))


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        ("advantage", "number", r"should take one tensor .* it returns float"),
        ("advantage", "transposed", r"it returns \(3, 2\) for \(2, 3\)"),
        ("advantage", "no_arguments", r"write `def no_arguments\(rewards\):`"),
        ("advantage", "raises", "raises an exception on a tiny input: TypeError"),
        ("advantage", "missing", "has no function missing"),
        ("loss", "typing_error", r"unknown argument `logp` \(did you mean `logps`\?\)"),
        ("loss", "of_rows", r"it returns \(2,\) for \(2, 3\)"),
        ("loss", "without_gradient", "has no gradient"),
    ],
)
def test_what_is_wrong_with_a_function_is_said_before_the_run_in_one_line(tmp_path, mine, key, name, said):
    import re

    (tmp_path / "r.yaml").write_text(
        "{stage: grpo, model: {path: embedded:tiny-qwen2}, data: {builder: arithmetic}, "
        "rewards: [{name: exact_match}],"
        f' train: {{{key}: "./mine.py:{name}", max_steps: 2}}}}'
    )
    with pytest.raises(UserError) as error:
        loading.load([str(tmp_path / "r.yaml")], inputs=True)
    (line,) = error.value.problems
    assert line.startswith(f"{tmp_path}/r.yaml:1: train.{key}: ") and re.search(said, line) and "\n" not in line
    with pytest.raises(UserError):
        getattr(trial, key)(mine(name))


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("advantage: rlo", "train.advantage: rlo: no such choice (did you mean `rloo`?); write ./mine.py:function"),
        ("loss: clipped", "train.loss: clipped: not a function; write ./mine.py:function for your own"),
        ("loss: mine.py:f, loss_type: sapo", "train.loss_type: sapo: train.loss replaces this formula"),
        ("loss: mine.py:f, epsilon: 0.1", "train.epsilon: belongs to TRL's formula"),
    ],
)
def test_names_and_settings_that_contradict_each_other(tmp_path, train, said):
    (tmp_path / "r.yaml").write_text(
        "{stage: grpo, model: {path: embedded:tiny-qwen2}, data: {builder: arithmetic}, "
        "rewards: [{name: exact_match}],"
        f" train: {{{train}, max_steps: 2}}}}"
    )
    with pytest.raises(UserError) as error:
        loading.load([str(tmp_path / "r.yaml")])
    assert [said in line for line in error.value.problems] == [True]


def test_the_engines_importance_correction_holds_for_a_loss_of_ones_own(tokenizer, tmp_path, mine):  # noqa: F811
    noise = 0.3 * torch.randn(16, 14, generator=torch.Generator().manual_seed(2))
    inputs = batch(len(tokenizer)) | {"sampling_per_token_logps": -6.6 + noise}
    found = []
    for own in ({"loss": mine("clipped")}, {}):
        made = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", own, loss_type="dapo")
        made.use_vllm = True  # of which the step sees nothing but the log-probabilities
        found.append(loss_and_gradient(made, inputs))
        assert made._metrics["train"]["sampling/importance_sampling_ratio/mean"]
    agree(*found)
    plain = trainer(GRPOTrainer, tokenizer, tmp_path, "qwen2", {"loss": mine("clipped")}, loss_type="dapo")
    assert abs(loss_and_gradient(plain, inputs)[0] - found[0][0]) > 1e-4
