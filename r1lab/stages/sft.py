"""Supervised fine-tuning on rows with a `completion`, by TRL's SFTTrainer."""

import time
from pathlib import Path

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from r1lab import models, prompts
from r1lab.errors import UserError
from r1lab.stages.common import Metrics, StopOnInterrupt, build_rows, finish, resume_point, trl_config


def run(recipe, run_dir: Path) -> int:
    """Train on the completions of the recipe's data; the prompt is not learnt unless `completion_only_loss: false`."""
    started = time.time()
    rows = build_rows(recipe.data, seed=recipe.seed)
    for i, row in enumerate(rows):
        if not row.get("completion"):
            raise UserError(f"data: row {i + 1} has no completion, which sft learns from")
    model, tokenizer = _model(recipe, rows)
    template = {"template": recipe.prompt.template, "system": recipe.prompt.system}
    dataset = Dataset.from_list([prompts.supervised(row, tokenizer, **template) for row in rows])
    stop = StopOnInterrupt()
    trainer = SFTTrainer(
        model=model,
        args=trl_config(SFTConfig, recipe, run_dir),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=models.lora_config(recipe.model.lora),
        callbacks=[Metrics(run_dir, _row(time.time())), stop],
    )
    trainer.train(resume_from_checkpoint=resume_point(run_dir))
    if stop.interrupted:
        return 130
    finish(trainer, recipe, run_dir, tokenizer, started)
    return 0


def _model(recipe, rows: list[dict]):
    path = recipe.model.path
    if path.startswith("scratch:"):
        template = prompts.R1_ZERO if recipe.prompt.template == "r1-zero" else ""
        texts = [f"{template}{row['prompt']} {row['completion']}" for row in rows[:4000]]
        return models.scratch(path.removeprefix("scratch:"), texts, seed=recipe.seed)
    settings = {"revision": recipe.model.revision, "trust_remote_code": recipe.model.trust_remote_code}
    tokenizer = models.load_tokenizer(path, **settings)
    model = models.load_model(
        path, dtype=recipe.model.dtype, attn_implementation=recipe.model.attn_implementation, **settings
    )
    return model, tokenizer


def _row(started: float):
    seen = {"tokens": 0.0, "time": started}

    def to_row(logs: dict) -> dict:
        now, tokens = time.time(), logs.get("num_tokens", 0.0)
        rate = (tokens - seen["tokens"]) / max(now - seen["time"], 1e-6)
        seen.update(tokens=tokens, time=now)
        return {
            "loss": logs["loss"],
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            "accuracy": logs.get("mean_token_accuracy"),
            "tokens_per_second": round(rate),
        }

    return to_row
