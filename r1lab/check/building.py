"""Builds what training builds before its first step, without weights: an error here would be an error in the run."""

import contextlib
import importlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from r1lab.errors import UserError
from r1lab.findings import Finding
from r1lab.models import folders, loading
from r1lab.models.lora import lora_config
from r1lab.recipe.schema import StageRecipe
from r1lab.recipe.sections import Lora
from r1lab.recipe.yaml_source import Keys
from r1lab.text import did_you_mean

if TYPE_CHECKING:
    from peft import PeftMixedModel, PeftModel
    from transformers import PreTrainedModel

T = TypeVar("T")


def building_findings(recipe: StageRecipe, start: str, settings: dict, scratch: Path) -> list[Finding]:
    """Whether TRL's config, the optimizer, the schedule and the model with its adapters can be built.

    Args:
        start: The model that the stage starts from, with `@STAGE/model` resolved.
        settings: Keyword arguments with which transformers loads that model's small files.
    """
    found: list[Finding] = []
    if recipe.trl:
        found += _trainer(recipe, scratch)
    attention, folder = recipe.model.attn_implementation, loading.local_folder(start)
    if (getattr(recipe.model, "lora", None) or attention or folder) and not start.startswith("scratch:"):
        found += _model(recipe, start, settings, folder)
    return found


def _trainer(recipe: StageRecipe, scratch: Path) -> list[Finding]:
    import torch
    from transformers import Trainer, get_scheduler

    from r1lab.stages.training import trl_config

    owned = {}
    if recipe.on_policy:
        # The batch is checked elsewhere, for the recipe's number of processes.
        owned = dict.fromkeys(("num_generations", "per_device_train_batch_size", "gradient_accumulation_steps"), 2)
        owned |= {"generation_batch_size": None, "steps_per_generation": None, "use_vllm": False}
    config_class = getattr(importlib.import_module("trl"), recipe.trl)
    with _no_process_group():
        args, found = _tried(lambda: trl_config(config_class, recipe, scratch, **owned), ("train",))
    if args is None:
        return found
    train: dict[str, Any] = getattr(recipe, "train", {})
    _, more = _tried(lambda: Trainer.get_optimizer_cls_and_kwargs(args), ("train", "optim"))
    found += more
    if train.get("fsdp") and not torch.cuda.is_available():
        what = "FSDP shards a model over GPUs, and this machine has none"
        found.append(Finding("error", "settings", what, "remove it, or use a machine with GPUs", ("train", "fsdp")))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    schedule = {
        "num_warmup_steps": 0,
        "num_training_steps": 100,
        "scheduler_specific_kwargs": args.lr_scheduler_kwargs,
    }
    _, more = _tried(lambda: get_scheduler(args.lr_scheduler_type, optimizer, **schedule), _scheduler(train))
    return found + more


@contextlib.contextmanager
def _no_process_group() -> Iterator[None]:
    """Hides the variables that describe a process group: a config determines its device, and would join the group."""
    described = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    held = {name: os.environ.pop(name) for name in described if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)


def _scheduler(train: dict[str, Any]) -> Keys:
    return ("train", "lr_scheduler_kwargs" if "lr_scheduler_kwargs" in train else "lr_scheduler_type")


def _model(recipe: StageRecipe, start: str, settings: dict, folder: Path | None) -> list[Finding]:
    """Builds the model on torch's meta device (shapes, no weights) and compares it with its weights and adapters."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    trust = {"trust_remote_code": recipe.model.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(loading.resolve(start), **settings, **trust)
    except (OSError, ValueError, UserError):  # other checks report problems with the model and the tokenizer
        return []
    attention = {"attn_implementation": recipe.model.attn_implementation} if recipe.model.attn_implementation else {}
    with torch.device("meta"):
        model, found = _tried(
            lambda: AutoModelForCausalLM.from_config(config, **attention, **trust), ("model", "attn_implementation")
        )
        if model is not None and folder:
            found += _weights(model, folder)
        lora: Lora | None = getattr(recipe.model, "lora", None)
        if model is None or lora is None:
            return found
        return found + _adapters(recipe, model, lora)


def _adapters(recipe: StageRecipe, model: "PreTrainedModel", lora: Lora) -> list[Finding]:
    """Whether the model has the target layers of the adapters, and the trainer supports adapters there."""
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    keys, found = ("model", "lora", "target_modules"), []
    names = [name for name, _ in model.named_modules()]
    linear = {name.rpartition(".")[2] for name, layer in model.named_modules() if hasattr(layer, "in_features")}
    targets = lora.target_modules if isinstance(lora.target_modules, list) else []
    unknown = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in names)]
    for target in unknown if len(unknown) < len(targets) else ():  # if no layer matches, peft itself raises
        hint = did_you_mean(target, sorted(linear), otherwise=f" (available: {', '.join(sorted(linear))})")
        found.append(Finding("error", "settings", f"{target}: the model has no such layer{hint}", keys=keys))

    def adapt() -> "PeftModel | PeftMixedModel":
        config = lora_config(lora)
        assert config is not None  # because the section is there
        return get_peft_model(model, config)

    adapted, more = _tried(adapt, keys)
    head = adapted.get_output_embeddings() if adapted is not None else None
    if (recipe.stage == "sft" or recipe.on_policy) and isinstance(head, BaseTunerLayer):
        what = (
            "TRL does not support an adapter on lm_head, because it computes the loss from that layer's weights alone"
        )
        found.append(Finding("error", "settings", what, "remove lm_head from the list", keys))
    return found + more


def _weights(model: "PreTrainedModel", folder: Path) -> list[Finding]:
    """Whether config.json matches the weights next to it: shapes by name, and the number of layers.

    Names that differ mean nothing: transformers renames and joins some weights when it loads them.
    """
    made = {name: list(weight.shape) for name, weight in model.named_parameters()}
    held = folders.shapes(folder)
    other = [name for name in made.keys() & held.keys() if made[name] != held[name]]
    layers, there = _layers(made), _layers(held)
    if other:
        name = min(other)
        what = f"{len(other)} weights do not have the shapes in config.json, such as {name}: {held[name]}"
        what += f", not {made[name]}"
    elif there and layers > there:
        what = f"config.json says {layers} layers, but the weights have {there}"
    else:
        return []
    return [Finding("error", "settings", what, "copy the config.json of these weights", ("model", "path"))]


def _layers(names: Iterable[str]) -> int:
    found = [int(match[1]) for name in names if (match := re.search(r"\blayers\.(\d+)\.", name))]
    return max(found, default=-1) + 1


def _tried(build: Callable[[], T], keys: Keys) -> tuple[T | None, list[Finding]]:
    """The result of `build`, or the error that the library raises for the settings."""
    try:
        return build(), []
    except (ImportError, ValueError, TypeError, KeyError, NotImplementedError, UserError) as error:
        why = " ".join(str(error).split()).removeprefix("train: ")
        return None, [Finding("error", "settings", f"cannot be built: {why[:300]}", keys=keys)]
