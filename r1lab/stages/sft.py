"""Supervised fine-tuning on rows with a `completion`, by TRL's SFTTrainer."""

import random
import time
from pathlib import Path

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from r1lab import models, prompts, summary
from r1lab.errors import UserError
from r1lab.stages.common import (
    Metrics,
    build_rows,
    load_model,
    load_tokenizer,
    note,
    train_and_save,
    trl_config,
    warn,
)


def run(recipe, run_dir: Path) -> int:
    """Train on the completions of the recipe's data; the prompt is not learnt unless `completion_only_loss: false`."""
    started = time.time()
    tokenizer = None if recipe.model.path.startswith("scratch:") else load_tokenizer(recipe)
    rows = build_rows(recipe.data, seed=recipe.seed, run_dir=run_dir, tokenizer=tokenizer)
    for i, row in enumerate(rows):
        if not row.get("completion"):
            raise UserError(f"data: row {i + 1} has no completion, which sft learns from")
    model, tokenizer = _model(recipe, rows, tokenizer)
    own = {"completion_only_loss": True} if "completion_only_loss" not in recipe.train else {}
    if "train_sampling_strategy" not in recipe.train:
        own["train_sampling_strategy"] = "sequential"
    examples = _examples(recipe, rows, tokenizer, run_dir)
    if recipe.train.get("packing"):
        own["max_length"] = recipe.train.get("max_length") or max(len(e["input_ids"]) for e in examples)
    else:
        own["max_length"] = None  # what is too long is left out, or cut, already
    config = trl_config(SFTConfig, recipe, run_dir, **own)
    if "train_sampling_strategy" in own and not config.packing:
        examples = by_length(examples, config.per_device_train_batch_size, seed=recipe.seed)
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(examples),
        processing_class=tokenizer,
        peft_config=models.lora_config(recipe.model.lora),
        callbacks=[Metrics(recipe, run_dir, _row())],
    )
    show_labels(trainer, tokenizer, run_dir)
    return train_and_save(trainer, recipe, run_dir, tokenizer, started)


def _examples(recipe, rows: list[dict], tokenizer, run_dir: Path) -> list[dict]:
    """`input_ids` and `labels` of each row, those left out or cut counted.

    A row longer than `train.max_length` is left out: cut, it would teach to think without an end. It is cut where
    `train.truncation_mode` asks for that.
    """
    template = {"template": recipe.prompt.template, "system": recipe.prompt.system}
    limit, mode = recipe.train.get("max_length"), recipe.train.get("truncation_mode")
    learnt_whole = recipe.train.get("completion_only_loss") is False
    found, long = [], 0
    for row in rows:
        ids = prompts.example(row, tokenizer, **template)
        prompt, completion = ids["prompt_ids"], ids["completion_ids"]
        if _loses_thinking(row, completion, tokenizer):
            raise UserError(f"data: a completion loses its <think> tags in this tokenizer: {row['completion'][:80]!r}")
        labels = (prompt if learnt_whole else [-100] * len(prompt)) + completion
        ids = prompt + completion
        if limit and len(ids) > limit:
            long += 1
            cut = slice(-limit, None) if mode == "keep_end" else slice(limit)
            ids, labels = (ids[cut], labels[cut]) if mode else ([], [])
        if any(label != -100 for label in labels):
            found.append({"input_ids": ids, "labels": labels})
    if long:
        how = f"cut ({mode})" if mode else "left out"
        warn(run_dir, f"data: {long} of {len(rows)} rows are longer than train.max_length {limit} and were {how}")
    if not found:
        raise UserError(f"train.max_length: {limit}: none of {len(rows)} rows is that short")
    return found


def _loses_thinking(row: dict, completion_ids: list[int], tokenizer) -> bool:
    """Whether the end of the thinking is in a completion, and not in what is decoded from its tokens."""
    text = row["completion"] if isinstance(row["completion"], str) else row["completion"][-1]["content"]
    return "</think>" in text and "</think>" not in tokenizer.decode(completion_ids, skip_special_tokens=False)


def show_labels(trainer, tokenizer, run_dir: Path, *, shown: int = 3) -> None:
    """Tells what is learnt, decoded from the labels that the trainer's own collator gives the model.

    Raises:
        UserError: Nothing is learnt of a row, or not its end of turn: the model would never stop.
    """
    batch = [trainer.train_dataset[i] for i in range(min(shown, len(trainer.train_dataset)))]
    for i, example in enumerate(batch):
        labels = trainer.data_collator([dict(example)])["labels"][0].tolist()
        learnt = [label for label in labels if label != -100]
        if not learnt:
            raise UserError("train: nothing of the first rows is learnt: see completion_only_loss and max_length")
        text = tokenizer.decode(learnt)
        print(f"row {i + 1}: {len(learnt)} of {len(labels)} tokens are learnt:\n{text}\n", flush=True)
        if learnt[-1] != tokenizer.eos_token_id and not trainer.args.packing:
            warn(run_dir, f"row {i + 1}: its end, {tokenizer.eos_token}, is not learnt: the model would never stop")
        note(run_dir, f"learns {len(learnt)} of {len(labels)} tokens: {summary.shortened(text, 60, 60)}")


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


def _model(recipe, rows: list[dict], tokenizer):
    path = recipe.model.path
    if path.startswith("scratch:"):
        template = prompts.R1_ZERO if recipe.prompt.template == "r1-zero" else ""
        texts = [f"{template}{row['prompt']} {row['completion']}" for row in rows[:4000]]
        return models.scratch(path.removeprefix("scratch:"), texts, seed=recipe.seed)
    return load_model(recipe), tokenizer


def _row():
    seen = {"tokens": 0.0}

    def to_row(logs: dict, seconds: float) -> dict:
        tokens = logs.get("num_tokens", 0.0)
        rate, seen["tokens"] = (tokens - seen["tokens"]) / max(seconds, 1e-6), tokens
        return {
            "loss": logs["loss"],
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            "accuracy": logs.get("mean_token_accuracy"),
            "tokens_per_second": round(rate),
        }

    return to_row
