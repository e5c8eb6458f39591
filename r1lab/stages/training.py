"""Code that all training stages share: TRL configuration, metrics, checkpoints, stopping and saving."""

import datetime
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from transformers import TrainerCallback, TrainingArguments

from r1lab import interrupts, ranks
from r1lab.errors import UserError
from r1lab.models import shard
from r1lab.recipe import batch, precision
from r1lab.recipe.devices import TrainLaunch
from r1lab.recipe.schema import StageRecipe, Trained, is_trained
from r1lab.rundir import directory, storage, trackers
from r1lab.stages.allocation import keep_freed_memory
from r1lab.stages.common import doing, warn

Config = TypeVar("Config", bound=TrainingArguments)


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


def resume_point(run_dir: Path, *, sharded: bool = False) -> str | None:
    """Returns the checkpoint to resume from, and removes the metrics and samples of later steps.

    Of several ranks, only rank 0 may call it, while the others wait: `ranks.from_main`.

    Args:
        sharded: Whether the training that resumes is sharded by FSDP2.
    """
    checkpoint = last_checkpoint(run_dir / "checkpoints")
    if checkpoint:
        shard.fit_checkpoint(checkpoint, sharded=sharded)
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
        ranks.beat(self.run_dir)
        if not self.seconds and state.is_world_process_zero:
            doing(self.run_dir, f"step {state.global_step + 1}, the first of this process")
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self.began  # without an evaluation, which runs before the log
        ranks.beat(self.run_dir)

    def on_save(self, args, state, control, **kwargs):
        ranks.beat(self.run_dir)

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
    immediately. As a context manager, it restores the previous handlers.

    Several ranks stop at the same step, the one that any of them is in when it gets the signal. A file `stop` in the
    run directory has the effect of a signal, for launchers whose signals do not reach the ranks.

    Attributes:
        interrupted: Whether this rank was asked to stop.
        stopped: Whether the training was stopped, the same on all ranks.
    """

    def __init__(self, run_dir: Path):
        self.file = run_dir / "stop"
        self.interrupted = self.stopped = False

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

    def requested(self) -> bool:
        """Whether any rank was asked to stop; all ranks have to call it at the same place."""
        self.stopped = ranks.any_rank(self.interrupted or (ranks.is_main() and self.file.exists()))
        return self.stopped

    def on_step_end(self, args, state, control, **kwargs):
        if self.requested():
            control.should_save = True
            control.should_training_stop = True


def trl_config(config_class: type[Config], recipe: StageRecipe, run_dir: Path, **owned: Any) -> Config:
    """Returns TRL's config: r1lab's few defaults, overridden by the recipe's `train` section and then by `owned`."""
    import torch

    settings: dict[str, Any] = {
        "save_total_limit": 2,
        "report_to": "none",
        "gradient_checkpointing": torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),  # without CUDA it only prints a warning
        "disable_tqdm": True,
    }
    if recipe.on_policy:
        # TRL's default masks a whole sequence because of one token.
        settings["vllm_importance_sampling_mode"] = "token_truncate"
    train: dict[str, Any] = getattr(recipe, "train", {})
    settings |= {key: value for key, value in train.items() if key not in recipe.own.model_fields}
    if is_trained(recipe):
        settings |= _precision_settings(recipe)
        if recipe.train.get("global_batch_size"):  # of the processes that there are
            settings["gradient_accumulation_steps"] = batch.of(recipe, ranks.world_size()).accumulation
    reported = settings["report_to"]
    if ours := trackers.own(reported):  # `Metrics` reports to these, under the names of metrics.jsonl
        rest = [name for name in ([reported] if isinstance(reported, str) else reported) if name not in ours]
        settings["report_to"] = rest or "none"
    # One row of metrics per step, because rates, alarms and samples are per step.
    owned |= {"logging_strategy": "steps", "logging_steps": 1}
    settings |= {"output_dir": str(run_dir / "checkpoints"), "seed": recipe.seed, **owned}
    settings |= _group_settings(recipe)
    try:
        config = config_class(**settings)
    except ValueError as error:  # TRL's own checks across fields
        raise UserError(f"train: {' '.join(str(error).split())}") from error
    if ranks.world_size() == 1 and config.n_gpu > 1:
        # transformers would split each batch over all GPUs of the machine (torch's DataParallel), which an only rank
        # neither asks for nor takes into account.
        config._n_gpu = 1
    if ranks.world_size() > 1 and settings.get("use_cpu"):
        _name_cpu(config)
        if settings.get("fsdp"):
            shard.allow_cpu()
    if settings.get("fsdp") is True and (settings["bf16"] or settings["fp16"]):  # that of launch.strategy
        shard.reduce_in_float32(config)
    return config


