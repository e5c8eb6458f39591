"""What an engine lacks on this machine, reported before it starts."""

import pytest

from r1lab import engines
from r1lab.errors import UserError

pytest.importorskip("vllm")


@pytest.fixture
def without_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


@pytest.mark.parametrize("engine", ["vllm", "auto"])
def test_vllm_on_a_cpu_needs_a_compiler_and_says_so_before_it_starts(without_compiler, engine):
    with pytest.raises(UserError, match=r"rollout.engine: .* with g\+\+, which is not installed: apt-get"):
        engines.load("embedded:tiny-qwen2", engine=engine)


def test_another_compiler_counts_and_other_engines_need_none(without_compiler, tmp_path, monkeypatch):
    assert engines.missing("transformers") is None and engines.missing("server") is None
    (tmp_path / "mine").write_text("")
    (tmp_path / "mine").chmod(0o755)
    monkeypatch.setenv("CXX", "mine -O2")
    assert engines.missing("vllm") is None
    monkeypatch.setenv("CXX", "none-such")
    assert "with none-such, which is not installed" in engines.missing("vllm")[0]
