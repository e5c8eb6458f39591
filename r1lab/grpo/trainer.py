"""TRL's GRPOTrainer with a step that does less work: no padding, a group's prompt once, no rows without signal.

Rewards, losses, logging and sharding are TRL's; each part can be turned off (`r1lab.recipe.training.GrpoTrain`).
"""

from __future__ import annotations

import inspect
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from trl.trainer import grpo_trainer

from r1lab.engines import Engine
from r1lab.engines.transformers import TransformersEngine, without_generation_config
from r1lab.grpo import batches, dynamic_sampling, episodes, losses, metrics, objectives, overlap, packing
from r1lab.grpo import checkpoint as checkpoints
from r1lab.grpo.advantages import OF_TRL, advantages, totals
from r1lab.grpo.asynchronous import Groups
from r1lab.grpo.curriculum import Chooser
from r1lab.grpo.dynamic_sampling import chooser_for
from r1lab.grpo.from_servers import FromServers
from r1lab.grpo.rewards import BatchRewards
from r1lab.models import shard
from r1lab.models.patched import with_names
from r1lab.recipe import trial
from r1lab.recipe.sections import Asynchronous, DynamicSampling
from r1lab.recipe.training import Curriculum, GrpoTrain

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl.trainer.grpo_config import GRPOConfig

    from r1lab.engines.vllm import SyncedVLLM
    from r1lab.episodes.engine import Setting


