"""A rank all of whose completions are masked takes part in the passes of the others, which wait for it."""

import pytest

from tests.stages.several_ranks import logs, prepared, train_rows


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_rank_without_a_scored_token_does_not_stop_the_others(start, base, tmp_path, strategy):
    launch = {"gpus": 2, "strategy": strategy, "timeout": 30}
    run_dir = prepared(base, tmp_path / "run", "grpo", 2, launch=launch, train={"beta": 0.01, "max_steps": 2})
    assert start(2, [run_dir], MASKED="1") == [0, 0], logs(run_dir)
    assert all(row["loss"] and row["grad_norm"] for row in train_rows(run_dir))
