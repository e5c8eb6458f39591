"""What the stages share: rows from a builder, TRL's config, checkpoints, metrics, interruption."""

import inspect
import os
import shutil
import signal
import time
from pathlib import Path

from transformers import TrainerCallback

from r1lab import engines, lookup, rundir
from r1lab.errors import UserError
from r1lab.schema import GrpoTrain


def build_rows(data, *, seed: int, split: str | None = None, size: int | None = None) -> list[dict]:
    """The rows that a recipe's `data` section (or an eval task) asks for."""
    builder = lookup.function("data", data.builder)
    parameters = dict(data.model_extra or {})
    given = {
        "split": split or data.split,
        "size": size if size is not None else data.size,
        "seed": data.seed if data.seed is not None else seed,
    }
    accepted = inspect.signature(builder).parameters
    parameters |= {k: v for k, v in given.items() if k in accepted and v is not None}
    rows = builder(**parameters)
    if not rows:
        raise UserError(f"data: {data.builder} gave no rows for split {given['split']}")
    return rows


def report_gold(grader, rows: list[dict], run_dir: Path) -> None:
    """Warn of rows that no completion can score on, before any is written; see `Grader.gold_problems`."""
    for problem in grader.gold_problems(rows):
        print(f"warning: {problem}", flush=True)
        rundir.append_jsonl(run_dir / "metrics.jsonl", {"phase": "warning", "time": time.time(), "message": problem})


def load_engine(recipe):
    """The engine that a recipe's `model` and `rollout` sections ask for."""
    return engines.load(
        recipe.model.path,
        engine=recipe.rollout.engine,
        dtype=recipe.model.dtype,
        max_model_length=recipe.rollout.max_model_length,
        gpu_memory_utilization=recipe.rollout.gpu_memory_utilization,
        seed=recipe.seed,
        revision=recipe.model.revision,
        trust_remote_code=recipe.model.trust_remote_code,
    )


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; one that a kill left half-written is removed.

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
    """The checkpoint to go on from, with metrics and samples of later steps taken back."""
    checkpoint = last_checkpoint(run_dir / "checkpoints")
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    metrics = run_dir / "metrics.jsonl"
    if metrics.exists():
        kept = [row for row in rundir.read_jsonl(metrics) if row.get("step", 0) <= step]
        rundir.write_jsonl(metrics, kept)
    for path in (run_dir / "samples").glob("step_*.jsonl"):
        if int(path.name[5:11]) > step:
            path.unlink()
    return str(checkpoint) if checkpoint else None


class Metrics(TrainerCallback):
    """Writes a row to `metrics.jsonl` for each of the trainer's logs, by `to_row(logs) -> dict`."""

    def __init__(self, run_dir: Path, to_row):
        self.path = run_dir / "metrics.jsonl"
        self.to_row = to_row

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs and "loss" in logs:
            row = {"phase": "train", "step": state.global_step, "total": state.max_steps, "time": time.time()}
            rundir.append_jsonl(self.path, row | self.to_row(logs))


class StopOnInterrupt(TrainerCallback):
    """On SIGINT or SIGTERM, ends the step, saves a checkpoint and stops; a second signal stops at once."""

    def __init__(self):
        self.interrupted = False
        signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number, frame):
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        print("interrupted: ending this step and saving a checkpoint", flush=True)

    def on_step_end(self, args, state, control, **kwargs):
        if self.interrupted:
            control.should_save = True
            control.should_training_stop = True
        return control


def trl_config(config_class, recipe, run_dir: Path, **owned):
    """TRL's config: the recipe's `train` section over r1lab's few defaults, with what r1lab owns on top."""
    import torch

    settings = {
        "logging_steps": 1,
        "save_total_limit": 2,
        "report_to": "none",
        "bf16": torch.cuda.is_available(),
        "gradient_checkpointing": torch.cuda.is_available(),
        "disable_tqdm": True,
    }
    if recipe.stage == "grpo":
        settings["vllm_importance_sampling_mode"] = "token_truncate"  # TRL's default masks a sequence for one token
    settings |= {key: value for key, value in recipe.train.items() if key not in GrpoTrain.model_fields}
    settings |= {"output_dir": str(run_dir / "checkpoints"), "seed": recipe.seed, **owned}
    try:
        return config_class(**settings)
    except ValueError as error:  # TRL's own checks across fields
        raise UserError(f"train: {' '.join(str(error).split())}") from error


def finish(trainer, recipe, run_dir: Path, tokenizer, started: float, **more) -> None:
    """Save the model for the next stage, then `result.json`, whose presence means finished."""
    from r1lab.models import is_adapter, resolve, save

    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        model, lora = trainer.accelerator.unwrap_model(trainer.model), recipe.model.lora
        if lora:
            # The base as the recipe names it: where that is an adapter's folder, peft knows only the base under it.
            base = recipe.model.path if is_adapter(recipe.model.path) else resolve(recipe.model.path)
            model.active_peft_config.base_model_name_or_path = os.path.abspath(base) if os.path.isdir(base) else base
            model.active_peft_config.revision = recipe.model.revision
            save(model, tokenizer, run_dir / "adapter", merge=False)
        save(model, tokenizer, run_dir / "model", merge=lora is None or lora.merge)
        result = {
            "stage": recipe.stage,
            "seconds": round(time.time() - started, 1),
            "steps": trainer.state.global_step,
            "model": "model",
            **more,
        }
        rundir.write_json_atomic(run_dir / "result.json", result)
