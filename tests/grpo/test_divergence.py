"""Divergences over the whole vocabulary in chunks are those of plain autograd, and TRL's, and cost little memory."""

import subprocess
import sys

import pytest
import torch

from r1lab.grpo import head
from r1lab.grpo.divergence import Head, compare, divergence, keep_head

N, H, V = 13, 8, 40
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def made(dtype, *, bias=False, larger=0):
    g = torch.Generator().manual_seed(0)
    student = [torch.randn(n, H, generator=g, dtype=dtype) for n in (N, V)]
    student += [torch.randn(V, generator=g, dtype=dtype)] if bias else []
    theirs = torch.randn(N, 2 * H, generator=g, dtype=dtype), torch.randn(V + larger, 2 * H, generator=g, dtype=dtype)
    targets, pulls = torch.randint(0, V, (N,), generator=g), torch.randn(2, N, generator=g, dtype=dtype)
    return student, theirs, targets, pulls


def gradients(student, teacher, targets, pulls, **settings):
    leaves = [x.clone().requires_grad_() for x in student]
    hidden, weight, *bias = leaves
    found = compare(hidden, weight, bias[0] if bias else None, targets, teacher=teacher, **settings)
    (found.divergences * pulls[0] + found.logps * pulls[1]).sum().backward()
    return [*found, *[x.grad for x in leaves]]


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("chunk", [1, 2000, 10**9])
@pytest.mark.parametrize("more", [{}, {"temperature": 0.7}, {"softcap": 5.0}, {"bias": True}])
def test_values_and_gradients(monkeypatch, beta, dtype, chunk, more):
    monkeypatch.setattr(head, "CHUNK_BYTES", chunk)
    more = dict(more)
    student, theirs, targets, pulls = made(dtype, bias=more.pop("bias", False))
    teacher = Head(*theirs, None, 3.0)
    ours, plain = (
        gradients(student, teacher, targets, pulls, beta=beta, chunked=chunked, **more) for chunked in (True, False)
    )
    for x, y in zip(ours, plain):
        assert (x - y).norm() <= TOLERANCE[dtype] * y.norm()
        assert y.norm() > 0


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_is_trls_divergence(beta):
    from trl.experimental.gkd import GKDTrainer

    g = torch.Generator().manual_seed(0)
    p, q = (3 * torch.randn(1, N, V, generator=g, dtype=torch.float64) for _ in range(2))
    theirs = GKDTrainer.generalized_jsd_loss(p, q, beta=beta, temperature=0.8, reduction="none").sum(-1)
    ours = divergence((p / 0.8).log_softmax(-1), (q / 0.8).log_softmax(-1), beta)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_ends_are_the_two_kls_and_the_middle_approaches_them():
    p, q = torch.tensor([0.2, 0.8], dtype=torch.float64), torch.tensor([0.6, 0.4], dtype=torch.float64)
    assert divergence(p.log(), q.log(), 1.0).item() == pytest.approx((p * (p / q).log()).sum().item())
    assert divergence(p.log(), q.log(), 0.0).item() == pytest.approx((q * (q / p).log()).sum().item())
    for beta, end in ((1e-6, 0.0), (1 - 1e-6, 1.0)):
        scaled = divergence(p.log(), q.log(), beta) / min(beta, 1 - beta)
        assert scaled.item() == pytest.approx(divergence(p.log(), q.log(), end).item(), rel=1e-4)


def test_a_student_that_is_the_teacher_has_no_gradient():
    student, _, targets, _ = made(torch.float64)
    for beta in (0.0, 0.3, 1.0):
        same = Head(*student, None, None)
        hidden, weight = (x.clone().requires_grad_() for x in student)
        found = compare(hidden, weight, None, targets, teacher=same, beta=beta)
        found.divergences.sum().backward()
        assert found.divergences.abs().max() < 1e-12 and weight.grad.abs().max() < 1e-12
        assert torch.equal(found.logps, found.teacher_logps)


def test_a_head_that_is_larger_by_padding_is_cut_to_the_other():
    student, theirs, targets, pulls = made(torch.float64, larger=3)
    hidden, weight = theirs
    found = gradients(student, Head(hidden, weight, None, None), targets, pulls)
    cut = gradients(student, Head(hidden, weight[:V], None, None), targets, pulls)
    assert all(torch.equal(x, y) for x, y in zip(found, cut))


def test_a_copied_head_outlives_the_weights():
    student, _, targets, _ = made(torch.float32)
    kept = keep_head(*student, None, targets, copy=True)
    before = kept.weight.clone()
    student[1].zero_()
    assert torch.equal(kept.weight, before)


def test_bfloat16_sums_in_float32():
    g = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 16, generator=g).bfloat16().requires_grad_() for n in (64, 300))
    teacher = Head(*(torch.randn(n, 16, generator=g).bfloat16() for n in (64, 300)), None, None)
    targets = torch.randint(0, 300, (64,), generator=g)
    found = compare(hidden, weight, None, targets, teacher=teacher)
    assert all(values.dtype == torch.float32 for values in found)
    found.divergences.sum().backward()
    wide = [x.detach().float().requires_grad_() for x in (hidden, weight)]
    theirs = Head(teacher.hidden.float(), teacher.weight.float(), None, None)
    compare(*wide, None, targets, teacher=theirs, chunked=False).divergences.sum().backward()
    for low, high in zip((hidden, weight), wide):
        assert (low.grad.float() - high.grad).norm() < 0.02 * high.grad.norm()


MEMORY = """
import resource, torch
from r1lab.grpo import head
from r1lab.grpo.divergence import Head, compare
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
head.CHUNK_BYTES = 2**23
hidden = torch.randn(1024, 32, requires_grad=True)
weight = torch.randn(151_936, 32, requires_grad=True)
teacher = Head(torch.randn(1024, 32), torch.randn(151_936, 32), None, None)
targets = torch.randint(0, 151_936, (1024,))
some = teacher._replace(hidden=teacher.hidden[:8])
compare(hidden[:8], weight, None, targets[:8], teacher=some).divergences.sum().backward()
before = peak()
compare(hidden, weight, None, targets, teacher=teacher).divergences.sum().backward()
print(peak() - before)
"""


@pytest.mark.slow
def test_the_logits_of_all_tokens_never_exist_at_once():
    """In chunks of 8 MiB; the logits of both models as a whole would be 1.2 GiB, more with their gradient."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.3
