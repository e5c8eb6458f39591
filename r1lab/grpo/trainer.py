"""TRL's GRPOTrainer with r1lab's vLLM sync, and rewards that keep every completion with its scores and reasons."""

import math
import random
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import torch
import trl
from accelerate.utils import gather_object
from trl.trainer import grpo_trainer

from r1lab import rundir
from r1lab.grpo.logps import completion_logps

BY_TOKEN = (
    "completion_ids",
    "completion_mask",
    "old_per_token_logps",
    "ref_per_token_logps",
    "sampling_per_token_logps",
    "importance_sampling_ratio",
)


class GRPOTrainer(trl.GRPOTrainer):
    """TRL's trainer on prompts that `r1lab.prompts.render` has already turned into text."""

    def __init__(self, *args, **kwargs):
        config = kwargs["args"]
        if config.use_vllm:
            from r1lab.engines.vllm import SyncedVLLM

            with patch.object(grpo_trainer, "VLLMGeneration", SyncedVLLM):
                super().__init__(*args, **kwargs)
        else:
            super().__init__(*args, **kwargs)
        # Rows of no advantage have no gradient, unless something beside the advantage pulls at them.
        self.skips_no_signal = self.beta == 0 and not self._entropy_bonus_enabled and self.top_entropy_quantile == 1
        # One update a rollout: the policy of the training pass is still the one that the engine sampled from.
        every = config.steps_per_generation * self.num_iterations
        self.on_policy = config.gradient_accumulation_steps % every == 0
        self._computed = None

    def _tokenize_prompts(self, prompts):
        # The chat template has written the special tokens already; TRL would add a second beginning-of-text.
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}

    def _prepare_inputs(self, generation_batch):
        """TRL's, but a group stays together and micro-batches hold completions of like length."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        every = self.args.steps_per_generation * self.num_iterations
        if self._step % every == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            micro_batches = self.args.steps_per_generation
            updates = max(1, micro_batches // self.args.gradient_accumulation_steps)
            lengths = batch["completion_mask"].sum(dim=1).tolist()
            order = by_group(lengths, self.num_generations, updates, rng=random.Random(self.state.global_step))
            self._buffered_inputs = [rows(batch, part) for part in torch.tensor(order).chunk(micro_batches)]
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _generate_and_score_completions(self, inputs):
        """TRL's, without the pass for the old log-probabilities where the training pass gives them as well."""
        correct = self.vllm_importance_sampling_correction
        if self.on_policy and self.model.training:
            self.vllm_importance_sampling_correction = False
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self.vllm_importance_sampling_correction = correct

    def _compute_loss(self, model, inputs):
        """TRL's loss on the rows that can move the policy, with completions cut to the longest of them."""
        kept = (inputs["advantages"] * inputs["completion_mask"].any(dim=1)).nonzero().squeeze(1)
        nominal = len(inputs["advantages"])
        if not self.skips_no_signal or len(kept) == nominal:
            return self._loss(model, trimmed(inputs))
        if len(kept) == 0:  # but every parameter takes part, as DistributedDataParallel asks
            return sum(p.sum() for p in model.parameters() if p.requires_grad) * 0.0
        share = len(kept) / nominal  # of what the loss is a mean over
        if self.loss_type == "bnpo":
            share = (inputs["completion_mask"][kept].sum() / inputs["completion_mask"].sum()).item()
        elif self.loss_type in ("dapo", "cispo", "vespo"):
            share = 1.0  # a sum over a number of tokens that stands fixed
        return self._loss(model, trimmed(rows(inputs, kept))) * share

    def _loss(self, model, inputs):
        wanted = self.use_vllm and self.vllm_importance_sampling_correction
        if not wanted or "importance_sampling_ratio" in inputs:
            return super()._compute_loss(model, inputs)
        mask = inputs["completion_mask"]
        ids, masks = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
        self._computed = self._get_per_token_logps_and_entropies(model, ids, masks, mask.size(1))
        old = self._computed[0].detach()
        difference = ((old - inputs["sampling_per_token_logps"]) * mask).nan_to_num(nan=0.0)
        low, high = self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
        ratio = importance_ratio(difference, self.vllm_importance_sampling_mode, low, high)
        self._log_sampling(difference.abs()[mask.bool()], ratio[mask.bool()] if ratio.size(1) > 1 else ratio.flatten())
        return super()._compute_loss(model, inputs | {"importance_sampling_ratio": ratio})

    def _log_sampling(self, difference: torch.Tensor, ratio: torch.Tensor) -> None:
        """How far the engine's log-probabilities are from the policy's, under TRL's names."""
        metrics, gather = self._metrics["train"], self.accelerator.gather
        for name, value in (("mean", difference.mean()), ("max", difference.max())):
            both = gather(value)
            figure = both.max() if name == "max" else both.mean()
            metrics[f"sampling/sampling_logp_difference/{name}"].append(figure.item())
        for name in ("min", "mean", "max"):
            both = gather(getattr(ratio, name)())
            metrics[f"sampling/importance_sampling_ratio/{name}"].append(getattr(both, name)().item())

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_aux_loss=False, **kwargs
    ):
        if self._computed is not None:  # by `_loss`, which needed them first
            computed, self._computed = self._computed, None
            return computed
        if compute_aux_loss or self.args.gradient_checkpointing:
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_aux_loss=compute_aux_loss,
                **kwargs,
            )
        found = []
        for part in torch.arange(len(input_ids)).split(batch_size or len(input_ids)):
            ids, mask = input_ids[part], attention_mask[part]
            both = [x[:, side] for side in (slice(-logits_to_keep), slice(-logits_to_keep, None)) for x in (ids, mask)]
            with self.accelerator.autocast():
                found.append(completion_logps(model, *both))
        logps, entropies = (torch.cat(column) for column in zip(*found))
        return logps, entropies, None

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


