"""Rewards for TRL's trainer that keep every completion with its scores and reasons."""

from collections import Counter
from pathlib import Path

from accelerate.utils import gather_object

from r1lab import rundir


def reward_functions(grader, rows: list[dict], run_dir: Path, rank: int = 0) -> tuple[list, dict]:
    """One function for TRL per reward of the grader, and the newest batch's figures over all ranks.

    TRL calls the functions in their order on each batch: the first grades the batch and writes it to `samples/`, the
    others hand out their share. Rows are found by the dataset's `row` column. The figures are those of
    `Graded.figures`, of the last batch graded.
    """
    newest, figures = {}, {}

    def grade(prompts, completions, completion_ids, row, trainer_state, **_):
        batch = [rows[i] for i in row]
        result = grader.grade(completions, batch, completion_ids=completion_ids)
        newest["result"] = result
        step = trainer_state.global_step + 1
        suffix = f".rank{rank}" if rank else ""
        path = run_dir / "samples" / f"step_{step:06d}{suffix}.jsonl"
        rundir.write_jsonl(path, result.records(batch, step=step))
        result.stop_if_failed(batch, path)
        figures.update(merged_figures(gather_object([result.figures()])))
        return result.values[grader.names[0]]

    def hand_out(name):
        def function(prompts, **_):
            return newest["result"].values[name]

        function.__name__ = name
        return function

    grade.__name__ = grader.names[0]
    return [grade] + [hand_out(name) for name in grader.names[1:]], figures


def merged_figures(ranks: list[dict]) -> dict:
    """The share of None and the reasons of each reward over all ranks, whose batches are equally large.

    >>> merged_figures([{"a": {"none": 0.5, "reasons": {"wrong": 1}}}, {"a": {"none": 0.0, "reasons": {"wrong": 2}}}])
    {'a': {'none': 0.25, 'reasons': {'wrong': 3}}}
    """
    return {
        name: {
            "none": sum(rank[name]["none"] for rank in ranks) / len(ranks),
            "reasons": dict(sum((Counter(rank[name]["reasons"]) for rank in ranks), Counter()).most_common()),
        }
        for name in ranks[0]
    }
