"""Signals during a training, and files of the current folder that have a library's name."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from r1lab.stages.training import StopOnInterrupt

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_the_step_and_the_handlers_before_it_are_back_afterwards(number, tmp_path):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("this signal is ignored here, as SIGHUP is under nohup")
    before = [signal.getsignal(n) for n in NUMBERS]
    with StopOnInterrupt(tmp_path) as stop:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGHUP)  # a dropped connection often gives two
        assert stop.interrupted
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(n) for n in NUMBERS] == before


def test_handlers_are_back_after_an_error_too(tmp_path):
    before = [signal.getsignal(n) for n in NUMBERS]
    with pytest.raises(ValueError), StopOnInterrupt(tmp_path):
        raise ValueError
    assert [signal.getsignal(n) for n in NUMBERS] == before


def test_nohup_is_respected(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopOnInterrupt(tmp_path) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.interrupted
    finally:
        signal.signal(signal.SIGHUP, before)


RECIPE = """
stage: sft
name: s
model: {path: "embedded:tiny-qwen2"}
data: {builder: "./mine.py:build"}
train: {max_steps: 1, per_device_train_batch_size: 2, learning_rate: 1.0e-4}
"""
MINE = """
import beside
from helper import text

def build():
    return [{"prompt": text, "completion": "yes"}] * 4
"""


@pytest.mark.slow
def test_files_with_the_names_of_libraries_do_no_harm_and_own_modules_are_found(tmp_path):
    for name in ("datasets", "transformers", "torch", "yaml", "types"):
        (tmp_path / f"{name}.py").write_text("raise SystemError('a file of the user, not the library')")
    (tmp_path / "s.yaml").write_text(RECIPE)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "helper.py").write_text("text = 'Is it?'")
    (tmp_path / "beside.py").write_text("")
    done = subprocess.run(
        [Path(sys.executable).parent / "r1lab", "run", "s.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    log = tmp_path / "runs" / "s" / "log.txt"
    assert done.returncode == 0, done.stderr + done.stdout + (log.read_text()[-2000:] if log.is_file() else "")
