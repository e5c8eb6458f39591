"""Changes that make a stage fit: overrides to type, each verified by planning again, with its cost."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from r1lab.plan.gpus import gib
from r1lab.plan.stages import StagePlan
from r1lab.recipe import batch, checks, launch, precision
from r1lab.recipe import loading as recipes
from r1lab.recipe.schema import EvalRecipe, GrpoRecipe, StageRecipe, is_trained
from r1lab.recipe.sections import Lora, Rollout

SHOWN = 3


@dataclass(frozen=True)
class Change:
    """A change that makes a stage fit.

    Attributes:
        words: `key=value` overrides, to be typed after the recipe.
        price: Its cost, and the memory that it saves.
    """

    words: tuple[str, ...]
    price: str


Stage = TypeVar("Stage", bound=StageRecipe)
Plan = Callable[[StageRecipe], StagePlan]
Settings = dict[str, object]


def changes(
    recipe: StageRecipe, before: StagePlan, plan: Plan, *, prefix: str = "", most_gpus: int | None = None
) -> list[Change]:
    """At most three changes that make a stage fit, the cheapest first; a combination if no single one is enough.

    Args:
        plan: Plans this stage with another recipe.
        prefix: The prefix of the keys in a pipeline: `stages.NAME.`.
        most_gpus: The number of GPUs that a change may use at most; None for any number.
    """
    found: list[Change] = []
    candidates = [
        (settings, cost)
        for settings, cost in _candidates(recipe, before)
        if most_gpus is None or settings.get("launch.gpus", 0) <= most_gpus  # pyright: ignore[reportOperatorIssue]
    ]
    for settings, cost in candidates:
        if any(_same_kind(settings, change, prefix) for change in found):
            continue
        after = _planned(recipe, settings, plan)
        if after and after.fits:
            found.append(Change(overrides(settings, prefix), _price(before, after, cost)))
        if len(found) == SHOWN:
            break
    return found or _together(recipe, before, plan, candidates, prefix)


def _together(
    recipe: StageRecipe, before: StagePlan, plan: Plan, candidates: list[tuple[Settings, str]], prefix: str
) -> list[Change]:
    """One change of several settings, each of them needed; none if all helpful settings together are not enough."""
    chosen: dict[int, Settings] = {}

    def planned(places: Iterable[int]) -> StagePlan:
        merged = {key: value for place in sorted(places) for key, value in chosen[place].items()}
        return _planned(recipe, merged, plan) or before

    best, nearer = before, True
    while nearer and not best.fits:
        nearer = False
        for place, (settings, _) in enumerate(candidates):
            if place in chosen:
                continue
            chosen[place] = settings
            after = planned(chosen)
            if _excess(after) < _excess(best):
                best, nearer = after, True
                break  # a setting that did not help before may help now, so start again with the cheapest
            del chosen[place]
    if not best.fits:
        return []
    for place in sorted(chosen, reverse=True):  # the most expensive come last
        without = [other for other in chosen if other != place]
        if (after := planned(without)).fits:
            best = after
            del chosen[place]
    settings = {key: value for place in sorted(chosen) for key, value in chosen[place].items()}
    costs = dict.fromkeys(cost for place, (_, cost) in enumerate(candidates) if place in chosen and cost)
    return [Change(overrides(settings, prefix), _price(before, best, ", ".join(costs)))]


def _planned(recipe: StageRecipe, settings: Settings, plan: Plan) -> StagePlan | None:
    """The plan of a stage with other values; None for a recipe that `r1lab run` refuses."""
    other = changed(recipe, settings)
    if checks.stage_problems(other):
        return None
    return plan(other)


def _excess(planned: StagePlan) -> tuple[bool, int]:
    return bool(planned.short), planned.peak.total


def changed(recipe: Stage, settings: Settings) -> Stage:
    """A stage's recipe with other values, by dotted keys, validated like a recipe from a file."""
    plain = recipes.resolved(recipe)
    for key, value in settings.items():
        *way, last = key.split(".")
        part = plain
        for name in way:
            part[name] = part.get(name) or {}
            part = part[name]
        part[last] = value
    found = type(recipe).model_validate(plain)
    found._keys = recipe._keys
    return found


