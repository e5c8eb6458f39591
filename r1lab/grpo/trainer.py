"""TRL's GRPOTrainer with r1lab's vLLM sync, and rewards that keep every completion with its scores and reasons."""

from collections import Counter
from pathlib import Path
from unittest.mock import patch

import trl
from accelerate.utils import gather_object
from trl.trainer import grpo_trainer

from r1lab import rundir


class GRPOTrainer(trl.GRPOTrainer):
    """TRL's trainer on prompts that `r1lab.prompts.render` has already turned into text."""

    def __init__(self, *args, **kwargs):
        config = kwargs["args"]
        if not config.use_vllm:
            super().__init__(*args, **kwargs)
            return
        from r1lab.engines.vllm import SyncedVLLM

        with patch.object(grpo_trainer, "VLLMGeneration", SyncedVLLM):
            super().__init__(*args, **kwargs)

    def _tokenize_prompts(self, prompts):
        # The chat template has written the special tokens already; TRL would add a second beginning-of-text.
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}

    def engine(self):
        """The engine that generates the rollouts, holding the current weights."""
        if self.use_vllm:
            from r1lab.engines.vllm import VLLMEngine

            if self.state.global_step != self._last_loaded_step:
                self.vllm_generation.sync_weights()
                self._last_loaded_step = self.state.global_step
            return VLLMEngine(self.vllm_generation.llm)
        from r1lab.engines.transformers import TransformersEngine

        return TransformersEngine(self.accelerator.unwrap_model(self.model), self.processing_class)


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