def _precision_settings(recipe: Trained) -> dict[str, Any]:
    """Returns the settings by which transformers computes in `model.dtype`.

    Raises:
        UserError: This machine cannot train in it.
    """
    import torch

    from r1lab.models.loading import dtype_name

    dtype = precision.computed(recipe, dtype_name(recipe.model.dtype))
    settings: dict[str, Any] = {"bf16": dtype == "bfloat16", "fp16": dtype == "float16"}
    if dtype and not torch.accelerator.is_available():
        if dtype == "float16":
            raise UserError("model.dtype: float16 cannot be trained without a GPU: set float32 or bfloat16")
        settings["use_cpu"] = True  # without it, transformers refuses bf16
    return settings


def _name_cpu(config: object) -> None:
    """Calls the device of several ranks on a CPU `cpu`.

    accelerate 1.15 calls it `cpu:0`, to which torch does not load a checkpoint.
    """
    import torch
    from accelerate import PartialState

    PartialState._shared_state["device"] = vars(config)["_setup_devices"] = torch.device("cpu")


def _group_settings(recipe: StageRecipe) -> dict[str, Any]:
    """Returns the settings with which transformers joins the process group of several ranks.

    A rank waits for the others for twice `launch.timeout`: `r1lab run`, which knows where each rank is, should find a
    hang first, and a rank that shows signs of life may work for longer. A group on the CPU is made here, because
    transformers neither makes one without `use_cpu` nor passes on the limit with it.
    """
    if ranks.world_size() == 1:
        return {}
    import torch

    launch: TrainLaunch = getattr(recipe, "launch", TrainLaunch())
    settings: dict[str, Any] = {"ddp_timeout": 2 * launch.timeout}
    shard.off()
    if launch.strategy == "fsdp2":
        settings |= shard.settings()
    if not torch.accelerator.is_available():
        settings["use_cpu"] = True
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=settings["ddp_timeout"]))
    return settings


def train_and_save(trainer, recipe: Trained, run_dir: Path, tokenizer, started: float, **more) -> int:
    """Trains from the last checkpoint and saves the model; returns the exit status, 130 if a signal stopped it."""
    with StopOnInterrupt(run_dir) as stop:
        trainer.add_callback(stop)
        check_saveable(trainer, tokenizer, run_dir)
        shard.all_ranks_read()
        checkpoint = ranks.from_main(partial(resume_point, run_dir, sharded=trainer.is_fsdp_enabled))
        if recipe.launch.strategy == "fsdp2":
            shard.choose_form(trainer, checkpoint)
        keep_freed_memory()
        trainer.train(resume_from_checkpoint=checkpoint)
        if stop.stopped:
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
    from r1lab.models import saving
    from r1lab.models.loading import recorded, torch_dtype

    if not trainer.state.global_step:
        rows, size = len(trainer.train_dataset), trainer.args.per_device_train_batch_size
        way = "use more rows, or lower train.per_device_train_batch_size"
        raise UserError(f"train: {rows} rows are too few for a batch of {size}, so no step was trained: {way}")
    trainer.accelerator.wait_for_everyone()
    ranks.beat(run_dir)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    logits = saving.logits(trained)
    lora = getattr(recipe.model, "lora", None)
    model = shard.whole(trainer.accelerator, trained, None if lora else torch_dtype(recipe.model.dtype))
    if model is not None:  # rank 0
        if lora:
            # The base from the recipe: if that is an adapter's folder, peft only knows the base of that adapter.
            model.active_peft_config.base_model_name_or_path = recorded(recipe.model.path)
            model.active_peft_config.revision = recipe.model.revision
            saving.save(model, tokenizer, run_dir / "adapter", merge=False)
        saving.save(model, tokenizer, run_dir / "model", merge=lora is None or lora.merge)
        how = {"scores": recipe.stage == "reward", "trust_remote_code": recipe.model.trust_remote_code}
        difference = saving.compare(model, run_dir / "model", ours=logits, **how)
        print(f"the saved model and the trained one differ by {difference:.2g} nats per token", flush=True)
        result = {
            "stage": recipe.stage,
            "seconds": round(time.time() - started, 1),
            "steps": trainer.state.global_step,
            "model": "model",
            **more,
        }
        storage.write_json_atomic(run_dir / "result.json", result)
    trainer.accelerator.wait_for_everyone()  # the next stage may run in these processes, and reads the model