def _candidates(recipe: StageRecipe, before: StagePlan) -> Iterator[tuple[Settings, str]]:
    """Settings to try, the cheapest first, each with its cost apart from time."""
    if not is_trained(recipe):
        yield from _engine(recipe, before)
        yield from _half_precision(recipe)
        yield from _generating_less(recipe)
        return
    lora: Lora | None = getattr(recipe.model, "lora", None)
    train, gpus, update = recipe.train, recipe.launch.gpus, batch.of(recipe)
    if recipe.on_policy:
        yield from _engine(recipe, before)
    for parts in (2, 4, 8, 16, 32, 64):
        if update.size % parts == 0:
            settings: Settings = {"train.per_device_train_batch_size": update.size // parts}
            if not train.get("global_batch_size"):
                settings["train.gradient_accumulation_steps"] = update.accumulation * parts
            if train.get("steps_per_generation"):
                settings["train.steps_per_generation"] = train["steps_per_generation"] * parts
            yield settings, "same update in smaller micro-batches"
    if not train.get("gradient_checkpointing"):
        yield {"train.gradient_checkpointing": True}, ""
    if gpus > 1 and launch.of(recipe, gpu=True) == "ddp":
        yield {"launch.strategy": "fsdp2"}, "weights are exchanged between GPUs"
    if not train.get("optim") or "8bit" not in train["optim"]:
        yield {"train.optim": "adamw_bnb_8bit"}, "needs bitsandbytes, optimizer states in 8 bits"
    yield from _half_precision(recipe)
    if recipe.stage != "reward":
        if not lora:
            yield {"model.lora.r": 16}, "trains adapters instead of the model"
        if not lora or not lora.quantize:
            quantized: Settings = {"model.lora.quantize": "4bit"}
            if not lora:
                quantized["model.lora.r"] = 16
            yield quantized, "needs bitsandbytes, trains adapters on a 4-bit base"
        if not lora or lora.merge:
            yield (
                {"model.lora.r": lora.r if lora else 16, "model.lora.merge": False},
                "trains adapters, and saves only them",
            )
    if precision.has_masters(recipe) and recipe.model.dtype != "float32" and not train.get("deepspeed"):
        yield {"train.master_weights": False}, "updates below 1/256 of a weight are lost in rounding"
    for more in (2, 4, 8, 16, 32):
        if more > gpus and more % gpus == 0 and not train.get("deepspeed"):
            yield {"launch.gpus": more}, f"uses {more} GPUs"
    limit = train.get("max_length")
    if recipe.stage in ("sft", "dpo"):
        for length in (16_384, 8192, 4096, 2048, 1024, 512):
            if not limit or length < limit:
                yield {"train.max_length": length}, f"rows of more than {length:,} tokens are left out"
    if recipe.on_policy:
        yield from _generating_less(recipe)


def _engine(recipe: StageRecipe, before: StagePlan) -> Iterator[tuple[Settings, str]]:
    """Changes to the memory of the generating engine."""
    rollout: Rollout | None = getattr(recipe, "rollout", None)
    if rollout is None:
        return
    if isinstance(recipe, GrpoRecipe) and rollout.engine in ("auto", "vllm"):
        if not recipe.train.get("vllm_enable_sleep_mode"):
            yield {"train.vllm_enable_sleep_mode": True}, "vLLM's weights are offloaded and reloaded every step"
        for share in (0.2, 0.15, 0.1):
            if share < rollout.gpu_memory_utilization and not before.short:
                yield {"rollout.gpu_memory_utilization": share}, "fewer completions at the same time"
    if before.short:
        for share in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
            if share > rollout.gpu_memory_utilization:
                yield {"rollout.gpu_memory_utilization": share}, "less memory for training"


def _generating_less(recipe: StageRecipe) -> Iterator[tuple[Settings, str]]:
    """Another engine, or shorter completions."""
    rollout: Rollout | None = getattr(recipe, "rollout", None)
    if rollout is None:
        return
    if rollout.engine in ("auto", "vllm"):
        yield {"rollout.engine": "transformers"}, "generation is several times slower"
    own = recipe.eval.max_completion_length if isinstance(recipe, EvalRecipe) else None
    limit = own or rollout.max_completion_length
    for length in (16_384, 8192, 4096, 2048, 1024, 512):
        if length < limit:
            key = f"{'eval' if own else 'rollout'}.max_completion_length"
            yield {key: length}, f"completions are truncated at {length:,} tokens"


def _half_precision(recipe: StageRecipe) -> Iterator[tuple[Settings, str]]:
    if recipe.model.dtype == "float32":
        yield {"model.dtype": "bfloat16"}, "computes with 8 significant bits"


def overrides(settings: Settings, prefix: str) -> tuple[str, ...]:
    """Settings as `key=value`, to be typed after the recipe."""
    return tuple(f"{prefix}{key}={_typed(value)}" for key, value in settings.items())


def _typed(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _same_kind(settings: Settings, change: Change, prefix: str) -> bool:
    """Whether a change sets the same keys as one that was found: a larger step of it is not an alternative."""
    keys = {word.partition("=")[0].removeprefix(prefix) for word in change.words}
    return bool(keys & set(settings))


def _price(before: StagePlan, after: StagePlan, cost: str) -> str:
    """The memory that a change saves, the time that it costs, and its other cost."""
    parts = []
    less = before.peak.total - after.peak.total
    if less:
        parts.append(f"memory {'-' if less > 0 else '+'}{gib(abs(less))} GiB")
    if before.seconds and after.seconds and after.seconds / before.seconds >= 1.05:
        parts.append(f"{after.seconds / before.seconds:.1f}x slower")
    return ", ".join([*parts, cost] if cost else parts)
