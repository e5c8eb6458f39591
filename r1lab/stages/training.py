"""Code that all training stages share: TRL configuration, metrics, checkpoints, stopping and saving."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from transformers import TrainerCallback

from r1lab import interrupts, ranks
from r1lab.errors import UserError
from r1lab.recipe import batch
from r1lab.recipe.schema import StageRecipe, Trained, is_trained
from r1lab.rundir import directory, storage, trackers
from r1lab.stages.common import doing, warn

Config = TypeVar("Config")


def last_checkpoint(folder: Path) -> Path | None:
    """Returns the newest complete checkpoint, and removes incomplete ones that a kill left.

    `trainer_state.json` is the last file that transformers writes into a checkpoint.
    """
    whole = None
    for path in sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2])):
        if (path / "trainer_state.json").is_file():
            whole = path
        else:
            shutil.rmtree(path)
    return whole


def resume_point(run_dir: Path) -> str | None:
    """Returns the checkpoint to resume from, and removes the metrics and samples of later steps."""
    checkpoint = last_checkpoint(run_dir / "checkpoints")
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    metrics = run_dir / "metrics.jsonl"
    if metrics.exists():
        kept = [row for row in storage.read_jsonl(metrics) if row.get("step", 0) <= step]
        storage.write_jsonl(metrics, kept)
    for later, paths in directory.samples_by_step(run_dir).items():
        if later > step:
            for path in paths:
                path.unlink()
    return str(checkpoint) if checkpoint else None


class Metrics(TrainerCallback):
    """Writes a row per step to `metrics.jsonl`, and to the trackers of `train.report_to`.

    Args:
        to_row: Converts the trainer's logs of a step, and the seconds of the step, to the row.
    """

    def __init__(self, recipe: Trained, run_dir: Path, to_row: Callable[[dict, float], dict]):
        self.recipe, self.run_dir, self.to_row = recipe, run_dir, to_row
        self.trackers: list[trackers.Tracker] = []
        self.seconds = 0.0  # of the last step; 0 before the first has ended

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            names = trackers.own(self.recipe.train.get("report_to"))
            config, step = self.recipe.model_dump(), state.global_step
            self.trackers = [trackers.start(name, self.run_dir, config, step) for name in names]

    def on_step_begin(self, args, state, control, **kwargs):
        if not self.seconds and state.is_world_process_zero:
            doing(self.run_dir, f"step {state.global_step + 1}, the first of this process")
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self.began  # without an evaluation, which runs before the log

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs and "loss" in logs:
            row = {"phase": "train", "step": state.global_step, "total": state.max_steps}
            self.write(row | self.to_row(logs, self.seconds))

    def on_train_end(self, args, state, control, **kwargs):
        for _, end in self.trackers:
            end()

    def write(self, row: dict) -> None:
        """Appends a row of a step, with the time."""
        row = row | {"time": time.time()}
        storage.append_jsonl(self.run_dir / "metrics.jsonl", row)
        prefix = "eval/" if row["phase"] == "eval" else ""
        for log, _ in self.trackers:
            log(trackers.flat(row.get("tasks", {}) if prefix else row, prefix), row["step"])


class StopOnInterrupt(TrainerCallback):
    """On SIGINT, SIGTERM or SIGHUP, finishes the step, saves a checkpoint and stops; a second SIGINT or SIGTERM stops
    immediately. As a context manager, it restores the previous handlers."""

    def __init__(self):
        self.interrupted = False

    def __enter__(self):
        self._before = {number: signal.signal(number, self._request_stop) for number in interrupts.stop_signals()}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request_stop(self, number, frame):
        if self.interrupted:
            if number == signal.SIGHUP:  # a dropped connection often sends it twice, or with a SIGTERM
                return
            raise KeyboardInterrupt
        self.interrupted = True
        print("interrupted: finishing this step and saving a checkpoint", flush=True)

    def on_step_end(self, args, state, control, **kwargs):
        if self.interrupted:
            control.should_save = True
            control.should_training_stop = True


def trl_config(config_class: type[Config], recipe: StageRecipe, run_dir: Path, **owned: Any) -> Config:
    """Returns TRL's config: r1lab's few defaults, overridden by the recipe's `train` section and then by `owned`."""
    import torch

    from r1lab.models.loading import emulates_bfloat16

    settings: dict[str, Any] = {
        "save_total_limit": 2,
        "report_to": "none",
        "bf16": torch.cuda.is_available() and not emulates_bfloat16(),
        "gradient_checkpointing": torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),  # without CUDA it only prints a warning
        "disable_tqdm": True,
    }
    if recipe.stage == "grpo":
        # TRL's default masks a whole sequence because of one token.
        settings["vllm_importance_sampling_mode"] = "token_truncate"
    train: dict[str, Any] = getattr(recipe, "train", {})
    settings |= {key: value for key, value in train.items() if key not in recipe.own.model_fields}
    if is_trained(recipe) and recipe.train.get("global_batch_size"):  # of the processes that there are
        settings["gradient_accumulation_steps"] = batch.of(recipe, ranks.world_size()).accumulation
    reported = settings["report_to"]
    if ours := trackers.own(reported):  # `Metrics` reports to these, under the names of metrics.jsonl
        rest = [name for name in ([reported] if isinstance(reported, str) else reported) if name not in ours]
        settings["report_to"] = rest or "none"
    # One row of metrics per step, because rates, alarms and samples are per step.
    owned |= {"logging_strategy": "steps", "logging_steps": 1}
    settings |= {"output_dir": str(run_dir / "checkpoints"), "seed": recipe.seed, **owned}
    try:
        return config_class(**settings)
    except ValueError as error:  # TRL's own checks across fields
        raise UserError(f"train: {' '.join(str(error).split())}") from error