def importance_ratio(difference: torch.Tensor, mode: str, low: float | None, high: float | None) -> torch.Tensor:
    """The correction for what the engine samples with other numerics than the policy's.

    Args:
        difference: (B, C), log-probability of the policy less that of the engine, 0 where masked.
        mode: TRL's `vllm_importance_sampling_mode`: the ratio of each token or of the sequence, cut to the bounds
            (truncate) or 0 outside of them (mask).
        low, high: The bounds.

    Returns:
        (B, C), or (B, 1) for a sequence.

    >>> importance_ratio(torch.tensor([[0.0, 2.0]]), "token_truncate", None, 3.0)
    tensor([[1., 3.]])
    >>> importance_ratio(torch.tensor([[0.0, 2.0]]), "sequence_mask", None, 3.0)
    tensor([[0.]])
    """
    level, _, how = mode.partition("_")
    ratio = (difference.sum(dim=1, keepdim=True) if level == "sequence" else difference).exp()
    if how == "truncate":
        return ratio.clamp(min=low, max=high)
    outside = (ratio < (0.0 if low is None else low)) | (ratio > (math.inf if high is None else high))
    return ratio.masked_fill(outside, 0.0)


def by_group(lengths: list[int], size: int, updates: int, *, rng: random.Random) -> list[int]:
    """Rows in an order in which groups stay together; of the groups of an update those of like length are neighbours.

    Args:
        lengths: Of the completions, group after group.
        size: Completions of a group.
        updates: How many optimizer steps share the batch; each gets a random part of the groups.

    >>> by_group([5, 1, 9, 9, 2, 2, 7, 7], 2, 1, rng=random.Random(0))
    [2, 3, 6, 7, 0, 1, 4, 5]
    """
    groups = [list(range(i, min(i + size, len(lengths)))) for i in range(0, len(lengths), size)]
    rng.shuffle(groups)
    share = -(-len(groups) // updates)
    order = []
    for i in range(0, len(groups), share):
        order += sorted(groups[i : i + share], key=lambda group: -max(lengths[row] for row in group))
    return [row for group in order for row in group]


def rows(batch: dict, some: torch.Tensor) -> dict:
    """Some rows of a batch; what is no row of its own stays whole."""
    size = len(batch["advantages"])
    return {
        key: value[some] if torch.is_tensor(value) and value.dim() and len(value) == size else value
        for key, value in batch.items()
    }


def trimmed(inputs: dict) -> dict:
    """A batch without the columns in which all completions have ended."""
    longest = max(1, int(inputs["completion_mask"].sum(dim=1).max()))
    width = inputs["completion_mask"].size(1)
    cut = [key for key in BY_TOKEN if key in inputs and inputs[key].size(1) == width]  # ratios may be one a sequence
    return inputs | {key: inputs[key][:, :longest] for key in cut}


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
