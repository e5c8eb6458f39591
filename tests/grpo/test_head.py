"""Log-probabilities in chunks are those of the whole logits, and cost little memory."""

import subprocess
import sys

import pytest
import torch

from r1lab.grpo import head


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 800, 10**9])
@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_values_and_gradients(monkeypatch, temperature, softcap, bias, chunk, entropy):
    monkeypatch.setattr(head, "CHUNK_BYTES", chunk)
    g = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 8, generator=g, dtype=torch.float64) for n in (13, 40))
    b = torch.randn(40, generator=g, dtype=torch.float64) if bias else None
    targets, pull = torch.randint(0, 40, (13,), generator=g), torch.randn(13, generator=g, dtype=torch.float64)
    found = []
    for chunked in (True, False):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight, b) if x is not None]
        h, w, *rest = leaves
        logps, entropies = head.token_logps(
            h, w, rest[0] if rest else None, targets, temperature=temperature, softcap=softcap, chunked=chunked
        )
        (logps * pull).sum().backward(retain_graph=True)
        if entropy:
            (entropies * pull * entropy).sum().backward()
        found.append([logps, entropies, *[x.grad for x in leaves]])
    for ours, plain in zip(*found):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


def test_bfloat16_sums_in_float32():
    g = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 16, generator=g).bfloat16().requires_grad_() for n in (64, 300))
    targets = torch.randint(0, 300, (64,), generator=g)
    logps, _ = head.token_logps(hidden, weight, None, targets)
    assert logps.dtype == torch.float32
    logps.sum().backward()
    wide = [x.detach().float().requires_grad_() for x in (hidden, weight)]
    head.token_logps(*wide, None, targets, chunked=False)[0].sum().backward()
    for low, high in zip((hidden, weight), wide):
        assert (low.grad.float() - high.grad).norm() < 0.01 * high.grad.norm()


MEMORY = """
import resource, torch
from r1lab.grpo.head import token_logps
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
hidden = torch.randn(16 * 1024, 32, requires_grad=True)
weight = torch.randn(151_936, 32, requires_grad=True)
targets = torch.randint(0, 151_936, (16 * 1024,))
token_logps(hidden[:8], weight, None, targets[:8])[0].sum().backward()
before = peak()
token_logps(hidden, weight, None, targets)[0].sum().backward()
print(peak() - before)
"""


@pytest.mark.slow
def test_a_large_vocabulary_costs_less_than_a_gibibyte():
    """16 completions of 1,024 tokens; the logits as a whole would be 9.3 GiB, twice that with their gradient."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.0
