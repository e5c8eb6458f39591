"""Reinforcement learning with GRPO: rollouts from vLLM, rewards from the grader, TRL's losses."""

import os
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from accelerate.utils import gather_object
from accelerate.utils.other import get_free_port
from datasets import Dataset
from transformers import TrainerCallback
from trl.trainer.grpo_config import GRPOConfig

from r1lab import engines, ranks
from r1lab.episodes.engine import Setting
from r1lab.errors import UserError
from r1lab.evaluation import records
from r1lab.grading.grader import build as build_grader
from r1lab.grpo import objectives
from r1lab.grpo.alarms import AlarmCallback, RolledBack, finish_rollback, restart
from r1lab.grpo.parity import Parity
from r1lab.grpo.rewards import BatchRewards
from r1lab.grpo.schedule import Scheduled
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import prompts, shard
from r1lab.models.loading import torch_dtype
from r1lab.models.lora import lora_config, untie
from r1lab.recipe import batch
from r1lab.recipe.acting import environment_of
from r1lab.recipe.schema import GrpoRecipe
from r1lab.recipe.training import GrpoTrain
from r1lab.stages import playing
from r1lab.stages.common import doing, load_model, load_reference, load_tokenizer, report_gold
from r1lab.stages.eval import evaluate, prepare, scores_of
from r1lab.stages.playing import setting_of
from r1lab.stages.rows import build_rows, eval_tasks
from r1lab.stages.serving import rollout_servers, served_by
from r1lab.stages.training import Metrics, StopOnInterrupt, check_saveable, finish, resume_point, trl_config


def run(recipe: GrpoRecipe, run_dir: Path, make: Callable[..., GRPOTrainer] = GRPOTrainer, tokenizer=None) -> int:
    """Trains the policy on the recipe's prompts, and saves every completion with its rewards in `samples/`.

    Args:
        make: Makes the trainer, from the arguments of `GRPOTrainer`.
        tokenizer: That of the recipe's model; None to load it.
    """
    started = time.time()
    engines.require(recipe.rollout.engine)
    tokenizer = load_tokenizer(recipe) if tokenizer is None else tokenizer
    rows = build_rows(recipe.data, seed=recipe.seed, run_dir=run_dir, tokenizer=tokenizer)
    if problem := batch.too_few_rows(recipe, len(rows)):
        raise UserError(f"data: {problem[0]}: {problem[1]}")
    template = recipe.prompt.model_dump()
    rendered = [prompts.render(row["prompt"], tokenizer, tools=row.get("tools"), **template) for row in rows]
    grader = build_grader([r.model_dump() for r in recipe.rewards], prefill=rendered[0][1])
    report_gold(grader, rows, run_dir)
    config = grpo_config(recipe, run_dir, longest=max(len(ids) for ids in _ids(tokenizer, rendered)))
    size = recipe.rollout.num_generations
    rewards = BatchRewards(grader, rows, run_dir, rank=config.process_index, size=size)
    assert config.vllm_max_model_length is not None  # `grpo_config` sets it
    setting = setting_of(recipe, tokenizer, config.vllm_max_model_length)
    with rollout_servers(recipe, run_dir, config.vllm_max_model_length) as servers:
        texts = [text for text, _ in rendered]
        return _train(recipe, run_dir, make, config, tokenizer, texts, rewards, servers, setting, started)


