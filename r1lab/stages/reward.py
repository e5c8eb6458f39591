"""Trains a reward model on pairs with TRL's RewardTrainer, for the reward `reward_model` of a later stage."""

import time
from pathlib import Path

from datasets import Dataset
from transformers import set_seed
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from r1lab.errors import UserError
from r1lab.recipe.schema import RewardRecipe
from r1lab.rewards.reward_model import encode, judged_text
from r1lab.stages.common import doing, load_model, load_tokenizer, warn
from r1lab.stages.dpo import check_pairs
from r1lab.stages.rows import build_rows
from r1lab.stages.training import Metrics, train_and_save, trl_config


def run(recipe: RewardRecipe, run_dir: Path) -> int:
    """Trains a score that is higher for the `chosen` response of each row than for the `rejected` (Bradley-Terry).

    It reads the same part of a response as the reward `reward_model`: `scope`, in the model's chat template.
    """
    started = time.time()
    tokenizer = load_tokenizer(recipe)
    tokenizer.padding_side = "right"
    rows = build_rows(recipe.data, seed=recipe.seed, run_dir=run_dir, tokenizer=tokenizer)
    check_pairs(rows)
    limit = min(recipe.train.get("max_length") or 2048, tokenizer.model_max_length)
    pairs = [[judged_text(row[side], recipe.scope) for side in ("chosen", "rejected")] for row in rows]
    judged = [(row, pair) for row, pair in zip(rows, pairs) if all(pair) and pair[0] != pair[1]]
    if len(judged) < len(rows):
        warn(run_dir, f"data: {len(rows) - len(judged)} of {len(rows)} pairs have no difference in their "
             f"{recipe.scope} and were left out")  # fmt: skip
    if not judged:
        raise UserError(
            f"scope: {recipe.scope}: none of the {len(rows)} pairs differs in it: use pairs that do, or another scope"
        )
    examples = [
        {
            f"{side}_ids": encode(tokenizer, row["prompt"], text, limit)[0]["input_ids"]
            for side, text in zip(("chosen", "rejected"), pair)
        }
        for row, pair in judged
    ]
    config = trl_config(RewardConfig, recipe, run_dir, max_length=limit)  # before the model: it decides how to load it
    doing(run_dir, "loading the model")
    set_seed(recipe.seed)  # for the new head of scores
    trainer = RewardTrainer(
        model=load_model(recipe, scores=True),
        args=config,
        train_dataset=Dataset.from_list(examples),
        processing_class=tokenizer,
        callbacks=[Metrics(recipe, run_dir, _row)],
    )
    return train_and_save(trainer, recipe, run_dir, tokenizer, started, pairs=len(judged))


def _row(logs: dict, seconds: float) -> dict:
    return {
        "loss": logs["loss"],
        "learning_rate": logs.get("learning_rate"),
        "grad_norm": logs.get("grad_norm"),
        "accuracy": logs.get("accuracy"),
        "margin": logs.get("margin"),
    }
