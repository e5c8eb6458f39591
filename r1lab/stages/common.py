"""Code that all stages share: messages, models, tokenizers, prompts and engines of a recipe."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from r1lab import engines, ranks
from r1lab.errors import UserError
from r1lab.models import prompts
from r1lab.recipe.schema import EvalRecipe, GrpoRecipe, SampleRecipe, StageRecipe, Trained
from r1lab.recipe.sections import EvalRollout
from r1lab.rundir import storage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Generates = GrpoRecipe | SampleRecipe | EvalRecipe
"""A stage that generates completions."""


def note(run_dir: Path, message: str, phase: str = "note") -> None:
    """Prints a line and writes it to the metrics, where the display of the run shows it; only rank 0 does so."""
    ranks.beat(run_dir)
    if not ranks.is_main():
        return
    print(f"{phase}: {message}" if phase == "warning" else message, flush=True)
    storage.append_jsonl(run_dir / "metrics.jsonl", {"phase": phase, "time": time.time(), "message": message})


def warn(run_dir: Path, message: str) -> None:
    """Prints and records a warning."""
    note(run_dir, message, "warning")


def doing(run_dir: Path, message: str) -> None:
    """Prints and records what the stage is doing before its first step or answer."""
    note(run_dir, message, "load")


def report_gold(grader, rows: list[dict], run_dir: Path) -> None:
    """Warns about rows on which no completion can score, before any is generated; see `Grader.gold_problems`."""
    if ranks.is_main():
        for problem in grader.gold_problems(rows):
            warn(run_dir, problem)


def load_tokenizer(recipe: StageRecipe) -> "PreTrainedTokenizerBase":
    """Loads the tokenizer of a recipe's model."""
    from r1lab.models import loading

    return loading.load_tokenizer(
        recipe.model.path,
        revision=recipe.model.revision,
        trust_remote_code=recipe.model.trust_remote_code,
        eos_token=getattr(recipe, "train", {}).get("eos_token"),
    )


def check_ids(ids: list[int], number: int, tokenizer, model) -> None:
    """Checks that a model's embedding covers each token of a row of the data.

    Raises:
        UserError: It does not, because the tokenizer belongs to another model.
    """
    size = model.get_input_embeddings().num_embeddings
    if max(ids) >= size:
        token = tokenizer.convert_ids_to_tokens(max(ids))
        what = f"data: row {number} has {token!r}, whose id {max(ids)} is beyond the model's embedding of {size}"
        raise UserError(f"{what}: set model.path to the model of this tokenizer")


def load_model(recipe: Trained, *, scores: bool = False) -> "PreTrainedModel":
    """Loads a recipe's model for training; `scores` as in `r1lab.models.loading.load_model`."""
    from r1lab.models import loading
    from r1lab.recipe import precision

    lora = getattr(recipe.model, "lora", None)  # a reward stage trains all weights
    dtype = precision.weights(recipe, loading.dtype_name(recipe.model.dtype))
    return _load_model(recipe, dtype=dtype, quantize=lora.quantize if lora else None, scores=scores)


def load_reference(recipe: Trained) -> "PreTrainedModel":
    """Loads the reference model: the weights that training starts from, in the dtype of `model.dtype`.

    TRL would load it in the dtype of weights that are trained, float32, and from the name in the config of the model:
    that is without its revision, and, of a model with a merged adapter, without the adapter.
    """
    return _load_model(recipe, dtype=recipe.model.dtype)


def _load_model(recipe: Trained, **settings) -> "PreTrainedModel":
    from r1lab.models import loading

    return loading.load_model(
        recipe.model.path,
        attn_implementation=recipe.model.attn_implementation,
        revision=recipe.model.revision,
        trust_remote_code=recipe.model.trust_remote_code,
        **settings,
    )


def engine_prompts(rows: list[dict], recipe: Generates, tokenizer) -> tuple[list[engines.Prompt], list[str]]:
    """Returns the engine's prompt for each row, and the beginning of the assistant's turn that it ends with."""
    template = recipe.prompt.model_dump()
    if recipe.rollout.engine == "server":  # it applies the model's chat template itself
        given = [prompts.messages(row["prompt"], tools=row.get("tools"), **template) for row in rows]
        if recipe.prompt.prefill and not all(isinstance(p, str) for p in given):
            raise UserError(
                "prompt.prefill: a server starts the assistant's turn itself: remove prefill, or set prompt.text"
            )
        rendered = [prompts.with_prefill(p, recipe.prompt.prefill) if isinstance(p, str) else (p, "") for p in given]
    else:
        rendered = [prompts.render(row["prompt"], tokenizer, tools=row.get("tools"), **template) for row in rows]
    return [text for text, _ in rendered], [prefill for _, prefill in rendered]


def sampling_of(recipe: SampleRecipe | GrpoRecipe) -> engines.Sampling:
    """Returns the sampling parameters of a recipe's `rollout` section, with its seed."""
    rollout = recipe.rollout
    return engines.Sampling(
        n=rollout.num_generations,
        max_tokens=rollout.max_completion_length,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        seed=recipe.seed,
    )


def load_engine(recipe: Generates, *, max_failed: float = 0.0) -> engines.Engine:
    """Loads the engine of a recipe's `model` and `rollout` sections.

    Args:
        max_failed: The share of the prompts that may fail on a server.
    """
    rollout = recipe.rollout
    if rollout.engine == "server":
        assert isinstance(rollout, EvalRollout) and rollout.url  # the recipe's checks require it
        return engines.connect(
            rollout.url,
            recipe.model.path,
            max_concurrent=rollout.max_concurrent,
            requests_per_minute=rollout.requests_per_minute,
            max_failed=max_failed,
            options=rollout.options,
        )
    return engines.load(
        recipe.model.path,
        engine=rollout.engine,
        dtype=recipe.model.dtype,
        max_model_length=rollout.max_model_length,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        tensor_parallel=rollout.tensor_parallel if isinstance(rollout, EvalRollout) else 1,
        seed=recipe.seed,
        revision=recipe.model.revision,
        attn_implementation=recipe.model.attn_implementation,
        trust_remote_code=recipe.model.trust_remote_code,
        options=rollout.options,
    )
