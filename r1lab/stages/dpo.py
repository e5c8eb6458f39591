"""Direct preference optimization, with TRL's DPOTrainer, on pairs that a sample stage ranked by reward."""

import time
from functools import partial
from pathlib import Path

from datasets import Dataset
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from r1lab.errors import UserError
from r1lab.models import prompts, shard
from r1lab.models.lora import lora_config
from r1lab.models.patched import with_names
from r1lab.recipe.schema import DpoRecipe
from r1lab.stages.common import check_ids, doing, load_model, load_reference, load_tokenizer, warn
from r1lab.stages.rows import build_rows
from r1lab.stages.training import Metrics, train_and_save, trl_config


class _Trainer(DPOTrainer):
    def __init__(self, *args, reference, **kwargs):
        names = {"prepare_fsdp": shard.prepare, "create_model_from_path": lambda path, **settings: reference()}
        with_names(DPOTrainer.__init__, **names)(self, *args, **kwargs)

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        """Returns the rows unchanged, because they are tokenized already and TRL would add special tokens again."""
        return dataset


def run(recipe: DpoRecipe, run_dir: Path) -> int:
    """Trains the policy to prefer the `chosen` completion of each row to the `rejected` (arXiv:2305.18290, eq. 7)."""
    started = time.time()
    tokenizer = load_tokenizer(recipe)
    rows = build_rows(recipe.data, seed=recipe.seed, run_dir=run_dir, tokenizer=tokenizer)
    check_pairs(rows)
    rows = _that_differ(rows, run_dir)
    config = trl_config(DPOConfig, recipe, run_dir, max_length=None)  # before the model: it decides how to load it
    doing(run_dir, "loading the model")
    model = load_model(recipe)
    examples = _examples(recipe, rows, tokenizer, model, run_dir)
    trainer = _Trainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(examples),
        processing_class=tokenizer,
        peft_config=lora_config(recipe.model.lora),
        reference=partial(load_reference, recipe),
        callbacks=[Metrics(recipe, run_dir, _row)],
    )
    return train_and_save(trainer, recipe, run_dir, tokenizer, started)


def check_pairs(rows: list[dict]) -> None:
    """Checks that each row has both sides.

    Raises:
        UserError: A row lacks one.
    """
    for i, row in enumerate(rows):
        for side in ("chosen", "rejected"):
            if not row.get(side):
                way = "a sample stage with `keep: pairs` creates such rows"
                raise UserError(f"data: row {i + 1} has no {side} completion; {way}")


def _that_differ(rows: list[dict], run_dir: Path) -> list[dict]:
    """Returns the rows whose two sides differ; a pair of equal texts always has a loss of log 2 and no gradient."""
    same = [number for number, row in enumerate(rows, 1) if row["chosen"] == row["rejected"]]
    if same:
        warn(run_dir, f"data: {len(same)} of {len(rows)} pairs have equal chosen and rejected and were left out, "
             f"the first in row {same[0]}")  # fmt: skip
    if len(same) == len(rows):
        raise UserError(f"data: chosen and rejected are equal in all {len(rows)} rows: use pairs that differ")
    return [row for row in rows if row["chosen"] != row["rejected"]]


def _examples(recipe: DpoRecipe, rows: list[dict], tokenizer, model, run_dir: Path) -> list[dict]:
    """Returns `prompt_ids`, `chosen_ids` and `rejected_ids` of each row that is within `train.max_length`."""
    template = recipe.prompt.model_dump()
    keys, limit = ("chosen", "rejected"), recipe.train.get("max_length")
    examples = [prompts.example(row, tokenizer, **template, keys=keys) for row in rows]
    for number, example in enumerate(examples, 1):
        check_ids([i for ids in example.values() for i in ids], number, tokenizer, model)
    if not limit:
        return examples
    short = [e for e in examples if len(e["prompt_ids"]) + max(len(e[f"{key}_ids"]) for key in keys) <= limit]
    if len(short) < len(examples):
        warn(run_dir, f"data: {len(examples) - len(short)} of {len(examples)} pairs are longer than "
             f"train.max_length {limit} and were left out")  # fmt: skip
    if not short:
        raise UserError(f"train.max_length: {limit}: all {len(examples)} pairs are longer: raise it")
    return short


def _row(logs: dict, seconds: float) -> dict:
    return {
        "loss": logs["loss"],
        "learning_rate": logs.get("learning_rate"),
        "grad_norm": logs.get("grad_norm"),
        "accuracy": logs.get("rewards/accuracies"),
        "margin": logs.get("rewards/margins"),
    }
