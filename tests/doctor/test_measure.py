"""`r1lab doctor --measure`."""

import json
import subprocess
import sys

import pytest

from r1lab import hardware
from r1lab.doctor import measure, rates

RATES = rates.Rates(
    machine="two cores", time="2026-11-29", float32=2e11, bfloat16=1e11, copy=4e10, importing=6.0, engine="vllm",
    start=9.0, step=0.004, generating=8000.0, training=10_000.0,
)  # fmt: skip


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A measurement that prints `RATES`, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = subprocess.CompletedProcess([], 0, json.dumps(vars(RATES)), "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(hardware, "busy", lambda: False)
    return done


def test_rates_are_kept_and_described(measured):
    finding = measure.measure()
    assert finding.verdict == "ok"
    assert "200 GFLOP/s in float32" in finding.seen and "8,000 tokens/s generated" in finding.seen
    assert json.loads(rates.file().read_text())["step"] == 0.004


def test_rates_of_a_busy_machine_are_not_kept(measured, monkeypatch):
    monkeypatch.setattr(hardware, "busy", lambda: True)
    finding = measure.measure()
    assert finding.verdict == "warning" and "not kept" in finding.seen
    assert not rates.file().exists()


def test_a_measurement_that_fails_says_why(measured):
    measured.returncode, measured.stdout, measured.stderr = 1, "", "Traceback\nImportError: no torch\n"
    finding = measure.measure()
    assert finding.verdict == "error" and "ImportError: no torch" in finding.seen


@pytest.mark.slow
def test_it_measures(tmp_path):
    done = subprocess.run([sys.executable, "-m", "r1lab.doctor.measure"], capture_output=True, text=True, check=True)
    found = rates.Rates(**json.loads(done.stdout))
    assert all(value > 0 for value in vars(found).values() if isinstance(value, float))
