"""Faults of real stages on two ranks, as benchmarks/faults.py causes them: each ends the run with one line that names
the rank, no process is left, and the run continues."""

import os

import pytest

from benchmarks import faults
from r1lab.rundir import storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_killed_rank_ends_the_run_which_continues_and_stops_by_ctrl_c_in_a_long_step(tmp_path, monkeypatch):
    faults.prepared(tmp_path)
    found = faults.caused(tmp_path, "killed", 4)
    assert found.status == 1 and not found.left
    (line,) = found.errors
    assert line.startswith("s: rank 1: killed by SIGKILL, possibly out of memory; last line of the log: ")
    monkeypatch.setattr(faults, "LONG", 3.0)
    found = faults.caused(tmp_path, "interrupted", faults.last_step(tmp_path) + 2, "--resume")
    assert found.status == 130 and not found.left
    (line,) = found.errors
    assert line.startswith("s: interrupted; to continue: ")
    run_dir = tmp_path / "runs" / "s"
    rows = storage.read_jsonl(run_dir / "metrics.jsonl")
    done = {row["step"] for row in rows if row["phase"] == "train"}
    assert done == set(range(1, max(done) + 1))
    (checkpoint,) = (run_dir / "checkpoints").glob(f"checkpoint-{max(done)}")
    assert {f"rng_state_{rank}.pth" for rank in (0, 1)} <= set(os.listdir(checkpoint))


def test_a_taken_port_is_an_error_and_a_stopped_rank_is_found_by_the_silence_of_all(tmp_path):
    faults.prepared(tmp_path)
    found = faults.caused(tmp_path, "port taken", 0)
    assert found.status == 1 and not found.left
    (line,) = found.errors
    assert line.startswith("s: rank 0: failed: ") and "address already in use" in line
    found = faults.caused(tmp_path, "stopped", 2, "--resume")
    assert found.status == 1 and not found.left
    (line,) = found.errors
    assert line.startswith(
        "s: no rank has shown a sign of life for 20 s (launch.timeout): rank 1: stopped by a signal"
    )
    stack = (tmp_path / "runs" / "s" / "ranks" / "0.stack").read_text()
    assert "rank 0: " in line and "r1lab/stages/grpo.py" in stack


def test_an_error_of_one_rank_is_reported_as_its_own(tmp_path):
    found = faults.caused(faults.prepared(tmp_path), "error", 2)
    assert found.status == 1 and not found.left
    (line,) = found.errors
    assert line.startswith("s: rank 1: ") and "no such unit" in line


def test_a_rollout_server_that_fails_is_named_with_its_own_log_and_started_again(tmp_path):
    pytest.importorskip("vllm")
    patient = faults.SERVED.replace(f"timeout: {faults.TIMEOUT}", "timeout: 600")  # the machine may be busy
    faults.prepared(tmp_path, patient)
    found = faults.caused(tmp_path, "server raises, half", 2)
    assert found.status == 1 and not found.left
    (line,) = found.errors
    log = "runs/s/servers/0.log"
    assert line.startswith(f"s: no server took the weights: {log}: worker 0: RuntimeError: no memory left while half")
    assert ": continue with --resume, which starts them again" in line
    step = faults.last_step(tmp_path)
    found = faults.caused(tmp_path, "server killed, loading", step + 2, "--resume")
    assert found.status == 1 and not found.left and faults.last_step(tmp_path) >= step + 2
    (line,) = found.errors
    assert line.startswith(f"s: no server took the weights: {log}: the server was killed by SIGKILL, possibly out of ")
