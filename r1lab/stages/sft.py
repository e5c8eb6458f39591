"""Supervised fine-tuning on rows with a `completion`, with TRL's SFTTrainer."""

import random
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Sequence, Value
from datasets.arrow_writer import ArrowWriter
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from r1lab import ranks
from r1lab.episodes.record import sampled_ids
from r1lab.errors import UserError
from r1lab.models import loading, prompts, scratch
from r1lab.models.lora import lora_config
from r1lab.recipe import precision
from r1lab.recipe.schema import SftRecipe
from r1lab.stages.common import check_ids, doing, load_model, load_tokenizer, note, warn
from r1lab.stages.rows import build_rows
from r1lab.stages.training import Metrics, train_and_save, trl_config
from r1lab.text import shortened

TOKENS = "tokens"
"""The folder in the run directory for the tokens of all rows during training."""

WRITTEN = 64
"""The number of rows that are Python lists until they are written."""


def run(recipe: SftRecipe, run_dir: Path) -> int:
    """Trains on the completions of the recipe's data, and on its prompts if `completion_only_loss` is false."""
    started = time.time()
    tokenizer = None if recipe.model.path.startswith("scratch:") else load_tokenizer(recipe)
    rows = build_rows(recipe.data, seed=recipe.seed, run_dir=run_dir, tokenizer=tokenizer)
    for i, row in enumerate(rows):
        if not row.get("completion") and sampled_ids(row) is None:  # the last turn of an episode may be empty
            raise UserError(f"data: row {i + 1} has no completion, on which sft trains: add one")
    own: dict[str, Any] = {"completion_only_loss": True} if "completion_only_loss" not in recipe.train else {}
    if "train_sampling_strategy" not in recipe.train:
        own["train_sampling_strategy"] = "sequential"
    # Before the model: the process group and the way of sharding decide how it is loaded. Rows that are too long are
    # left out or truncated here, so TRL needs no limit.
    config = trl_config(SFTConfig, recipe, run_dir, **own, max_length=None)
    doing(run_dir, "loading the model")
    model, tokenizer = _model(recipe, rows, tokenizer)
    doing(run_dir, "tokenizing the rows")
    write = partial(tokenized, recipe, rows, tokenizer, run_dir, model=model)
    dataset = Dataset.from_file(ranks.from_main(write))
    del write, rows  # the texts are not needed again, and there may be gigabytes of them
    lengths = dataset["length"][:]
    if config.packing:
        config.max_length = recipe.train.get("max_length") or max(lengths)
    elif "train_sampling_strategy" in own:
        # However many ranks share a batch, it has the same rows.
        batch = recipe.train.get("global_batch_size") or config.per_device_train_batch_size * ranks.world_size()
        dataset = dataset.select(by_length(lengths, batch, seed=recipe.seed))
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=dataset.remove_columns("length"),
        processing_class=tokenizer,
        peft_config=lora_config(recipe.model.lora),
        callbacks=[Metrics(recipe, run_dir, _row())],
    )
    show_labels(trainer, tokenizer, run_dir)
    try:
        return train_and_save(trainer, recipe, run_dir, tokenizer, started)
    finally:
        if ranks.is_main():
            shutil.rmtree(run_dir / TOKENS)


def tokenized(recipe: SftRecipe, rows: list[dict], tokenizer, run_dir: Path, *, model=None) -> str:
    """Writes `input_ids`, `labels` and `length` of each row to an Arrow file in the run directory; returns its path.

    A token takes 8 bytes on disk, and none has to stay in memory; in Python lists it would take 60 bytes.

    Args:
        model: The model whose embedding must cover each token; None skips this check.

    Raises:
        UserError: A row cannot be trained on, or none is left.
    """
    folder = run_dir / TOKENS
    shutil.rmtree(folder, ignore_errors=True)  # from a run that was killed
    folder.mkdir(parents=True)
    ids = Sequence(Value("int32"))
    features = Features({"input_ids": ids, "labels": ids, "length": Value("int32")})
    file = folder / "rows.arrow"
    with ArrowWriter(features=features, path=str(file), writer_batch_size=WRITTEN) as writer:
        for example in examples(recipe, rows, tokenizer, run_dir, model):
            writer.write(example | {"length": len(example["input_ids"])})
        kept, _ = writer.finalize()
    if not kept:
        raise UserError(
            f"train.max_length: {recipe.train.get('max_length')}: all {len(rows)} rows are longer: raise it"
        )
    return str(file)


def examples(recipe: SftRecipe, rows: list[dict], tokenizer, run_dir: Path, model) -> Iterator[dict]:
    """Yields `input_ids` and `labels` of each row, and warns about the number of rows that are too long.

    An episode is a row whose loss is on the model's own turns.

    A row longer than `train.max_length` is left out, because truncated it would teach the model to think without an
    end. With `train.truncation_mode` it is truncated instead.
    """
    template = recipe.prompt.model_dump()
    limit, mode = recipe.train.get("max_length"), recipe.train.get("truncation_mode")
    whole = recipe.train.get("completion_only_loss") is False
    long = 0
    for number, row in enumerate(rows, 1):
        if number % 1000 == 0:
            ranks.beat(run_dir)
        ids, mask = _ids_of(row, number, tokenizer, template)
        labels = ids if whole else [token if trained else -100 for token, trained in zip(ids, mask)]
        if model is not None:
            check_ids(ids, number, tokenizer, model)
        if limit and len(ids) > limit:
            long += 1
            kept = slice(-limit, None) if mode == "keep_end" else slice(limit)
            ids, labels = (ids[kept], labels[kept]) if mode else ([], [])
        if any(label != -100 for label in labels):
            yield {"input_ids": ids, "labels": labels}
    if long:
        how = f"truncated ({mode})" if mode else "left out"
        warn(run_dir, f"data: {long} of {len(rows)} rows are longer than train.max_length {limit} and were {how}")


