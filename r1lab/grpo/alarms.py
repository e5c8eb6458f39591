"""Alarms: a run that goes wrong warns, stops, or rolls back to its last good checkpoint with a lower learning rate.

`alarms_raised` is the core and needs only logged metrics. `AlarmCallback` passes it the trainer's logs and does what
the recipe says.
"""

import json
import math
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from transformers import TrainerCallback

from r1lab import ranks
from r1lab.errors import UserError
from r1lab.recipe.acting import environment_of
from r1lab.recipe.schema import GrpoRecipe
from r1lab.recipe.training import Alarm, Alarms, MetricAlarm
from r1lab.rundir import storage

# The name of each alarm's metric in the trainer's logs.
LOGS = {
    "entropy": "entropy",
    "length": "completions/mean_length",
    "truncated": "completions/clipped_ratio",
    "kl": "kl",
    "no_signal": "frac_reward_zero_std",
    "drift": "sampling/sampling_logp_difference/mean",
    "call_errors": "episodes/call_errors",
    "no_call": "episodes/no_call",
    "env_errors": "episodes/env_errors",
    "loss": "loss",
    "grad_norm": "grad_norm",
}
# A description of each metric, and the fix.
DESCRIPTIONS = {
    "entropy": ("mean token entropy in nats", "lower train.learning_rate, or raise rollout.temperature"),
    "length": ("mean completion length in tokens", "read samples/, because a reward may score length alone"),
    "truncated": ("share of truncated completions", "raise rollout.max_completion_length"),
    "kl": ("KL divergence from the reference in nats", "lower train.learning_rate, or raise train.beta"),
    "no_signal": ("share of groups without signal", "raise rollout.num_generations, or set rollout.dynamic_sampling"),
    "drift": (
        "mean |log-probability difference of engine and policy| in nats",
        "set model.dtype: float32, or rollout.engine: transformers",
    ),
    "call_errors": (
        "share of the environment's replies that are errors",
        "read samples/, show the format of a call in the prompt, or begin with an sft stage on right episodes",
    ),
    "no_call": (
        "share of episodes without a call",
        "use rows that cannot be solved without one, or begin with an sft stage on right episodes",
    ),
    "env_errors": (
        "share of episodes whose environment failed",
        "correct the environment: samples/ has the reason of each as `info`",
    ),
    "loss": ("loss", "lower train.learning_rate, or set model.dtype: float32"),
}
ROLLBACK = "rollback.json"
# From the start of this process: TRL later adds RANK and others to its environment, and vLLM binds it to one core.
_ENVIRONMENT = dict(os.environ)
_CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


@dataclass(frozen=True)
class Episode:
    """Consecutive logged steps, up to the newest, in which an alarm's metric was out of bounds.

    Attributes:
        name: The alarm.
        since: The first step that may have been bad: the one after the last good value.
        steps: The number of steps.
        message: The newest value and its bound.
    """

    name: str
    since: int
    steps: int
    message: str


def alarms_raised(history: list[dict], alarms: Alarms) -> list[Episode]:
    """Returns the alarms that fire at the newest row, the mildest action first.

    Args:
        history: Rows of `step` and metrics, one per log of the trainer; metrics may be missing.
        alarms: A recipe's section.

    >>> rows = [{"step": 1, "entropy": 0.5}, {"step": 2, "entropy": 0.01}, {"step": 3, "entropy": 0.01}]
    >>> [(e.name, e.since) for e in alarms_raised(rows, Alarms(entropy={"steps": 2}))]
    [('entropy', 2)]
    """
    active = alarms.active()
    fired = [e for e in episodes(history, alarms) if e.steps >= _patience(active[e.name])]
    return sorted(fired, key=lambda e: ("warn", "rollback", "stop").index(active[e.name].do))


def episodes(history: list[dict], alarms: Alarms) -> list[Episode]:
    """Returns the episodes that continue at the newest row, whether or not they are long enough to fire."""
    found = [_episode(name, alarm, history, alarms.first) for name, alarm in alarms.active().items()]
    return [episode for episode in found if episode]


def _episode(name: str, alarm: Alarm, history: list[dict], first: int) -> Episode | None:
    scale, after = 1.0, 0
    if name == "length":  # its bounds are multiples of the mean of the first steps
        start = [row["length"] for row in history[:first] if row["step"] <= first and "length" in row]
        scale, after = (sum(start) / len(start) if start else math.nan), first
    newest, since = None, 1
    for row in reversed(history):
        if name not in row:
            continue
        message = None
        if row["step"] > after:
            bounded = isinstance(alarm, MetricAlarm)
            message = _out_of_bounds(name, alarm, row[name], scale) if bounded else _not_finite(row)
        if not message:
            since = row["step"] + 1
            break
        newest = newest or (row["step"], message)
    return Episode(name, since, newest[0] - since + 1, newest[1]) if newest else None


