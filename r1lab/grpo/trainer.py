"""TRL's GRPOTrainer with a step that does less work: no padding, a group's prompt once, no rows without signal.

Rewards, losses, logging and sharding stay TRL's; each part can be switched off (`r1lab.recipe.sections.GrpoTrain`).
"""

import math
import random
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import trl
from accelerate.utils import DistributedType, is_peft_model
from trl.trainer import grpo_trainer

from r1lab.engines.transformers import TransformersEngine, without_generation_config
from r1lab.grpo import checkpoint, dynamic_sampling, losses, packed
from r1lab.grpo.advantages import advantages
from r1lab.grpo.batches import by_group, by_tokens, importance_ratio, rows, trimmed
from r1lab.grpo.curriculum import Chooser
from r1lab.grpo.rewards import BatchRewards
from r1lab.recipe import trial
from r1lab.recipe.sections import Curriculum, DynamicSampling, GrpoTrain


class GRPOTrainer(trl.GRPOTrainer):
    """TRL's trainer on prompts that `r1lab.models.prompts.render` has already turned into text.

    Args:
        own: What is r1lab's own in a recipe's `train` section; the rest of it is TRL's config, as `args`.
        rewards: The grader behind `reward_funcs`, for grading early and for knowing what is right.
        dynamic_sampling, curriculum: A recipe's sections of these names.
        tasks: Of the rows of `train_dataset`, for the curriculum.
        options: Laid over the engine's own arguments.
    """

    def __init__(
        self,
        *args,
        own: GrpoTrain | None = None,
        rewards: BatchRewards | None = None,
        dynamic_sampling: DynamicSampling | None = None,
        curriculum: Curriculum | None = None,
        tasks: list[str | None] | None = None,
        options: dict | None = None,
        **kwargs,
    ):
        config = kwargs["args"]
        self.rewards, self.dynamic_sampling, self.options = rewards, dynamic_sampling, options or {}
        self.chooser, self._generated, self._rewards = None, None, None
        self._spent: Counter[str] = Counter()
        self.made = checkpoint.SavedRollout()  # the newest
        if dynamic_sampling or curriculum:
            tasks = tasks or [None] * len(kwargs["train_dataset"])
            self.chooser = Chooser(tasks, seed=config.seed, curriculum=curriculum)
        self.own = own = own or GrpoTrain()
        if config.use_vllm:
            from r1lab.engines.vllm import SyncedVLLM

            # The tokens are wanted, not vLLM's own text of each of them; a stop string needs that text.
            given = config.generation_kwargs or {}
            if own.skip_text and not given.get("stop"):
                config.generation_kwargs = {"detokenize": False, **given}

            with patch.object(grpo_trainer, "VLLMGeneration", partial(SyncedVLLM, options=self.options)):
                super().__init__(*args, **kwargs)
        else:
            config.generation_kwargs = (config.generation_kwargs or {}) | self.options or None
            super().__init__(*args, **kwargs)
        # A loss that is a sum over rows can be computed in any parts; these terms look at a micro-batch as a whole.
        self.by_rows = not self._entropy_bonus_enabled and self.top_entropy_quantile == 1 and not self.aux_loss_enabled
        # Rows of no advantage have no gradient, unless the reference model pulls at them.
        self.own_loss = trial.loss(own.loss) if own.loss else None  # which may pull at them as well
        self.skips_no_signal = own.skip_no_signal and self.by_rows and self.beta == 0 and self.own_loss is None
        if self.own_loss is not None:
            self.epsilon_low = self.epsilon_high = math.inf  # see `losses.as_advantages`
        # One update a rollout: the policy of the training pass is still the one that the engine sampled from.
        self.on_policy = own.reuse_logps and config.gradient_accumulation_steps % self._rollout_micro_steps == 0
        # Layers whose weights are gathered for each pass need the same number of passes on every rank.
        self.sharded = self.is_fsdp_enabled or (
            self.is_deepspeed_enabled and self.accelerator.deepspeed_plugin.zero_stage == 3
        )
        self._computed = None
        self.packs = own.pack and self._can_pack()

    def _can_pack(self) -> bool:
        """Whether the models run packed rows; if not, says why in a line."""
        why = (
            "the mixture-of-experts loss counts each prompt as often as it is used" if self.aux_loss_enabled else None
        )
        for model in (self.model, self.ref_model):
            if model is not None and why is None:
                model = self.accelerator.unwrap_model(model)
                base = model.get_base_model() if is_peft_model(model) else model
                why = packed.install(
                    base,
                    temperature=self.temperature,
                    cast_head=self.args.cast_lm_head_to_fp32,
                    try_it=not self.sharded,
                )
        if why:
            print(f"each completion is computed with its own prompt and padding: {why}", flush=True)
        return why is None

    def _tokenize_prompts(self, prompts):
        # The chat template has written the special tokens already; TRL would add a second beginning-of-text.
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}

    def _prepare_inputs(self, generation_batch):
        """TRL's, but each micro-step gets a list of micro-batches: groups together, like lengths, a token budget."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        micro_steps = self.args.steps_per_generation
        if self.rollout_is_due():
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = self._micro_steps(batch)
        self._spent["tokens"] += self.made.tokens / micro_steps
        return self._buffered_inputs[self._step % micro_steps]

    @property
    def _rollout_micro_steps(self) -> int:
        """How many micro-steps train on a rollout."""
        return self.args.steps_per_generation * self.num_iterations

    def rollout_is_due(self) -> bool:
        """Whether the next micro-step begins with a rollout."""
        return self._step % self._rollout_micro_steps == 0 or self._buffered_inputs is None

    def rollout_step(self) -> int:
        """The step, counted from 0, of the rollout that the next micro-step trains on."""
        return self.state.global_step if self.rollout_is_due() else self.made.step

    def _micro_steps(self, batch: dict) -> list[list[dict]]:
        """The micro-batches of each of the steps that TRL takes over a generation batch."""
        steps = self.args.steps_per_generation
        lengths = batch["completion_mask"].sum(dim=1).tolist()
        rng = random.Random(self.state.global_step)
        # An update may see several micro-steps, whose rows may then be exchanged, but not rows of another update.
        together = math.gcd(steps, self.args.gradient_accumulation_steps)
        order = by_group(lengths, self.num_generations, steps // together, rng=rng, sort=self.own.sort_by_length)
        if not self.by_rows:
            return [[rows(batch, part)] for part in torch.tensor(order).chunk(steps)]
        useful = torch.ones(len(lengths), dtype=torch.bool)
        if self.skips_no_signal:
            useful = (batch["advantages"] * batch["completion_mask"].any(dim=1)).cpu() != 0
        prompts = batch["prompt_mask"].sum(dim=1).tolist()
        found = []
        for update in torch.tensor(order).chunk(steps // together):
            kept = update[useful[update]].tolist()
            # As many tokens as TRL's micro-batch would hold, padding included, unless the recipe says how many.
            size = self.args.per_device_train_batch_size
            budget = self.own.max_tokens_per_microbatch or size * (max(prompts) + max(lengths))
            parts = by_tokens(kept, lengths, prompts, self.num_generations, budget)
            # bnpo's mean over the tokens of a micro-batch is here one over the tokens of the update's share.
            tokens = sum(lengths[row] for row in update.tolist())
            made = [
                rows(batch, torch.tensor(part, device=batch["advantages"].device))
                | {"share": self._share(part, lengths, tokens, together)}
                for part in parts
            ]
            found += self._dealt(made, together, batch)
        return found

    def _share(self, part: list[int], lengths: list[int], tokens: int, micro_steps: int) -> float:
        """What a micro-batch's loss, a mean over its rows or tokens, counts beside one of TRL's micro-batches."""
        if self.loss_type in ("dapo", "cispo", "vespo"):
            return 1.0  # a sum over a number of tokens that stands fixed
        if self.loss_type == "bnpo":
            return sum(lengths[row] for row in part) / max(1, tokens) * micro_steps
        return len(part) / self.args.per_device_train_batch_size

    def _dealt(self, parts: list[dict], steps: int, batch: dict) -> list[list[dict | None]]:
        """Micro-batches dealt to micro-steps, equally many on all ranks.

        Where a rank has none left, None stands for one; of several ranks each takes a row that counts nothing, since
        TRL's loss gathers its metrics, and sharded layers their weights, on all ranks at once.
        """
        filler = None
        if self.accelerator.num_processes > 1:
            shortest = int(batch["completion_mask"].sum(dim=1).clamp(min=1).argmin())
            filler = rows(batch, torch.tensor([shortest], device=batch["advantages"].device)) | {"share": 0.0}
        count = torch.tensor(len(parts), device=self.accelerator.device)
        most = max(steps, int(self.accelerator.gather(count).max()))
        padded = [*parts, *[filler] * (most - len(parts))]
        return [padded[i::steps] for i in range(steps)]

    def _generate_and_score_completions(self, inputs):
        """TRL's, on the prompts that are chosen, and without the pass for the old log-probabilities where the
        training pass gives them as well."""
        self._inputs = inputs
        metrics = self._metrics["train"]
        before = {name: len(values) for name, values in metrics.items()}
        if self.model.training and self.chooser is not None:
            groups = dynamic_sampling.choose(self, inputs)
            inputs, self._generated, self._rewards = dynamic_sampling.as_generated(groups, self.accelerator)
        correct = self.vllm_importance_sampling_correction
        if self.on_policy and self.model.training:
            self.vllm_importance_sampling_correction = False
        try:
            batch = super()._generate_and_score_completions(inputs)
        finally:
            self.vllm_importance_sampling_correction = correct
        if self.own.advantage and self.model.training:
            total = (self._rewards * self.reward_weights.to(self._rewards.device)).nansum(dim=1)
            total[self._rewards.isnan().all(dim=1)] = torch.nan
            found = advantages(total, self.num_generations, self.own.advantage)
            mine = self.accelerator.process_index * len(inputs)
            batch["advantages"] = found[mine : mine + len(inputs)]
        self._generated = self._rewards = None
        if self.model.training:
            tokens = int(self.accelerator.gather(batch["completion_mask"].sum()).sum())
            logged = {name: values[-1] for name, values in metrics.items() if len(values) > before.get(name, 0)}
            self.made = checkpoint.SavedRollout(self.state.global_step, tokens, logged)
        return batch

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's, for each step: one that trains on an earlier rollout has the figures of that, and its step.

        `tokens` are the completion tokens that the step was trained on; `seconds/...` are those of all its rollouts.
        """
        if "loss" in logs:
            metrics = self._metrics["train"]
            if self.made.step != self.state.global_step - 1:
                metrics["rollout"] = [self.made.step + 1]
                for name, value in self.made.figures.items():
                    metrics[name] = metrics.get(name) or [value]
            logs.update(self._spent)
            self._spent.clear()
        super().log(logs, start_time)

    def _generate(self, prompts: list):
        return self._generated or self.rollout(self._inputs, prompts)

    @contextmanager
    def _timed(self, what: str):
        """Adds to the seconds that the rollouts of a step spend on something."""
        began = time.perf_counter()
        yield
        self._spent[f"seconds/{what}"] += time.perf_counter() - began

    def rollout(self, inputs: list[dict], prompts: list[str]):
        """What TRL's `_generate` returns; where it may, groups are graded as they are complete."""
        if not self.use_vllm:  # TRL sets what a recipe can set, and transformers would take the rest from the model
            with self._timed("generating"), without_generation_config(self.accelerator.unwrap_model(self.model)):
                return super()._generate(prompts)
        early = self.own.grade_early and self.model.training
        if not early or self.rewards is None or not self.rewards.any_thread:
            with self._timed("generating"):
                return super()._generate(prompts)
        decode = partial(self.processing_class.batch_decode, skip_special_tokens=True)
        self.rewards.started([row["row"] for row in inputs], self.num_generations, decode)
        with self._timed("generating"), self.vllm_generation.watched(self.rewards.finished):
            return super()._generate(prompts)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        if self._rewards is None:
            self._rewards = self.graded(inputs, prompts, completions, completion_ids_list)
        return self._rewards

    def graded(self, inputs, prompts, completions, completion_ids) -> torch.Tensor:
        """(N, number of rewards), of the completions of all ranks."""
        with self._timed("grading"):
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of a micro-step, after the backward passes of all but its last micro-batch."""
        if not isinstance(inputs, list):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        before = 0.0
        for part in inputs[:-1]:
            with self._held_back(model):
                loss = self._part_loss(model, part)
                deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
                self.accelerator.backward(loss, **({"scale_wrt_gas": False} if deepspeed else {}))
            before = before + loss.detach()
        return self._part_loss(model, inputs[-1]) + before

    @contextmanager
    def _held_back(self, model):
        """Gradients stay on their rank, as within a gradient accumulation."""
        state = self.accelerator.gradient_state
        last = state.sync_gradients
        state._set_sync_gradients(False)
        try:
            with self.accelerator.no_sync(model):
                yield
        finally:
            state._set_sync_gradients(last)

    def _part_loss(self, model, part: dict | None):
        if part is None:
            return sum(p.sum() for p in model.parameters() if p.requires_grad) * 0.0
        return self._compute_loss(model, part) * part.get("share", 1.0)

    def _compute_loss(self, model, inputs):
        """TRL's loss, with completions cut to the longest, and the importance ratio from the pass itself."""
        inputs = trimmed(inputs)
        wanted = self.use_vllm and self.vllm_importance_sampling_correction
        if not wanted or "importance_sampling_ratio" in inputs:
            return self._trls_loss(model, inputs)
        mask = inputs["completion_mask"]
        self._compute_logps(model, inputs)
        old = self._computed[0].detach()
        difference = ((old - inputs["sampling_per_token_logps"]) * mask).nan_to_num(nan=0.0)
        low, high = self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
        ratio = importance_ratio(difference, self.vllm_importance_sampling_mode, low, high)
        self._log_sampling(difference.abs()[mask.bool()], ratio[mask.bool()] if ratio.size(1) > 1 else ratio.flatten())
        return self._trls_loss(model, inputs | {"importance_sampling_ratio": ratio})

    def _compute_logps(self, model, inputs) -> None:
        """Log-probabilities and entropies of the completions, for `_get_per_token_logps_and_entropies` to hand out."""
        ids, masks = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
        aux = {"compute_aux_loss": True} if self.aux_loss_enabled else {}
        self._computed = self._get_per_token_logps_and_entropies(
            model, ids, masks, inputs["completion_mask"].size(1), compute_entropy=True, **aux
        )

    def _trls_loss(self, model, inputs):
        """TRL's; ranks may have unequally many rows, of which its metrics gather a figure each, skipping NaN."""
        if self.own_loss is not None:
            if self._computed is None:
                self._compute_logps(model, inputs)
            inputs = losses.as_advantages(self.own_loss, inputs, self._computed[0], self.importance_sampling_level)
        gather, pad = self.accelerator.gather, partial(self.accelerator.pad_across_processes, pad_index=math.nan)
        with patch.object(self.accelerator, "gather", lambda x: gather(pad(x) if x.dim() else x)):
            return super()._compute_loss(model, inputs)

    def _log_sampling(self, difference: torch.Tensor, ratio: torch.Tensor) -> None:
        """How far the engine's log-probabilities are from the policy's, under TRL's names."""
        metrics, gather = self._metrics["train"], self.accelerator.gather
        if difference.numel() == 0:  # as TRL where all is masked
            difference = ratio = torch.zeros(1, device=self.accelerator.device)
        for name, value in (("mean", difference.mean()), ("max", difference.max())):
            both = gather(value)
            figure = both.max() if name == "max" else both.mean()
            metrics[f"sampling/sampling_logp_difference/{name}"].append(figure.item())
        for name in ("min", "mean", "max"):
            both = gather(getattr(ratio, name)())
            metrics[f"sampling/importance_sampling_ratio/{name}"].append(getattr(both, name)().item())

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **kwargs
    ):
        if self._computed is not None:  # by `_compute_loss`, which needed them first
            computed, self._computed = self._computed, None
            return computed
        if not self.packs:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, **kwargs
            )
        prompt, completion = slice(-logits_to_keep), slice(-logits_to_keep, None)
        found = []
        for part in torch.arange(len(input_ids)).split(batch_size or len(input_ids)):
            ids, mask = input_ids[part], attention_mask[part]
            row = packed.pack(
                ids[:, prompt],
                mask[:, prompt],
                ids[:, completion],
                mask[:, completion],
                share=self.own.share_prompts,
            )
            found.append(packed.logps(model, row, temperature=self.temperature, chunked=self.own.chunk_logps))
        logps, entropies = (torch.cat(column) for column in zip(*found))
        return logps, entropies, None

    def _save_checkpoint(self, model, trial):
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        checkpoint.save(self, folder)
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, folder):
        super()._load_optimizer_and_scheduler(folder)
        if folder is not None:
            checkpoint.load(self, Path(folder))

    @contextmanager
    def engine(self):
        """Yields the engine that generates the rollouts, with the current weights."""
        if self.use_vllm:
            from r1lab.engines.vllm import VLLMEngine

            with self.vllm_generation.awake(stale=self.state.global_step != self._last_loaded_step):
                self._last_loaded_step = self.state.global_step
                yield VLLMEngine(self.vllm_generation.llm)
        else:
            model = self.accelerator.unwrap_model(self.model)
            yield TransformersEngine(model, self.processing_class, options=self.options)