def _ids_of(row: dict, number: int, tokenizer, template: dict) -> tuple[list[int], list[int]]:
    """The tokens of a row, and for each whether it is trained on: those of the completion.

    Of an episode, which a sample stage played, they are those that were sampled, with the replies as context. Its
    prompt has been rendered already. Rendering the texts of its turns again would give other tokens.

    Raises:
        UserError: The row's tokens are those of another tokenizer, or this one cannot represent its thinking.
    """
    if (sampled := sampled_ids(row)) is not None:
        prompt, completion, mask = sampled
        for turn in row["turns"]:
            # The token that ended a turn is not in its text.
            texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in (turn["ids"], turn["ids"][:-1])]
            if turn["own"] and turn["text"] not in texts:
                what = f"data: row {number}: its episode has the tokens of another tokenizer"
                raise UserError(f"{what}: train the model that it was sampled with, or one with the same tokenizer")
        return prompt + completion, [0] * len(prompt) + mask
    example = prompts.example(row, tokenizer, **template)
    prompt, completion = example["prompt_ids"], example["completion_ids"]
    if _loses_thinking(row, completion, tokenizer):
        raise UserError(f"data: this tokenizer drops the <think> tags of a completion: {row['completion'][:80]!r}")
    if row.get("truncated") is True:  # a sample stage says so; with its end, it would teach the model to break off
        ends = {tokenizer.eos_token_id, prompts.turn_end(tokenizer)}
        completion = completion[: max((i for i, token in enumerate(completion) if token in ends), default=None)]
    return prompt + completion, [0] * len(prompt) + [1] * len(completion)


def _loses_thinking(row: dict, completion_ids: list[int], tokenizer) -> bool:
    """Whether a completion has the end of the thinking, but the text decoded from its tokens does not."""
    text = row["completion"] if isinstance(row["completion"], str) else row["completion"][-1]["content"]
    return "</think>" in text and "</think>" not in tokenizer.decode(completion_ids, skip_special_tokens=False)


def show_labels(trainer, tokenizer, run_dir: Path, *, shown: int = 3) -> None:
    """Shows the text that is trained on, decoded from the labels of the trainer's own collator.

    Raises:
        UserError: No token of a row is trained on.
    """
    batch = [trainer.train_dataset[i] for i in range(min(shown, len(trainer.train_dataset)))]
    last = set()
    for i, example in enumerate(batch):
        labels = trainer.data_collator([dict(example)])["labels"][0].tolist()
        learned = [label for label in labels if label != -100]
        if not learned:
            raise UserError(
                "train: no token of the first rows is trained on: check completion_only_loss and max_length"
            )
        text = tokenizer.decode(learned)
        print(f"row {i + 1}: {len(learned)} of {len(labels)} tokens are trained on:\n{text}\n", flush=True)
        last.add(learned[-1])
        note(run_dir, f"trains on {len(learned)} of {len(labels)} tokens: {shortened(text, 60, 60)}")
    # An episode may end in the middle of a turn, or with the end token of its chat template.
    if not last & {tokenizer.eos_token_id, prompts.turn_end(tokenizer)} and not trainer.args.packing:
        end = f"the end token {tokenizer.eos_token} is not trained on"
        warn(run_dir, f"data: in none of the first {len(batch)} rows {end}, so the model may never stop")


def by_length(lengths: list[int], batch_size: int, *, seed: int, window: int = 16) -> list[int]:
    """Returns row indices in a random order in which each batch has rows of similar length, so that padding is small.

    transformers' `group_by_length` sorts 50 batches at a time and trains on them in that order. If length depends on
    the type of row, the model then sees one type for many steps and forgets the other. Here the batches of a window
    are shuffled.

    Args:
        lengths: The number of tokens of each row.
    """
    rng = random.Random(seed)
    places = list(range(len(lengths)))
    rng.shuffle(places)
    ordered = []
    for first in range(0, len(places), batch_size * window):
        part = sorted(places[first : first + batch_size * window], key=lambda place: lengths[place])
        batches = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        rng.shuffle(batches)
        ordered += [place for batch in batches for place in batch]
    return ordered


def _model(recipe: SftRecipe, rows: list[dict], tokenizer):
    path = recipe.model.path
    if path.startswith("scratch:"):
        template = recipe.prompt.text or prompts.PLAIN.get(recipe.prompt.template, "")
        texts = [
            f"{template}{recipe.prompt.prefill or ''}{_said(row['prompt'])} {row['completion']}" for row in rows[:4000]
        ]
        model, tokenizer = scratch.scratch(path.removeprefix("scratch:"), texts, seed=recipe.seed)
        dtype = precision.weights(recipe, loading.dtype_name(recipe.model.dtype))
        model = model.to(loading.torch_dtype(dtype))
        return model, loading.with_end(tokenizer, recipe.train.get("eos_token"))
    return load_model(recipe), tokenizer


def _said(prompt: str | list[dict]) -> str:
    """A prompt as text for a tokenizer to learn from: a chat template writes the roles of messages too."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message['role']}\n{message['content']}" for message in prompt)


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
