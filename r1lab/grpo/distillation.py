"""On-policy distillation: a GRPO step whose signal is a teacher's distribution at each token (stage `distill`).

The student generates, and the teacher scores the same packed rows. The loss of a token at which the student p had the
prefix s and chose y, with the teacher q, is one of

- exact: the divergence between p(. | s) and q(. | s) over the whole vocabulary (`r1lab.grpo.divergence`);
- sampled: -ratio (log q(y | s) - log p(y | s)), the policy gradient of the reverse KL with an advantage per token,
  which is an estimate of the exact gradient with beta 1.

Both leave out that a token changes the prefixes that follow: gradients flow through each token alone, as in GKD
(arXiv:2306.13649) and in thinkingmachines.ai/blog/on-policy-distillation. The advantage of the rewards is added with
`reward_weight`. How tokens are averaged is TRL's `loss_type`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from trl.models.utils import prepare_deepspeed
from trl.trainer.utils import add_fused_lm_head

from r1lab.grpo import batches, losses, packing
from r1lab.grpo.divergence import Compared, compare_logps
from r1lab.grpo.teacher_server import ServedTeacher, served_logps
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import lora, shard
from r1lab.recipe.sections import Distill

FIRST = 16
"""Positions in the first part of the curve by position; each part after it ends at twice the position."""

ADAPTER = "teacher"
"""The name of the teacher's adapter in a student whose base it shares."""