def _train(
    recipe: GrpoRecipe,
    run_dir: Path,
    make: Callable[..., GRPOTrainer],
    config: GRPOConfig,
    tokenizer,
    texts: list[str],
    rewards: BatchRewards,
    servers: Callable[[], list[str] | None],
    setting: Setting | None,
    started: float,
) -> int:
    """Trains on prompts that are ready, whose rows are those of `rewards`; `servers` are the rollout servers."""
    if config.use_vllm and config.world_size == 1:
        # Without it TRL uses 29500 if that is free, and two runs that start at the same time would both use it.
        os.environ.setdefault("MASTER_PORT", str(get_free_port()))
    doing(run_dir, "loading the model")
    model = load_model(recipe)
    metrics = Metrics(recipe, run_dir, _row(recipe, rewards))
    served = served_by(recipe, run_dir, servers())
    if served is None:
        doing(run_dir, f"starting {engines.description(recipe.rollout.engine)}")
    trainer = make(
        model=model,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": texts, "row": list(range(len(texts)))}),
        processing_class=tokenizer,
        reward_funcs=rewards.functions,
        peft_config=lora_config(recipe.model.lora),
        callbacks=[metrics],
        own=own_settings(recipe),
        rewards=rewards,
        dynamic_sampling=recipe.rollout.dynamic_sampling,
        curriculum=recipe.curriculum,
        tasks=[row.get("task") for row in rewards.rows],
        asynchronous=recipe.rollout.asynchronous,
        options=recipe.rollout.options,
        rendered=True,
        dtype=torch_dtype(recipe.model.dtype),
        reference=partial(load_reference, recipe),
        served=served,
        setting=setting,
    )
    shard.all_ranks_read()
    trainer.add_callback(Scheduled(trainer, recipe.schedule, rewards.grader.names))
    if trainer.use_vllm and recipe.rollout.top_p == 1 and recipe.rollout.top_k == 0:
        trainer.add_callback(Parity(trainer, texts, run_dir))
    if recipe.eval and recipe.eval.every:
        trainer.add_callback(Evaluate(trainer, tokenizer, recipe, recipe.eval.every, run_dir, metrics))
    checkpoint = ranks.from_main(partial(_checkpoint, run_dir, sharded=trainer.is_fsdp_enabled))
    if recipe.launch.strategy == "fsdp2":
        shard.choose_form(trainer, checkpoint)
    trainer.add_callback(AlarmCallback(recipe, run_dir))
    if recipe.alarms.loss and not trainer.use_vllm:
        trainer.generation_config.remove_invalid_values = True  # otherwise sampling fails before the alarm sees a loss
    if trainer.use_vllm and recipe.model.lora and untie(trainer.accelerator.unwrap_model(trainer.model)):
        raise UserError(
            "model.lora.target_modules: vLLM does not support an adapter on the embedding or the head if they share a "
            "weight, as in this model: set rollout.engine: transformers, or remove that module"
        )
    with closing(trainer.vllm_generation) if trainer.use_vllm else nullcontext(), StopOnInterrupt(run_dir) as stop:
        trainer.add_callback(stop)
        check_saveable(trainer, tokenizer, run_dir)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except RolledBack:
            if not stop.requested():
                # Restarted one by one, ranks would find the old rendezvous of the others, and rank 0 its old servers.
                if ranks.world_size() > 1 or recipe.launch.generators:
                    return ranks.RESTART
                restart()
        if stop.stopped:
            return 130
        finish(trainer, recipe, run_dir, tokenizer, started)
    return 0


def _checkpoint(run_dir: Path, *, sharded: bool) -> str | None:
    finish_rollback(run_dir)
    return resume_point(run_dir, sharded=sharded)


def grpo_config(recipe: GrpoRecipe, run_dir: Path, longest: int) -> GRPOConfig:
    """Returns TRL's GRPOConfig for a recipe; `longest` is the longest prompt in tokens."""
    rollout = recipe.rollout
    completion = max(rollout.max_completion_length, *recipe.schedule.max_completion_length.values(), 0)
    max_length = rollout.max_model_length or playing.longest(environment_of(recipe), longest, completion)
    if longest + completion > max_length:
        raise UserError(
            f"rollout.max_model_length: {max_length} is too small: the longest prompt has {longest} tokens and "
            f"a completion may have {completion}; set at least {longest + completion}"
        )
    return trl_config(
        GRPOConfig,
        recipe,
        run_dir,
        # The filter hides a loss that is not finite. Without it, the trainer's running sum would stay not finite.
        logging_nan_inf_filter=recipe.alarms.loss is None or recipe.alarms.loss.do == "warn",
        num_generations=rollout.num_generations,
        max_completion_length=rollout.max_completion_length,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        reward_weights=[reward.weight for reward in recipe.rewards],
        use_vllm=engines.choose(rollout.engine) == "vllm",
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=rollout.gpu_memory_utilization,
        vllm_max_model_length=max_length,
    )


