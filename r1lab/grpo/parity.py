"""Checks that the engine samples from the policy: compares its log-probabilities with the trainer's.

Before the first step a difference ends the run (`Parity`); later the alarm `drift` watches that of each step (`log`),
or, where the tokens of a step are those of earlier weights, of a few completions after each sync (`probe`).
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from transformers import TrainerCallback
from trl.trainer.utils import pad

from r1lab.engines import Sampling, generate
from r1lab.errors import UserError
from r1lab.rundir import storage

if TYPE_CHECKING:
    from r1lab.grpo.trainer import GRPOTrainer

PROBED = 16  # tokens of each completion of `probe`
LIMIT = 0.1
"""Nats per token: bfloat16 engines differ by about 0.01 on average, wrong weights by more than 1."""


class Parity(TrainerCallback):
    """Samples a few completions when training begins, and ends the run if engine and policy disagree."""

    def __init__(self, trainer: GRPOTrainer, texts: list[str], run_dir: Path):
        self.trainer, self.texts, self.run_dir = trainer, texts[:4], run_dir

    def on_train_begin(self, args, state, control, **kwargs):
        mean, most, tokens = difference(self.trainer, self.texts)
        both = gathered(self.trainer, torch.tensor([mean, most], device=self.trainer.accelerator.device))
        mean, most = both.view(-1, 2)[:, 0].mean().item(), both.view(-1, 2)[:, 1].max().item()
        found = f"log-probabilities of engine and policy differ by {mean:.2g} nats per token (maximum {most:.2g})"
        if state.is_world_process_zero:
            print(f"parity: {found}, over {tokens} tokens", flush=True)
            row = {"phase": "parity", "step": state.global_step, "time": time.time()}
            row |= {"mean": mean, "max": most, "tokens": tokens}
            storage.append_jsonl(self.run_dir / "metrics.jsonl", row)
        if not mean <= LIMIT:
            ways = "set model.dtype: float32, or rollout.engine: transformers"
            if self.trainer.options:
                ways = f"remove rollout.options: {', '.join(self.trainer.options)}; or {ways}"
            raise UserError(f"rollout.engine: vllm does not sample from the policy: {found}; {ways}", status=1)


def difference(trainer: GRPOTrainer, texts: list[str], *, max_tokens: int = 32) -> tuple[float, float, int]:
    """Returns how much the log-probabilities of sampled tokens differ, in nats: mean, maximum, and number of tokens.

    Args:
        trainer: A trainer with vLLM, whose weights are synced first.
        texts: Rendered prompts; four completions of each are sampled.
    """
    max_tokens = min(max_tokens, trainer.max_completion_length)
    sampling = Sampling(n=4, max_tokens=max_tokens, temperature=trainer.temperature, logprobs=True)
    with trainer.engine() as engine:
        groups = generate(engine, texts, sampling)
    ids = trainer.processing_class(texts, add_special_tokens=False)["input_ids"]
    device, filler = trainer.accelerator.device, trainer.processing_class.pad_token_id
    prompts = [torch.tensor(ids[i], device=device) for i, group in enumerate(groups) for _ in group]
    completions = [torch.tensor(c.token_ids, device=device) for group in groups for c in group]
    theirs = [torch.tensor(c.logprobs, device=device) for group in groups for c in group]

    def padded(rows, value, side):
        return pad(rows, padding_value=value, padding_side=side)

    masks = [
        padded([torch.ones_like(x) for x in rows], 0, side)
        for rows, side in ((prompts, "left"), (completions, "right"))
    ]
    whole = torch.cat([padded(prompts, filler, "left"), padded(completions, filler, "right")], dim=1)
    with torch.no_grad():
        ours, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model_wrapped, whole, torch.cat(masks, dim=1), masks[1].size(1)
        )
    found = gaps(ours, padded(theirs, 0.0, "right"), masks[1])
    if not len(found):
        return math.nan, math.nan, 0
    return found.mean().item(), found.max().item(), len(found)


def probe(trainer: GRPOTrainer, text: str) -> None:
    """Logs the difference for new completions of a prompt, from an engine with the present weights.

    Asynchronous training needs them: the tokens that it trains on are those of earlier weights, so that their
    log-probabilities differ from the policy's by design.
    """
    if trainer.top_p < 1 or trainer.top_k or trainer.min_p:  # with truncated sampling they differ by design too
        return
    mean, most, tokens = difference(trainer, [text], max_tokens=PROBED)
    if tokens:
        _record(trainer, mean, most)


def record(trainer: GRPOTrainer, found: torch.Tensor) -> None:
    """Logs the differences of tokens, if there are any, under TRL's names, which the alarm `drift` reads."""
    if len(found):
        _record(trainer, found.mean().item(), found.max().item())


def _record(trainer: GRPOTrainer, mean: float, most: float) -> None:
    metrics = trainer._metrics["train"]
    metrics["sampling/sampling_logp_difference/mean"].append(mean)
    metrics["sampling/sampling_logp_difference/max"].append(most)


def log(trainer: GRPOTrainer, difference: torch.Tensor | None, ratio: torch.Tensor) -> None:
    """Logs how much the engine's log-probabilities differ from the policy's, under TRL's names, over all ranks.

    Args:
        difference: Of each token; None if the policy is not the one that sampled any more.
        ratio: The importance ratios.
    """
    metrics = trainer._metrics["train"]
    # Like TRL if nothing is left.
    ratio = ratio if ratio.numel() else ratio.new_zeros(1)
    if difference is not None and not difference.numel():
        difference = difference.new_zeros(1)
    for name, value in (("mean", difference.mean()), ("max", difference.max())) if difference is not None else ():
        both = gathered(trainer, value)
        merged = both.max() if name == "max" else both.mean()
        metrics[f"sampling/sampling_logp_difference/{name}"].append(merged.item())
    for name in ("min", "mean", "max"):
        both = gathered(trainer, getattr(ratio, name)())
        metrics[f"sampling/importance_sampling_ratio/{name}"].append(getattr(both, name)().item())


def gathered(trainer: GRPOTrainer, tensor: torch.Tensor) -> torch.Tensor:
    """Returns the values of all ranks."""
    return cast(torch.Tensor, trainer.accelerator.gather(tensor))  # it returns a tensor for a tensor


def gaps(ours: torch.Tensor, theirs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Returns the |difference| of log-probabilities for each masked-in token that the engine could score (not NaN)."""
    difference = (ours - theirs).abs()[mask.bool()]
    return difference[~difference.isnan()]
