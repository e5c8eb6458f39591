"""A processor that only emulates bfloat16: `auto` is float32, and doctor, check and plan say so."""

import pytest
import torch

from r1lab.check.settings import setting_findings
from r1lab.doctor import machine
from r1lab.models import loading
from r1lab.plan import gpus, stages
from r1lab.plan.lengths import Lengths
from r1lab.recipe import loading as recipes

X86 = "processor\t: 0\nflags\t\t: fpu avx2 avx512f {}\nbugs\t\t:\n"
TEXT = """
stage: sft
name: s
model: {path: embedded:tiny-qwen2}
data: {builder: knights_knaves, people: 2, size: 8, solution: evaluation}
"""


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    """Sets what `/proc/cpuinfo` says of a machine without a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(loading, "CPUINFO", tmp_path / "cpuinfo")
    return (tmp_path / "cpuinfo").write_text


@pytest.mark.parametrize(
    "text, emulates",
    [(X86.format(""), True), (X86.format("avx512_bf16"), False), (X86.format("amx_bf16 amx_tile"), False),
     ("Features\t: fp asimd bf16\n", False), ("Features\t: fp asimd\n", True), ("Apple\n", False)],
)  # fmt: skip
def test_a_processor_tells_whether_it_computes_in_bfloat16(cpuinfo, text, emulates):
    cpuinfo(text)
    assert loading.emulates_bfloat16() == loading.cpu_emulates_bfloat16() == emulates
    assert loading.torch_dtype("auto") == torch.float32
    assert ("only emulates" in machine.bfloat16().seen) == emulates
    assert gpus.cpu().bfloat16 == (not emulates)


@pytest.mark.parametrize("computes", [True, False])
def test_auto_is_bfloat16_on_a_gpu_that_computes_in_it(monkeypatch, computes):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: computes)
    assert loading.torch_dtype("auto") == (torch.bfloat16 if computes else torch.float32)


def test_a_machine_that_does_not_tell_is_taken_to_compute(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "CPUINFO", tmp_path / "missing")
    assert loading.cpu_emulates_bfloat16() is False


@pytest.mark.parametrize(
    "settings, verdicts, said",
    [
        ([], ["ok"], "dtype auto resolves to float32"),
        (["model.dtype=float32"], [], ""),
        (["model.dtype=bfloat16"], ["warning"], "many times as long"),
        (["model.dtype=bfloat16", "train.bf16=true"], ["warning", "warning"], "many times as long"),
    ],
)
def test_the_check_says_so(cpuinfo, tmp_path, settings, verdicts, said):
    (tmp_path / "r.yaml").write_text(TEXT)
    loaded = recipes.load([str(tmp_path / "r.yaml"), *settings])
    cpuinfo(X86.format(""))
    found = [finding for finding in setting_findings(loaded) if "bfloat16" in finding.seen]
    assert [finding.verdict for finding in found] == verdicts
    assert all(said in finding.seen for finding in found)
    cpuinfo(X86.format("avx512_bf16"))
    assert not [finding for finding in setting_findings(loaded) if "bfloat16" in finding.seen]


@pytest.mark.parametrize(
    "settings, said",
    [
        ([], "model.dtype auto is float32, because bfloat16 is only emulated on"),
        (["model.dtype=bfloat16"], "many times slower than planned"),
    ],
)
def test_the_plan_says_so(cpuinfo, tmp_path, settings, said):
    (tmp_path / "r.yaml").write_text(TEXT)
    loaded = recipes.load([str(tmp_path / "r.yaml"), *settings])
    for flag, says in (("", True), ("amx_bf16", False)):
        cpuinfo(X86.format(flag))
        found = Lengths(prompt=20, whole=60, mean=50, rows=8)
        plan = stages.plan_stage("s", loaded, device=gpus.cpu(), start=loaded.model.path, found=found, judges={})
        assert any(said in line for line in plan.assumed) == says