class GRPOTrainer(grpo_trainer.GRPOTrainer):
    """Replaces `trl.GRPOTrainer`: the same arguments, the same loss and gradient, in less time.

    If packed rows do not work (multimodal models, an unsupported attention or type of adapter), it computes as TRL
    does, and a line says why. If several updates share a rollout, they get other rows than in TRL.

    A step calls these methods, in this order; those with a * are defined here, the others only in TRL.

        training_step
            * _prepare_inputs                          per micro-step; if a rollout is due:
                * _generate_and_score_completions
                    dynamic_sampling.choose            with dynamic sampling or a curriculum, once per round:
                        * rollout, * graded
                    * _generate                        the completions of `choose`, else:
                        * rollout
                            _generate
                                * _tokenize_prompts
                                _generate_single_turn
                    * _get_per_token_logps_and_entropies    old and reference log-probabilities, where needed
                    * _calculate_rewards               the rewards of `choose`, else:
                        * graded
                batches.micro_steps                    the rows of the rollout as micro-batches
            * compute_loss                             per micro-step
                * _part_loss                           per micro-batch
                    * _compute_loss
                        * _trls_loss                   TRL's `_compute_loss`
                            * _get_per_token_logps_and_entropies

    Args:
        args, kwargs: All of `trl.GRPOTrainer`.
        own: r1lab's own keys of a recipe's `train` section; the others are in TRL's config, `args`.
        rewards: The grader behind `reward_funcs`, for early grading and for correctness.
        dynamic_sampling, curriculum: A recipe's sections of these names; `train_dataset` then has a column `row`.
        tasks: The tasks of the rows of `train_dataset`, for the curriculum.
        asynchronous: A recipe's section `rollout.async`: groups are generated ahead.
        options: Override the engine's own arguments.
        rendered: Prompts are texts from `r1lab.models.prompts.render`, with their special tokens, and `generate` uses
            only the end tokens of the model's generation config.
        dtype: The dtype of the engine; None for that of the model's weights.
        reference: Loads the reference model, if `args.beta` needs one; None for TRL's way.
        served: The arguments of `r1lab.engines.served.ServedVLLM` besides TRL's, if vLLM servers generate instead of
            vLLM in this process: `servers`, `timeout`, `sync_folder`, `beat`.
        setting: How episodes are played, if a recipe has an environment or tools; with `rewards`.
    """

    # TRL's attributes, which it does not type precisely.
    args: GRPOConfig
    model: PreTrainedModel
    processing_class: PreTrainedTokenizerBase
    num_generations: int
    max_completion_length: int
    train_dataset: Dataset
    vllm_generation: SyncedVLLM
    # State of the current rollout or micro-batch.
    _generated: tuple | None = None
    _replayed: tuple | None = None
    _rewards: torch.Tensor | None = None
    _computed: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None] | None = None
    own_tokens: torch.Tensor | None = None  # TRL's `tool_mask`: 1 where the model sampled, 0 where a tool replied
    overlapped: overlap.Overlap | None = None  # what the rollout's update has of its gradient already

    def __init__(
        self,
        *args,
        own: GrpoTrain | None = None,
        rewards: BatchRewards | None = None,
        dynamic_sampling: DynamicSampling | None = None,
        curriculum: Curriculum | None = None,
        tasks: list[str | None] | None = None,
        asynchronous: Asynchronous | None = None,
        rendered: bool = False,
        options: dict | None = None,
        dtype: torch.dtype | None = None,
        reference: Callable[[], PreTrainedModel] | None = None,
        served: dict[str, Any] | None = None,
        setting: Setting | None = None,
        **kwargs,
    ):
        self.own = own = own or GrpoTrain()
        self.rewards, self.dynamic_sampling, self.rendered, self.setting = rewards, dynamic_sampling, rendered, setting
        self.options = options or {}
        self.chooser: Chooser | None = None
        self.groups: Groups | None = None
        self._spent: defaultdict[str, float] = defaultdict(float)
        self.weights: defaultdict[str, list[int]] = defaultdict(list)  # of what micro-batches logged
        self.made = checkpoints.SavedRollout()  # the newest
        config = inspect.signature(grpo_trainer.GRPOTrainer).bind(*args, **kwargs).arguments.get("args")
        # TRL has no arguments for these, so its constructor runs with others under their names.
        names: dict[str, Any] = {"prepare_fsdp": shard.prepare}
        if reference is not None:
            names["create_model_from_path"] = lambda path, **settings: reference()
        if config is not None and config.use_vllm:
            from r1lab.engines.served import generation

            settings = {"skip_text": own.skip_text, "dtype": dtype, "options": self.options}
            names["VLLMGeneration"] = generation(served, **settings)
        elif self.options and config is not None:
            config.generation_kwargs = (config.generation_kwargs or {}) | self.options
        with_names(grpo_trainer.GRPOTrainer.__init__, **names)(self, *args, **kwargs)
        if dynamic_sampling or curriculum or asynchronous:
            self.chooser = chooser_for(self, tasks, curriculum)
        if asynchronous:
            source = FromServers(self, in_flight=asynchronous.in_flight) if served else None
            self.groups = Groups(self, asynchronous, source)
        # TRL guesses from the last token what was truncated; an episode says it.
        self.masks_cut = self.mask_truncated_completions
        self.mask_truncated_completions = self.masks_cut and setting is None
        # A loss that is a sum over rows can be computed in any parts, but these terms need a whole micro-batch.
        self.by_rows = not self._entropy_bonus_enabled and self.top_entropy_quantile == 1 and not self.aux_loss_enabled
        self.own_loss = trial.loss(own.loss) if own.loss else None
        # Rows with zero advantage have no gradient, except from the KL term or a loss of the user's own.
        self.skips_no_signal = own.skip_no_signal and self.by_rows and self.beta == 0 and self.own_loss is None
        if self.own_loss is not None:
            self.epsilon_low = self.epsilon_high = math.inf  # see `losses.as_advantages`
        # One update per rollout: the policy of the training pass is still the one that the engine sampled from.
        per_rollout = self.args.gradient_accumulation_steps % self.rollout_micro_steps == 0
        self.on_policy = own.reuse_logps and not self._is_vlm and per_rollout
        # Layers whose weights are gathered for each pass need the same number of passes on every rank.
        plugin = self.accelerator.deepspeed_plugin if self.is_deepspeed_enabled else None
        self.sharded = self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)
        self.packs = own.pack and packing.fits(self)
        self.overlaps = own.overlap and overlap.fits(self)

    def _tokenize_prompts(self, prompts: list):
        if not self.rendered:
            return super()._tokenize_prompts(prompts)
        # The chat template has added the special tokens already; TRL would add a second beginning-of-text token.
        return self.processing_class(text=prompts, add_special_tokens=False)["input_ids"], None, {}

    def _prepare_inputs(self, generation_batch: Any) -> Any:  # TRL's type is a dict, but it passes a list
        """Like TRL's, but each micro-step gets a list of micro-batches: by group, by length, with a token budget."""
        if not self.model.training or self._is_vlm:
            return super()._prepare_inputs(generation_batch)
        if self.rollout_is_due():
            batch = self._generate_and_score_completions(generation_batch)
            if not self.rendered:
                torch.randperm(len(generation_batch))  # as in TRL, so that a seed gives the same completions
            self._buffered_inputs = batches.micro_steps(self, batch)
        self._spent["tokens"] += self.made.tokens / self.generation_steps
        return self._buffered_inputs[self._step % self.generation_steps]

    @property
    def generation_steps(self) -> int:
        """The number of micro-steps of a generation batch."""
        assert self.args.steps_per_generation is not None  # TRL's config sets it
        return self.args.steps_per_generation

    @property
    def rollout_micro_steps(self) -> int:
        """The number of micro-steps that train on a rollout."""
        return self.generation_steps * self.num_iterations

    def rollout_is_due(self) -> bool:
        """Whether the next micro-step starts with a rollout."""
        return self._step % self.rollout_micro_steps == 0 or self._buffered_inputs is None

    def rollout_step(self) -> int:
        """Returns the step, counted from 0, of the rollout that the next micro-step trains on."""
        return self.state.global_step if self.rollout_is_due() else self.made.step

    def _generate_and_score_completions(self, inputs):
        """Like TRL's, on the chosen prompts, and without the pass for the old log-probabilities if the training pass
        computes them too."""
        self._inputs = inputs
        logged = self._metrics["train"]
        before = {name: len(values) for name, values in logged.items()}
        if self.model.training and self.groups is not None:
            groups = self.groups.next()
            inputs, self._replayed, self._rewards = dynamic_sampling.as_generated(groups, self.accelerator)
        elif self.model.training and self.chooser is not None:
            groups = dynamic_sampling.choose(self, inputs)
            inputs, self._generated, self._rewards = dynamic_sampling.as_generated(groups, self.accelerator)
        correct = self.vllm_importance_sampling_correction
        try:
            batch = super()._generate_and_score_completions(inputs)
        finally:
            self.vllm_importance_sampling_correction = correct
        kind = self.own.advantage or (self.setting and OF_TRL[str(self.scale_rewards)])
        if kind and self.model.training:
            assert self._rewards is not None  # `_calculate_rewards` sets them
            found = advantages(totals(self._rewards, self.reward_weights), self.num_generations, kind)
            mine = self.accelerator.process_index * len(inputs)
            batch["advantages"] = found[mine : mine + len(inputs)]
        self._generated = self._replayed = self._rewards = None
        if self.model.training:
            tokens = batches.tokens(self.accelerator, batch)
            figures = {name: values[-1] for name, values in logged.items() if len(values) > before.get(name, 0)}
            self.made = checkpoints.SavedRollout(self.state.global_step, tokens, figures)
        return batch

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Like TRL's, per step: `tokens` are those it trained on, and `seconds/...` cover all its rollouts."""
        if "loss" in logs:
            metrics.complete(self)
            logs.update(self._spent)
            self._spent.clear()
        super().log(logs, start_time)

    def _generate(self, prompts: list):
        if self._replayed is not None:  # for TRL's metrics of completions that were generated ahead
            generated = episodes.replay(self, prompts, super()._generate)
        else:
            generated = self._generated or self.rollout(self._inputs, prompts)
        if (self.on_policy or self.groups is not None) and self.model.training:
            self.vllm_importance_sampling_correction = False  # no other pass: the training pass corrects
        return generated

    def _generate_single_turn(self, *args, **kwargs):
        if self._replayed is not None:
            return self._replayed[1], self._replayed[4]
        return super()._generate_single_turn(*args, **kwargs)

    def log_spent(self, what: str, seconds: float) -> None:
        """Adds to the seconds of the step's rollouts."""
        self._spent[f"seconds/{what}"] += seconds

    @contextmanager
    def _timed(self, what: str):
        """Adds the time of the context to the seconds of the step's rollouts."""
        began = time.perf_counter()
        yield
        self.log_spent(what, time.perf_counter() - began)

    def rollout(self, inputs: list[dict], prompts: list[str]) -> tuple:
        """Returns the result of TRL's `_generate`; if possible, each group is graded as soon as it is complete."""
        if self.setting is not None:
            with self._timed("generating"):
                return episodes.generated(self, inputs, prompts, super()._generate)
        if not self.use_vllm:  # transformers would take what TRL does not set from the model
            model = self.accelerator.unwrap_model(self.model)
            with self._timed("generating"), without_generation_config(model) if self.rendered else nullcontext():
                return super()._generate(prompts)
        early = self.own.grade_early and self.model.training
        if not early or self.rewards is None or not self.rewards.any_thread:
            with self._timed("generating"):
                return super()._generate(prompts)
        decode = partial(self.processing_class.batch_decode, skip_special_tokens=True)
        self.rewards.started([row["row"] for row in inputs], decode)
        with self._timed("generating"), overlap.during(self, self.rewards) as finished:
            with self.vllm_generation.watched(finished):
                return super()._generate(prompts)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        if self._rewards is None:
            self._rewards = self.graded(inputs, prompts, completions, completion_ids_list)
        return self._rewards

    def graded(self, inputs, prompts, completions, completion_ids) -> torch.Tensor:
        """Returns (N, number of rewards) for the completions of all ranks; of rank 0 in asynchronous training."""
        names = {"gather": lambda rewards: rewards} if self.model.training and self.groups is not None else {}
        calculate = with_names(inspect.unwrap(grpo_trainer.GRPOTrainer._calculate_rewards), **names)
        with self._timed("grading"):
            return calculate(self, inputs, prompts, completions, completion_ids)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Returns the loss of a micro-step, after the backward passes of all but its last micro-batch."""
        if not isinstance(inputs, list):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        before, self.overlapped = self.overlapped.loss if self.overlapped else torch.zeros(()), None
        for part in inputs[:-1]:
            with batches.held_back(self, model):
                loss = self._part_loss(model, part)
                deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
                self.accelerator.backward(loss, **({"scale_wrt_gas": False} if deepspeed else {}))
            before = before + loss.detach()
        return self._part_loss(model, inputs[-1]) + before

    def _part_loss(self, model, part: dict | None) -> torch.Tensor:
        if part is None:
            return batches.nothing(model)
        with metrics.weighed(self, part):
            return self._compute_loss(model, part) * part.get("share", 1.0)

    def _compute_loss(self, model, inputs):
        """Like TRL's loss, without columns that are all padding, and with the importance ratio from the same pass."""
        if self._is_vlm:
            return super()._compute_loss(model, inputs)
        inputs = batches.without_replies(batches.trimmed(inputs))
        self.own_tokens = inputs.get("tool_mask")
        try:
            return self._corrected_loss(model, inputs)
        finally:
            self.own_tokens = None

    def _corrected_loss(self, model, inputs):
        corrects = self.use_vllm and self.vllm_importance_sampling_correction
        if not (corrects or objectives.stale(self)) or objectives.corrected_by_trl(self, inputs):
            return self._trls_loss(model, inputs)
        current = self._compute_logps(model, inputs).detach()
        return self._trls_loss(model, objectives.corrected(self, inputs, current))

    def _compute_logps(self, model, inputs) -> torch.Tensor:
        """Returns the log-probabilities of completions, which `_get_per_token_logps_and_entropies` reuses later."""
        ids, masks = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
        aux = {"compute_aux_loss": True} if self.aux_loss_enabled else {}
        self._computed = self._get_per_token_logps_and_entropies(
            model, ids, masks, inputs["completion_mask"].size(1), compute_entropy=True, **aux
        )
        return self._computed[0]

    def _trls_loss(self, model, inputs):
        """Runs TRL's loss on ranks with different numbers of rows; its metrics skip the NaN of missing rows."""
        if self.own_loss is not None:
            logps = self._computed[0] if self._computed is not None else self._compute_logps(model, inputs)
            inputs = losses.as_advantages(self.own_loss, inputs, logps, self.importance_sampling_level)
        if objectives.stale(self) and not self.use_vllm and self.loss_type != "vespo":
            inputs = objectives.folded(inputs)
        accelerator, self.accelerator = self.accelerator, batches.Uneven(self.accelerator)
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self.accelerator = accelerator

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **kwargs
    ):
        if self._computed is not None:  # `_compute_loss` needed them first
            computed, self._computed = self._computed, None
            return computed
        aux_loss = None
        if self.packs:
            logps, entropies = packing.logps(self, model, input_ids, attention_mask, logits_to_keep, batch_size)
        else:
            logps, entropies, aux_loss = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, **kwargs
            )
        if entropies is not None and not self._entropy_bonus_enabled:  # for logging, and for TRL's mask
            entropies = entropies.detach()
        return logps, entropies, aux_loss

    def _get_train_sampler(self, dataset=None):
        return checkpoints.Sampler(super()._get_train_sampler(dataset), self)

    def _save_checkpoint(self, model, trial):
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        checkpoints.save(self, folder)
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            checkpoints.load(self, Path(checkpoint))

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """Yields the engine that generates the rollouts, with the current weights."""
        if self.use_vllm:
            with self.vllm_generation.awake(stale=self.state.global_step != self._last_loaded_step):
                self._last_loaded_step = self.state.global_step
                yield self.vllm_generation.engine()
        else:
            model = self.accelerator.unwrap_model(self.model)
            yield TransformersEngine(model, self.processing_class, options=self.options)
