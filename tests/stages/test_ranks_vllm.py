"""vLLM in each of two ranks generates with the policy that is sharded over both."""

import pytest

from r1lab.rundir import storage
from tests.stages.several_ranks import logs, prepared, sharded, train_rows

pytest.importorskip("vllm")


@pytest.mark.slow
def test_vllm_gets_the_merged_weights_of_sharded_adapters(start, base, tmp_path):
    rollout = {
        "engine": "vllm", "num_generations": 4, "max_completion_length": 6, "gpu_memory_utilization": 0.1,
        "options": {"enforce_eager": True},
    }  # fmt: skip
    model = {"path": "embedded:tiny-qwen2", "dtype": "float32", "lora": {"r": 4}}  # vLLM's kernels need its size
    train = {"learning_rate": 3e-2}
    run_dir = prepared(
        base, tmp_path / "run", "grpo-lora", 2, strategy="fsdp2", train=train, rollout=rollout, model=model
    )
    assert start(2, [run_dir], VLLM_CPU_KVCACHE_SPACE="1") == [0, 0], logs(run_dir)
    assert sharded(run_dir)
    (parity,) = [row for row in storage.read_jsonl(run_dir / "metrics.jsonl") if row["phase"] == "parity"]
    assert parity["mean"] < 1e-4
    # The adapters are zero in the first step, and move far with this learning rate.
    assert [row["drift"] < 1e-4 for row in train_rows(run_dir)] == [True] * 3
    assert [(row["ratio_truncated"], row["ratio_clipped"]) for row in train_rows(run_dir)] == [(0.0, 0.0)] * 3
