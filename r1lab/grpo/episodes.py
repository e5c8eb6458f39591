"""Rollouts of several turns: the trainer plays episodes, and TRL gets them as completions with a mask.

What the model did not sample is masked everywhere (`r1lab.grpo.batches.loss_mask`). An episode that was not counted,
because its environment failed, has no reward and no gradient, and is left out of the mean of its group.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object

from r1lab.engines import EpisodeEngine, Sampling
from r1lab.episodes.engine import task_seed
from r1lab.episodes.play import Job
from r1lab.episodes.record import ENDS, Episode, counts

if TYPE_CHECKING:
    from r1lab.grpo.trainer import GRPOTrainer


def sampling_of(trainer: GRPOTrainer) -> Sampling:
    """Returns how a trainer's turns are sampled; `max_tokens` are those of an episode."""
    return Sampling(
        max_tokens=trainer.max_completion_length,
        temperature=trainer.temperature,
        top_p=trainer.top_p,
        top_k=max(trainer.top_k, 0),
        logprobs=trainer.use_vllm,
    )


def played(trainer: GRPOTrainer, inputs: list[dict]) -> list[Episode]:
    """Plays an episode for each row of the batch, and hands each one to the grader as soon as it has ended."""
    setting, rewards, sampling = trainer.setting, trainer.rewards, sampling_of(trainer)
    assert setting is not None and rewards is not None  # the trainer calls this only with both
    jobs = [
        Job(rewards.rows[row["row"]], task_seed(trainer.args.seed, row["row"], trainer.state.global_step))
        for row in inputs
    ]
    early = trainer.own.grade_early and trainer.model.training and rewards.any_thread
    if early:
        rewards.started([row["row"] for row in inputs], lambda ids: [])
    found: list[Episode | None] = [None] * len(jobs)
    with trainer.engine() as engine:
        assert isinstance(engine, EpisodeEngine)
        for number, episode in setting.player(engine, sampling).stream(jobs):
            found[number] = episode
            if early:
                rewards.finished(number, episode)
    return [episode for episode in found if episode is not None]


def generated(
    trainer: GRPOTrainer, inputs: list[dict], prompts: list[str], generate: Callable[[list[str]], tuple]
) -> tuple:
    """Returns the result of TRL's `_generate` for episodes.

    Args:
        inputs: The rows of the batch, which get the column `episode`.
        generate: TRL's `_generate`, which logs the metrics of what its `rollout_func` returns.
    """
    episodes = played(trainer, inputs)
    for i, episode in enumerate(episodes):
        inputs[i] = inputs[i] | {"episode": episode}
    made = as_completions(episodes, pad_of(trainer), mask_cut=trainer.masks_cut)
    return replayed(trainer, prompts, made, [figures(episode) for episode in episodes], generate)


def replayed(
    trainer: GRPOTrainer, prompts: list[str], made: dict, found: list[dict], generate: Callable[[list[str]], tuple]
) -> tuple:
    """Returns the result of TRL's `_generate` for episodes that were played before.

    Args:
        made: What `as_completions` returns.
        found: The `figures` of each episode.
        generate: TRL's `_generate`, which would sync the weights once more before it calls a `rollout_func`.
    """
    use_vllm, trainer.use_vllm = trainer.use_vllm, False
    trainer.rollout_func = lambda *_: made
    try:
        result = generate(prompts)
    finally:
        trainer.rollout_func, trainer.use_vllm = None, use_vllm
    log(trainer, found)
    return result


def replay(trainer: GRPOTrainer, prompts: list[str], generate: Callable[[list[str]], tuple]) -> tuple:
    """Returns the result of TRL's `_generate` for completions, or episodes, that were generated ahead."""
    if trainer.setting is None:
        return generate(prompts)
    assert trainer._replayed is not None and trainer.groups is not None  # the trainer calls this only then
    prompt_ids, ids, masks, _, logprobs, *_ = trainer._replayed
    made = {"prompt_ids": prompt_ids, "completion_ids": ids, "logprobs": logprobs, "env_mask": masks}
    found = [figures for group in trainer.groups.newest for figures in group.figures]
    return replayed(trainer, prompts, made, found, generate)


def pad_of(trainer: GRPOTrainer) -> int:
    """Returns the token that pads a trainer's batches."""
    pad = trainer.processing_class.pad_token_id
    assert isinstance(pad, int)  # TRL sets it
    return pad


def as_completions(episodes: list[Episode], pad: int, *, mask_cut: bool = False) -> dict[str, Any]:
    """Returns episodes as the result of a `rollout_func` of TRL.

    Args:
        pad: The token that stands for an episode without a turn, masked.
        mask_cut: Whether an episode that a limit cut short has no gradient, as with `mask_truncated_completions`.
    """
    prompts, completions, scores, masks = [], [], [], []
    for episode in episodes:
        ids, mask, logprobs = episode.completion_ids, episode.mask, episode.logprobs
        if not ids:
            ids, mask, logprobs = [pad], [0], [math.nan]
        if not episode.counted or (mask_cut and episode.cut):
            mask = [0] * len(ids)
        prompts.append(episode.prompt_ids)
        completions.append(ids)
        scores.append(logprobs)
        masks.append(mask)
    known = all(len(found) == len(ids) for found, ids in zip(scores, completions))  # transformers' are not needed
    return {
        "prompt_ids": prompts,
        "completion_ids": completions,
        "logprobs": scores if known else None,
        "env_mask": masks,
    }


def log(trainer: GRPOTrainer, found: list[dict]) -> None:
    """Logs the metrics of the episodes of all ranks, from the `figures` of this one.

    The ends replace TRL's guess, by the last token, of which were truncated and which were terminated, and lengths
    are of the model's own tokens, also of those that are masked because an episode does not count.
    """
    everything = gather_object(found)
    metrics = trainer._metrics["train" if trainer.model.training else "eval"]
    count, replies = len(everything), sum(one["replies"] for one in everything)
    logged = {"clipped_ratio": sum(one["cut"] for one in everything) / count}
    ended = [one["tokens"] for one in everything if one["counted"] and not one["cut"]] or [0]  # 0 as in TRL
    for kind, lengths in (("length", [one["tokens"] for one in everything]), ("terminated_length", ended)):
        logged |= {f"mean_{kind}": sum(lengths) / len(lengths)}
        logged |= {f"min_{kind}": min(lengths), f"max_{kind}": max(lengths)}
    for name, value in logged.items():
        metrics[f"completions/{name}"][-1:] = [float(value)]
    for name in ("turns", "calls", "reply_tokens"):
        metrics[f"episodes/{name}"].append(sum(one[name] for one in everything) / count)
    if replies:
        metrics["episodes/call_errors"].append(sum(one["errors"] for one in everything) / replies)
    if trainer.setting is not None and trainer.setting.tools:
        metrics["episodes/no_call"].append(sum(one["calls"] == 0 for one in everything) / count)
    metrics["episodes/env_errors"].append(sum(not one["counted"] for one in everything) / count)
    for end in ENDS:
        if share := sum(one["end"] == end for one in everything) / count:
            metrics[f"episodes/end/{end}"].append(share)
    trainer.log_spent("environment", sum(one["seconds"] for one in everything))


def figures(episode: Episode) -> dict:
    """The numbers of an episode that are logged."""
    return {
        "end": episode.end,
        "cut": episode.cut,
        "tokens": episode.own_tokens,
        "counted": episode.counted,
        **counts(episode.summary()["turns"]),
        "reply_tokens": episode.reply_tokens,
        "seconds": sum(segment.seconds for segment in episode.segments if not segment.own),
    }
