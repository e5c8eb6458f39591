"""Supervised fine-tuning on rows with a `completion`, by TRL's SFTTrainer."""

import random
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
    examples = [prompts.supervised(row, tokenizer, **template) for row in rows]
    own_order = {} if "train_sampling_strategy" in recipe.train else {"train_sampling_strategy": "sequential"}
    config = trl_config(SFTConfig, recipe, run_dir, **own_order)
    if own_order:
        examples = by_length(examples, config.per_device_train_batch_size, seed=recipe.seed)
    stop = StopOnInterrupt()
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(examples),
        processing_class=tokenizer,
        peft_config=models.lora_config(recipe.model.lora),
        callbacks=[Metrics(run_dir, _row(time.time())), stop],
    )
    trainer.train(resume_from_checkpoint=resume_point(run_dir))
    if stop.interrupted:
        return 130
    finish(trainer, recipe, run_dir, tokenizer, started)
    return 0


def by_length(examples: list[dict], batch_size: int, *, seed: int, window: int = 16) -> list[dict]:
    """Examples in a random order in which each batch holds examples of like length, so that little is padded.

    transformers' `group_by_length` sorts 50 batches at a time and trains on them in that order: where length goes with
    kind, the model sees one kind for many steps and forgets the other. Here the batches of a window are shuffled.
    """
    rng = random.Random(seed)
    examples = list(examples)
    rng.shuffle(examples)
    ordered = []
    for first in range(0, len(examples), batch_size * window):
        part = sorted(examples[first : first + batch_size * window], key=lambda e: len(e["input_ids"]))
        batches = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        rng.shuffle(batches)
        ordered += [example for batch in batches for example in batch]
    return ordered


def _model(recipe, rows: list[dict]):
    path = recipe.model.path
    if path.startswith("scratch:"):
        template = prompts.R1_ZERO if recipe.prompt.template == "r1-zero" else ""
        texts = [f"{template}{row['prompt']} {row['completion']}" for row in rows[:4000]]
        return models.scratch(path.removeprefix("scratch:"), texts, seed=recipe.seed)
    settings = {"revision": recipe.model.revision, "trust_remote_code": recipe.model.trust_remote_code}
    tokenizer = models.load_tokenizer(path, **settings)
    model = models.load_model(
        path,
        dtype=recipe.model.dtype,
        attn_implementation=recipe.model.attn_implementation,
        quantize=recipe.model.lora.quantize if recipe.model.lora else None,
        **settings,
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
