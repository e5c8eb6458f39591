"""Whether a recipe's rows and settings make at least one step of training."""

from r1lab.recipe import trl_fields
from r1lab.recipe.schema import GrpoRecipe
from r1lab.recipe.values import Problems


def groups(recipe: GrpoRecipe) -> int:
    """How many groups, each of another row, a generation batch of a grpo recipe has over all processes."""
    return _completions(recipe)[0] // recipe.rollout.num_generations


def _completions(recipe: GrpoRecipe) -> tuple[int, str, int]:
    """Completions of a generation batch, the key of `train` that decides it, and how many times that key's value."""
    train = recipe.train
    if train.get("generation_batch_size"):
        return train["generation_batch_size"], "generation_batch_size", 1
    key = "per_device_train_batch_size"
    times = recipe.launch.gpus * (train.get("steps_per_generation") or train.get("gradient_accumulation_steps") or 1)
    return train.get(key, trl_fields.GRPO[key][1]) * times, key, times


def too_few_rows(recipe: GrpoRecipe, rows: int) -> tuple[str, str] | None:
    """What is wrong where a grpo recipe's `rows` do not fill a generation batch, and what to do; None if they do.

    TRL's sampler drops an incomplete batch, so no step would be trained at all.
    """
    wanted, (_, key, times) = groups(recipe), _completions(recipe)
    if rows >= wanted:
        return None
    most = rows * recipe.rollout.num_generations // times
    smaller = f", or lower train.{key} to at most {most}" if most else ""
    what = f"{rows} row{'s' * (rows != 1)}, and a generation batch has {wanted} groups, each of another row"
    return f"{what}: no step could be trained", f"give at least {wanted} rows{smaller}"


def no_steps(train: dict) -> Problems:
    """Settings by which a training would end before its first step, and save an untrained model as finished."""
    steps, epochs = train.get("max_steps", -1), train.get("num_train_epochs", 1)
    if steps != -1 and steps < 1:
        return [(("train", "max_steps"), f"{steps}: trains nothing: set at least 1, or remove it to train by epochs")]
    if steps == -1 and epochs <= 0:
        what = f"{epochs:g}: trains nothing: set it above 0, or set train.max_steps"
        return [(("train", "num_train_epochs"), what)]
    return []
