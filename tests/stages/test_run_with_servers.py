"""`launch.rollout: server` in a stage that `r1lab run` starts: ranks and servers as processes of this machine."""

import subprocess
import sys

import psutil
import pytest

from r1lab.rundir import storage

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
RECIPE = """
stage: grpo
model: {path: "embedded:tiny-qwen2", dtype: float32}
data: {builder: knights_knaves, people: 2, size: 32}
prompt: {template: r1-zero}
rewards: [{name: knights_knaves}, {name: repetition, weight: 0.1}]
rollout:
  {num_generations: 4, max_completion_length: 32, options: {enforce_eager: true, max_num_seqs: 8}}
launch: {gpus: 2, rollout: server, timeout: 900}
train: {max_steps: 2, global_batch_size: 16, per_device_train_batch_size: 4, learning_rate: 1.0e-3}
"""


@pytest.mark.parametrize(
    "words", [["launch.gpus=3"], ["model.lora.r=4", "model.lora.target_modules=all-linear"]], ids=" ".join
)
def test_a_stage_with_servers(tmp_path, words):
    """The drift says that the servers have the weights, or the adapter, of each step."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "r1lab", "run", "--no-check", "r.yaml", "--runs-dir", "runs", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    run_dir = tmp_path / "runs" / "r"
    assert done.returncode == 0, done.stderr + (run_dir / "log.txt").read_text()[-3000:]
    rows = [row for row in storage.read_jsonl(run_dir / "metrics.jsonl") if row["phase"] == "train"]
    assert [row["step"] for row in rows] == [1, 2] and all(row["drift"] < 1e-4 for row in rows), rows
    assert any(row["grad_norm"] > 0 for row in rows)
    assert [file.name for file in (run_dir / "servers").iterdir()] == ["0.log"]
    files = (run_dir / "samples").glob("step_000001*.jsonl")  # one for each rank
    assert sum(len(storage.read_jsonl(file)) for file in files) == 16
    left = [p for p in psutil.process_iter(["cmdline"]) if str(run_dir) in " ".join(p.info["cmdline"] or [])]
    assert not left
