"""A sharded model is gathered and saved as it was, also if it shares weights or has adapters."""

import subprocess
import sys

import pytest

from tests.pages import ROOT


@pytest.mark.slow
def test_a_model_sharded_over_two_ranks_is_gathered_and_loaded_as_it_was(tmp_path):
    command = [sys.executable, "-m", "tests.models.two_ranks", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