def _patience(alarm: Alarm) -> int:
    """Returns after how many consecutive steps out of bounds the alarm fires; the alarm of the loss fires at once."""
    return alarm.steps if isinstance(alarm, MetricAlarm) else 1


def _not_finite(row: dict) -> str | None:
    bad = [f"{key} is {row[key]}" for key in ("loss", "grad_norm") if key in row and not math.isfinite(row[key])]
    return bad[0] if bad else None


def _out_of_bounds(name: str, alarm: MetricAlarm, value: float, scale: float) -> str | None:
    if alarm.below is not None and value <= alarm.below * scale:
        return f"{DESCRIPTIONS[name][0]} is {value:.3g}, at or below {alarm.below * scale:.3g}"
    if alarm.above is not None and value >= alarm.above * scale:
        return f"{DESCRIPTIONS[name][0]} is {value:.3g}, at or above {alarm.above * scale:.3g}"
    return None


class RolledBack(Exception):  # noqa: N818  not an error: the run continues
    """The run rolls back to an earlier checkpoint: `restart`, then `finish_rollback`."""


class AlarmCallback(TrainerCallback):
    """Acts on alarms. Create it after the metrics of steps after the checkpoint are removed; add it after `Metrics`.

    Raises:
        UserError: An alarm stops the run (exit status 1).
        RolledBack: An alarm rolls the run back.
    """

    def __init__(self, recipe: GrpoRecipe, run_dir: Path):
        self.recipe, self.run_dir = recipe, run_dir
        # With truncated sampling, the log-probabilities of engine and policy differ by design.
        by_design = {"drift": None} if recipe.rollout.biased_sampling else {}
        section = environment_of(recipe)
        if section is not None and section.on_error == "skip":  # tools that raise then count as such failures
            by_design["env_errors"] = None
        self.alarms = recipe.alarms.model_copy(update=by_design)
        self.active = self.alarms.active()
        # Read once: rank 0 writes both while the other ranks still decide, and all have to decide alike.
        rows, self.rollback = ranks.from_main(
            lambda: (storage.read_jsonl(run_dir / "metrics.jsonl"), read_rollback(run_dir))
        )
        self.history = [_metrics(row) for row in rows if row.get("phase") == "train"]
        self.skipped = False  # whether an update was skipped since the last log
        self.warned = {(row["alarm"], row["since"]) for row in rows if "alarm" in row}

    def on_train_begin(self, args, state, control, *, optimizer, lr_scheduler, **kwargs):
        """Applies a rollback's learning rate; a checkpoint restores the one that it was saved with."""
        factor = self.rollback["learning_rate_factor"]
        if factor < 1 and args.learning_rate:
            ratio = args.learning_rate * factor / lr_scheduler.base_lrs[0]
            lr_scheduler.base_lrs = [rate * ratio for rate in lr_scheduler.base_lrs]
            for group in optimizer.param_groups:
                group["lr"] *= ratio
                group["initial_lr"] *= ratio
            lr_scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]  # the first log shows it

    def on_pre_optimizer_step(self, args, state, control, *, model, optimizer, **kwargs):
        """Skips the update if the gradient is not finite. With fp16, the gradient scaler does that."""
        if "loss" not in self.active or args.fp16 or _finite_gradient(model):
            return
        if self.active["loss"].do == "warn":
            optimizer.zero_grad()  # to None: the optimizer skips such parameters
            self.skipped = True
            return
        self._act(Episode("loss", state.global_step + 1, 1, "the gradient is not finite"), args, state)

    def on_log(self, args, state, control, *, logs, **kwargs):
        if "loss" not in logs:  # the end of training, after which the trainer might keep only the "best" checkpoint
            state.best_model_checkpoint = None
            return
        row = {"step": state.global_step} | {key: logs[name] for key, name in LOGS.items() if name in logs}
        if self.skipped:
            row["grad_norm"], self.skipped = math.nan, False
        if args.fp16:
            row.pop("grad_norm", None)  # infinite whenever the scaler tries a larger scale
        self.history.append(row)
        self._protect(args, state)
        for episode in alarms_raised(self.history, self.alarms):
            self._act(episode, args, state)

    def on_save(self, args, state, control, **kwargs):
        self._protect(args, state)

    def _protect(self, args, state) -> None:
        """Makes the last good checkpoint the "best" one, which the trainer never deletes."""
        acting = [e.since for e in episodes(self.history, self.alarms) if self.active[e.name].do != "warn"]
        logged = self.history[-1]["step"] + 1 if self.history else 0
        good = last_good(Path(args.output_dir), min([*acting, logged]))
        state.best_model_checkpoint = str(good) if good else None

    def _act(self, episode: Episode, args, state) -> None:
        do = self.active[episode.name].do
        message = f"alarm {episode.name}: {episode.message}, since step {episode.since}"
        if do == "warn":
            if (episode.name, episode.since) not in self.warned:
                self.warned.add((episode.name, episode.since))
                message += f": {DESCRIPTIONS[episode.name][1]}; alarms.{episode.name}: null turns this alarm off"
                self._warn(state, message, step=state.global_step, alarm=episode.name, since=episode.since)
            return
        good = last_good(Path(args.output_dir), episode.since)
        before = self.rollback
        if do == "stop" or episode.name in before["alarms"]:
            again = ", again after a rollback" if do == "rollback" else ""
            raise UserError(f"{message}: stopped{again}; {self._fix(episode, good, args)}", status=1)
        factor = before["learning_rate_factor"] * self.alarms.learning_rate_factor
        place = f"step {_step(good)}" if good else "the start"
        self._warn(state, f"{message}: rolled back to {place}, with learning rate {args.learning_rate * factor:.3g}")
        if state.is_world_process_zero:
            after = {"alarms": [*before["alarms"], episode.name], "learning_rate_factor": factor}
            storage.write_json_atomic(self.run_dir / ROLLBACK, after | {"to": _step(good) if good else 0})
        raise RolledBack

    def _warn(self, state, message: str, **more) -> None:
        if state.is_world_process_zero:
            print(f"warning: {message}", flush=True)
            row = {"phase": "warning", "time": time.time(), "message": message}
            storage.append_jsonl(self.run_dir / "metrics.jsonl", row | more)

    def _fix(self, episode: Episode, good: Path | None, args) -> str:
        """Returns the last good checkpoint, and the arguments with which to continue."""
        if episode.name == "env_errors":  # the weights are as good as before
            return f"{DESCRIPTIONS[episode.name][1]}, and continue with --resume"
        # The folder of a pipeline's stage is in the run's folder.
        stage = f"stages.{self.recipe.name}." if (self.run_dir.parent / "config.yaml").is_file() else ""
        factor = self.rollback["learning_rate_factor"] * self.alarms.learning_rate_factor
        arguments = ["--name NEW", f"{stage}train.learning_rate={args.learning_rate * factor:.3g}"]
        if good and self.recipe.model.lora is None:  # with LoRA a checkpoint has only the adapter
            arguments.insert(1, f"{stage}model.path={good}")
        found = f"last good checkpoint: {good}" if good else f"no good checkpoint before step {episode.since}"
        return (
            f"{found}; to continue, {DESCRIPTIONS[episode.name][1]}: add `{' '.join(arguments)}` to the command, or "
            f"`--name NEW {stage}alarms.{episode.name}.do=warn` to continue anyway"
        )