def own_settings(recipe: GrpoRecipe) -> GrpoTrain:
    """Returns r1lab's own keys of the recipe's `train` section."""
    return GrpoTrain(**{key: value for key, value in recipe.train.items() if key in GrpoTrain.model_fields})


def _ids(tokenizer, rendered):
    return tokenizer([text for text, _ in rendered], add_special_tokens=False)["input_ids"]


def _row(recipe: GrpoRecipe, rewards: BatchRewards):
    grader, statistics = rewards.grader, rewards.statistics

    def to_row(logs: dict, seconds: float) -> dict:
        teacher = _teacher(logs)
        row = {
            # The step that generated these completions, if it is not this one.
            "rollout": int(logs["rollout"]) if "rollout" in logs else None,
            "reward": logs["reward"],
            # None if a reward applied to no row.
            "rewards": {name: logs[f"rewards/{name}/mean"] for name in grader.names},
            "rewards_std": {name: logs[f"rewards/{name}/std"] for name in grader.names},
            "rewards_none": {name: round(statistics[name]["none"], 4) for name in grader.names},
            "reasons": {name: statistics[name]["reasons"] for name in grader.names},
            "figures": _figures(logs) or None,
            "length": logs["completions/mean_length"],
            "truncated": logs["completions/clipped_ratio"],
            "no_signal": None if teacher else logs["frac_reward_zero_std"],
            "right": logs.get("right"),
            "teacher": teacher,
            "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm"),
            "learning_rate": logs.get("learning_rate"),
            "entropy": logs.get("entropy"),
            "kl": logs.get("kl"),
            "importance_ratio": logs.get("sampling/importance_sampling_ratio/mean"),
            # Of tokens; asynchronous training has both in `async`.
            "ratio_clipped": None if recipe.rollout.asynchronous else _clipped(recipe, logs),
            "ratio_truncated": None if recipe.rollout.asynchronous else logs.get(objectives.OUTSIDE),
            # With truncated sampling, the log-probabilities of engine and policy differ by design.
            "drift": None if recipe.rollout.biased_sampling else logs.get("sampling/sampling_logp_difference/mean"),
            "sampled": {key.partition("/")[2]: value for key, value in logs.items() if key.startswith("sampled/")}
            or None,
            "episodes": _episodes(logs) if environment_of(recipe) else None,
            "async": _asynchronous(recipe, logs) if recipe.rollout.asynchronous else None,
            "seconds": round(seconds, 3),
            "seconds_generating": round(logs.get("seconds/generating", 0.0), 3),
            "seconds_grading": round(logs.get("seconds/grading", 0.0), 3),
            "tokens_per_second": round(logs["tokens"] / max(seconds, 1e-6)),
        }
        if rewards.failed.total():
            row["reward_errors"] = dict(rewards.failed)  # since the start of this process
        return {key: value for key, value in row.items() if value is not None}

    return to_row


def _clipped(recipe: GrpoRecipe, logs: dict) -> float | None:
    """Returns the share of tokens (of sequences with a ratio per sequence) that the clip left without a gradient.

    None if the loss is the user's own, or one that clips nothing.
    """
    return None if recipe.train.get("loss") else logs.get("clip_ratio/region_mean", logs.get("cispo_clip_ratio"))


def _figures(logs: dict) -> dict:
    """Returns what the rewards say of completions besides their values, by REWARD/FIGURE."""
    found = {key.removeprefix("rewards/"): value for key, value in logs.items() if key.startswith("rewards/")}
    return {key: round(value, 4) for key, value in found.items() if not key.endswith(("/mean", "/std"))}


def _teacher(logs: dict) -> dict | None:
    """Returns how far the student is from its teacher in nats per token, in a distill stage.

    Returns:
        `kl`, the reverse KL as the sampled tokens estimate it; `divergence`, that of the loss, if it is exact; and
        `kl_by_position`, the KL by the first of the positions whose mean it is.
    """
    if "teacher/kl" not in logs:
        return None
    found = {key.removeprefix("teacher/"): round(v, 6) for key, v in logs.items() if key.startswith("teacher/")}
    by_position = {key.removeprefix("kl/"): found.pop(key) for key in list(found) if key.startswith("kl/")}
    return found | {"kl_by_position": by_position}