def train_and_save(trainer, recipe: Trained, run_dir: Path, tokenizer, started: float, **more) -> int:
    """Trains from the last checkpoint and saves the model; returns the exit status, 130 if a signal stopped it."""
    with StopOnInterrupt() as stop:
        trainer.add_callback(stop)
        check_saveable(trainer, tokenizer, run_dir)
        trainer.train(resume_from_checkpoint=resume_point(run_dir))
        if stop.interrupted:
            return 130
        finish(trainer, recipe, run_dir, tokenizer, started, **more)
    return 0


def check_saveable(trainer, tokenizer, run_dir: Path) -> None:
    """Ends a run before training if its model could not be saved, and warns about settings that are not saved."""
    from r1lab.models import saving

    for line in saving.check_saveable(trainer.accelerator.unwrap_model(trainer.model), tokenizer):
        warn(run_dir, line)


def finish(trainer, recipe: Trained, run_dir: Path, tokenizer, started: float, **more) -> None:
    """Saves the model for the next stage, then `result.json`, whose presence marks the stage as finished."""
    from r1lab.models.loading import is_adapter, resolve
    from r1lab.models.saving import compare, save

    if not trainer.state.global_step:
        rows, size = len(trainer.train_dataset), trainer.args.per_device_train_batch_size
        way = "use more rows, or lower train.per_device_train_batch_size"
        raise UserError(f"train: {rows} rows are too few for a batch of {size}, so no step was trained: {way}")
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        model, lora = trainer.accelerator.unwrap_model(trainer.model), getattr(recipe.model, "lora", None)
        if lora:
            # The base from the recipe: if that is an adapter's folder, peft only knows the base of that adapter.
            base = recipe.model.path if is_adapter(recipe.model.path) else resolve(recipe.model.path)
            model.active_peft_config.base_model_name_or_path = os.path.abspath(base) if os.path.isdir(base) else base
            model.active_peft_config.revision = recipe.model.revision
            save(model, tokenizer, run_dir / "adapter", merge=False)
        save(model, tokenizer, run_dir / "model", merge=lora is None or lora.merge)
        how = {"scores": recipe.stage == "reward", "trust_remote_code": recipe.model.trust_remote_code}
        difference = compare(model, run_dir / "model", **how)
        print(f"the saved model and the trained one differ by {difference:.2g} nats per token", flush=True)
        result = {
            "stage": recipe.stage,
            "seconds": round(time.time() - started, 1),
            "steps": trainer.state.global_step,
            "model": "model",
            **more,
        }
        storage.write_json_atomic(run_dir / "result.json", result)
