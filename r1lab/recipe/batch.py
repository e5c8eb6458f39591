"""Whether a recipe's rows and settings allow at least one training step."""

from r1lab.recipe import trl_fields
from r1lab.recipe.schema import GrpoRecipe
from r1lab.recipe.values import Problems
from r1lab.text import counted


def groups(recipe: GrpoRecipe) -> int:
    """The number of groups, each for a different row, in a generation batch of a grpo recipe over all processes."""
    return _completions(recipe)[0] // recipe.rollout.num_generations


def _completions(recipe: GrpoRecipe) -> tuple[int, str, int]:
    """Completions of a generation batch, the key of `train` that decides it, and the factor that multiplies it."""
    train = recipe.train
    if train.get("generation_batch_size"):
        return train["generation_batch_size"], "generation_batch_size", 1
    key = "per_device_train_batch_size"
    times = recipe.launch.ranks * (train.get("steps_per_generation") or train.get("gradient_accumulation_steps") or 1)
    return train.get(key, trl_fields.GRPO[key][1]) * times, key, times


def too_few_rows(recipe: GrpoRecipe, rows: int) -> tuple[str, str] | None:
    """The problem and the fix if a grpo recipe's `rows` do not fill a generation batch; None if they do.

    TRL's sampler drops an incomplete batch, so there would be no training step at all.
    """
    needed, (_, key, times) = groups(recipe), _completions(recipe)
    if rows >= needed:
        return None
    most = rows * recipe.rollout.num_generations // times
    smaller = f", or lower train.{key} to at most {most}" if most else ""
    what = f"{counted(rows, 'row')}, but a generation batch has {needed} groups, each for a different row"
    return f"{what}: there would be no training step", f"use at least {needed} rows{smaller}"


def no_steps(train: dict) -> Problems:
    """Settings with which training would end before its first step, and save an untrained model as finished."""
    steps, epochs = train.get("max_steps", -1), train.get("num_train_epochs", 1)
    if steps != -1 and steps < 1:
        what = f"{steps}: there would be no training step: set at least 1, or remove it to train by epochs"
        return [(("train", "max_steps"), what)]
    if steps == -1 and epochs <= 0:
        what = f"{epochs:g}: there would be no training step: set it above 0, or set train.max_steps"
        return [(("train", "num_train_epochs"), what)]
    return []