def _episodes(logs: dict) -> dict:
    """Returns the figures of a step's episodes: turns, calls, failed calls, ends, and seconds of the environment."""
    found = {key.removeprefix("episodes/"): value for key, value in logs.items() if key.startswith("episodes/")}
    ends = {key.removeprefix("end/"): round(found.pop(key), 4) for key in list(found) if key.startswith("end/")}
    seconds = round(logs.get("seconds/environment", 0.0), 3)
    return {key: round(value, 4) for key, value in found.items()} | {"ends": ends, "seconds_environment": seconds}


def _asynchronous(recipe: GrpoRecipe, logs: dict) -> dict:
    """Returns how stale a step's tokens were, in updates, and what the loss did about it.

    Returns:
        `staleness` and `staleness_max`, over tokens; `truncated` and `clipped`, shares of tokens whose importance
        ratio was truncated (or masked), and whose ratio PPO's clip left without gradient; `seconds_waiting`, for which
        the trainer waited for groups, which with the engine in process is the time in which it generated them; and
        `seconds_servers_waiting`, in which the servers had nothing to do.
    """
    row = {
        "staleness": logs["async/staleness"],
        "staleness_max": int(logs["async/staleness_max"]),
        "truncated": logs.get(objectives.OUTSIDE),
        "clipped": _clipped(recipe, logs),
        "seconds_waiting": round(logs.get("seconds/waiting", 0.0), 3),
        "seconds_servers_waiting": round(waited, 3) if (waited := logs.get("seconds/servers_waiting")) else None,
    }
    return {key: value for key, value in row.items() if value is not None}


class Evaluate(TrainerCallback):
    """Evaluates the policy every `every` steps, with the engine that generates the rollouts.

    Each rank gets every n-th question; ranks with one too few answer another one again, because layers whose weights
    are sharded need the same number of batches on every rank.
    """

    def __init__(
        self, trainer: GRPOTrainer, tokenizer, recipe: GrpoRecipe, every: int, run_dir: Path, metrics: Metrics
    ):
        self.trainer, self.recipe, self.every, self.run_dir, self.metrics = trainer, recipe, every, run_dir, metrics
        self.tasks = {task.name: task for task in prepare(eval_tasks(recipe), recipe, tokenizer, run_dir)}
        self.places = {
            name: dealt(len(task.rows), ranks.rank(), ranks.world_size()) for name, task in self.tasks.items()
        }
        self.parts = {name: records.parts_of(name, task.rows) for name, task in self.tasks.items()}

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0 and state.global_step < state.max_steps:
            scores = self.scores()
            if state.is_world_process_zero:
                self.metrics.write(
                    {"phase": "eval", "step": state.global_step, "total": state.max_steps, "tasks": scores}
                )

    def scores(self) -> dict:
        """Returns the scores by task, from the answers of all ranks."""
        mine = [
            replace(task, rows=[task.rows[i] for i in places], prompts=[task.prompts[i] for i in places])
            for task, places in zip(self.tasks.values(), self.places.values())
        ]
        with self.trainer.engine() as engine:
            _, questions = evaluate(engine, mine, self.recipe, self.run_dir)
        found: dict[str, dict[int, dict]] = {name: {} for name in self.tasks}
        for record in gather_object([self._numbered(record) for record in questions]):
            found[record["task"]].setdefault(record["index"], record)
        return scores_of([of_task[i] for of_task in found.values() for i in sorted(of_task)])

    def _numbered(self, record: dict) -> dict:
        """Returns a question's record with its number among the questions of all ranks, and its subtask there."""
        name, index = record["task"], self.places[record["task"]][record["index"]]
        return record | {"index": index, "subtask": self.parts[name][index]}


def dealt(count: int, rank: int, of: int) -> list[int]:
    """Returns the questions of a rank: the same number for every rank, so that some are dealt twice.

    >>> dealt(5, 0, 2), dealt(5, 1, 2), dealt(1, 2, 3)
    ([0, 2, 4], [1, 3, 0], [0])
    """
    return [place % count for place in range(rank, -(-count // of) * of, of)]