def _metrics(row: dict) -> dict:
    """Returns the metrics that alarms use from a row of metrics.jsonl, where null means not finite."""
    row = row.get("episodes", {}) | row
    return {key: math.nan if row[key] is None else row[key] for key in ("step", *LOGS) if key in row}


def _finite_gradient(model) -> bool:
    """Whether the gradient is finite on all ranks; true if the parameters do not have it, as with DeepSpeed."""
    import torch
    from accelerate.utils import gather
    from torch.distributed.tensor import DTensor

    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients:
        return True
    norm = torch.nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    return bool(cast(torch.Tensor, gather(norm.isfinite().float())).min())  # it returns a tensor for a tensor


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def last_good(folder: Path, since: int) -> Path | None:
    """Returns the newest complete checkpoint from before an episode that began with step `since`.

    A step's metrics, and its gradient, come from the weights before it, so checkpoint `since - 1` is bad already.
    """
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return max((path for path in whole if _step(path) < since - 1), key=_step, default=None)


def read_rollback(run_dir: Path) -> dict:
    """Returns the state of a run's rollbacks.

    Returns:
        `alarms`, the alarms that caused them; `learning_rate_factor`; `to`, the step that an unfinished rollback goes
        back to, None if there is none.
    """
    if not (run_dir / ROLLBACK).is_file():
        return {"alarms": [], "learning_rate_factor": 1.0, "to": None}
    return json.loads((run_dir / ROLLBACK).read_text(encoding="utf-8"))


def finish_rollback(run_dir: Path) -> None:
    """Deletes the checkpoints after the step that a rollback goes back to, so that the run resumes there."""
    state = read_rollback(run_dir)
    if state["to"] is None:
        return
    for path in (run_dir / "checkpoints").glob("checkpoint-*"):
        if _step(path) > state["to"]:
            shutil.rmtree(path)
    storage.write_json_atomic(run_dir / ROLLBACK, state | {"to": None})


def restart() -> None:
    """Restarts this process with the same command, so that everything is loaded from the checkpoint."""
    import psutil

    for child in psutil.Process().children(recursive=True):  # those of the engine and the graders would stay
        child.kill()
    if _CORES:
        os.sched_setaffinity(0, _CORES)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], _ENVIRONMENT)