class DistillTrainer(GRPOTrainer):
    """`r1lab.grpo.trainer.GRPOTrainer` with the loss of on-policy distillation.

    Rewards are measured, and trained on only with `settings.reward_weight`. The KL that it logs is that of the sampled
    tokens, log p - log q, whatever the loss.

    Args:
        teacher: A causal language model with the student's tokens, which is not trained; the folder of an adapter of
            the base that the student trains an adapter of; or a model behind a server, which scores each rollout once,
            and only without `settings.exact`.
        settings: A recipe's section `distill`.
        args, kwargs: All of `GRPOTrainer`.
    """

    _compared: Compared | None = None  # of the current micro-batch

    def __init__(self, *args, teacher, settings: Distill, **kwargs):
        super().__init__(*args, **kwargs)
        self.distill = settings
        self.skips_no_signal = False  # each token has a signal
        self.adapted = isinstance(teacher, str | Path)
        if self.adapted:
            lora.add_frozen(self.model, teacher, ADAPTER)
        self.teacher = teacher if self.adapted or isinstance(teacher, ServedTeacher) else self._prepared(teacher)
        self.clip = self.epsilon_low, self.epsilon_high
        if settings.exact:
            self.epsilon_low = self.epsilon_high = math.inf  # see `losses.as_advantages`; `_token_loss` clips itself
        parts = 1 + math.ceil(math.log2(max(1, self.max_completion_length / FIRST)))
        self._sums = torch.zeros(3, parts, dtype=torch.float64)  # of tokens by position: KL, divergence, number

    def _prepared(self, teacher):
        accelerator = cast(Accelerator, self.accelerator)
        teacher.eval().requires_grad_(False)
        add_fused_lm_head(teacher, temperature=self.temperature, cast_lm_head_to_fp32=self.args.cast_lm_head_to_fp32)
        if self.is_deepspeed_enabled:
            teacher = prepare_deepspeed(teacher, accelerator)
        elif self.is_fsdp_enabled:
            teacher = shard.prepare(teacher, accelerator)
        else:
            teacher = accelerator.prepare_model(teacher, evaluation_mode=True)
        self.packs = self.packs and packing.fits(self, [teacher])
        return teacher

    @contextmanager
    def asked(self) -> Iterator:
        """Yields the teacher for forward passes without gradients: a model of its own, or the student's base with the
        teacher's adapter."""
        with torch.no_grad():
            if not self.adapted:
                yield self.teacher
                return
            with lora.acting(self.model, ADAPTER):
                yield self.model

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Like transformers', without the teacher's adapter, next to which it would not find the student's again."""
        adapters = self.model.peft_config if self.adapted else {}
        kept = {name: adapters.pop(name) for name in [ADAPTER] if name in adapters}
        try:
            super()._save(output_dir, state_dict)
        finally:
            adapters.update(kept)

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        if isinstance(self.teacher, ServedTeacher) and self.model.training:
            with self._timed("teacher"):
                batch["teacher_per_token_logps"] = served_logps(self.teacher, batch)
        return batch

    def _compute_logps(self, model, inputs) -> torch.Tensor:
        ids, masks = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
        width = inputs["completion_mask"].size(1)
        if not self.distill.exact:
            theirs = inputs.get("teacher_per_token_logps")
            if theirs is None:
                with self.asked() as teacher:
                    theirs, *_ = self._get_per_token_logps_and_entropies(teacher, ids, masks, width)
            logps = super()._compute_logps(model, inputs)
            self._compared = Compared(logps, logps, logps.detach() - theirs, theirs)
            return logps
        if self.packs:
            found = packing.compared(self, model, ids, masks, width)
        else:
            found = self._padded(model, ids, masks, inputs["completion_ids"])
        self._compared, self._computed = found, (found.logps, found.entropies, None)
        return found.logps

    def _padded(self, model, ids, masks, completion_ids) -> Compared:
        """Compares with the logits of whole padded rows, for models that cannot run packed rows."""

        def logits(of) -> torch.Tensor:
            width = completion_ids.size(1)
            z = of(input_ids=ids, attention_mask=masks, logits_to_keep=width + 1).logits[:, :-1]
            return (z if z.dtype == torch.float64 else z.float()) / self.temperature

        with self.asked() as teacher, self.accelerator.autocast():
            theirs = logits(teacher)
        ours = logits(model)
        size = min(ours.size(-1), theirs.size(-1))
        log_p, log_q = (z[..., :size].log_softmax(-1) for z in (ours, theirs))
        return compare_logps(log_p, log_q, completion_ids, self.distill.beta)

    def _trls_loss(self, model, inputs):
        """Like GRPO's, with the teacher in the place of the advantages, or added to them."""
        if self._compared is None:
            self._compute_logps(model, inputs)
        found, self._compared = self._compared, None
        assert found is not None  # `_compute_logps` sets it
        self._note(found, inputs)
        clipped: list[torch.Tensor] = []
        if self.distill.exact:

            def loss(*, ratios, advantages):
                clipped.append(self._clipped(ratios, advantages))
                return found.divergences + self.distill.reward_weight * self._token_loss(ratios, advantages)

            inputs = losses.as_advantages(loss, inputs, found.logps, self.importance_sampling_level)
        else:
            rewarded = self.distill.reward_weight * inputs["advantages"].unsqueeze(1)
            inputs = inputs | {"advantages": rewarded - found.divergences}
        whole = super()._trls_loss(model, inputs)
        for outside in clipped:  # TRL's own share is that of bounds that clip nothing
            mask = batches.loss_mask(inputs) if outside.size(1) > 1 else torch.ones_like(outside)
            sums = torch.stack([(outside * mask).sum(), mask.sum()]).float()
            share, count = cast(torch.Tensor, self.accelerator.reduce(sums, reduction="sum"))
            name = "clip_ratio/region_mean"
            self._metrics["train"][name][-1] = (self.distill.reward_weight > 0) * (share / count.clamp(min=1)).item()
        return whole

    def _clipped(self, ratios: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
        """Returns where `_token_loss` has no gradient."""
        low, high = self.clip
        return ((ratios < 1 - low) & (advantages < 0)) | ((ratios > 1 + high) & (advantages > 0))

    def _token_loss(self, ratios: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
        """Returns the loss of the rewards: PPO's, with the recipe's bounds."""
        low, high = self.clip
        return -torch.min(ratios * advantages, ratios.clamp(1 - low, 1 + high) * advantages)

    def _note(self, found: Compared, inputs: dict) -> None:
        """Adds the tokens of a micro-batch to the sums of the step; rows that only fill a rank do not count."""
        if inputs.get("share", 1.0) == 0.0:
            return
        mask = batches.loss_mask(inputs).bool()
        position = torch.arange(mask.size(1), device=mask.device).expand_as(mask)[mask]
        part = (position / FIRST).clamp(min=0.5).log2().floor().long() + 1
        kl = (found.logps.detach() - found.teacher_logps)[mask]
        values = torch.stack([kl, found.divergences.detach()[mask], torch.ones_like(kl)]).double()
        self._sums = self._sums.to(mask.device)
        self._sums.index_add_(1, part.clamp(max=self._sums.size(1) - 1), values)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.rewards is not None and self.rewards.newest is not None:
            right = torch.tensor(self.rewards.newest.right, device=self.accelerator.device).float().mean()
            self._metrics["train"]["right"].append(cast(torch.Tensor, self.accelerator.gather(right)).mean().item())
        return rewards

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Like GRPO's, with `teacher/kl`, `teacher/divergence` if it is exact, and `teacher/kl/N` from position N."""
        if "loss" in logs:
            kl, divergence, count = cast(torch.Tensor, self.accelerator.reduce(self._sums, reduction="sum")).cpu()
            self._sums.zero_()
            total = count.sum().clamp(min=1)
            logs["teacher/kl"] = (kl.sum() / total).item()
            if self.distill.exact:
                logs["teacher/divergence"] = (divergence.sum() / total).item()
            for number, tokens in enumerate(count.tolist()):
                if tokens:
                    first = FIRST * 2 ** (number - 1) if number else 0
                    logs[f"teacher/kl/{first}"] = kl[number].item() / tokens
        super().log(logs, start_time)
