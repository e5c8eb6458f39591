"""`--tiny` scales a recipe down to see that it runs: embedded models, a few rows, two steps per stage, no network.

The stages, prompts, rewards, losses, advantages and schedules of the recipe stay. Its sizes are reduced, and
everything that needs more than a CPU is removed: servers, reward models of the Hub, several GPUs.
"""

import copy
from pathlib import Path

from r1lab.lookup import folder, reward_names
from r1lab.recipe.schema import STAGES, on_policy, trains
from r1lab.rewards.facts import facts_of

ROWS, QUESTIONS, TOKENS = 16, 4, 32  # TOKENS: of a completion
GROUPS = 2  # of an update, each for a row
SAMPLED = 96  # tokens of a completion of a sample stage, long enough for some to be correct
_ROLLOUT = {"engine": "transformers", "num_generations": 2, "max_completion_length": TOKENS}
_TRAIN = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "save_strategy": "no",
    "gradient_checkpointing": False,
}
# Keys that set the size of a run, or need a GPU or a library that may not be installed.
_NOT_TRAIN = (
    "num_train_epochs", "steps_per_generation", "generation_batch_size", "max_tokens_per_microbatch", "save_steps",
    "max_length", "deepspeed", "fsdp", "fsdp_config", "use_liger_kernel", "optim", "tf32", "bf16", "fp16",
    "torch_compile", "warmup_steps", "warmup_ratio", "dataloader_num_workers", "vllm_enable_sleep_mode",
    "vllm_tensor_parallel_size",
)  # fmt: skip
_NOT_ROLLOUT = (
    "url", "max_concurrent", "requests_per_minute", "max_model_length", "gpu_memory_utilization", "options",
    "tensor_parallel",
)  # fmt: skip


def scaled_down(recipe: dict) -> tuple[dict, list[str]]:
    """A recipe's plain data, scaled down, and a line about models that were replaced and each part that was removed.

    >>> data = {"stage": "grpo", "model": {"path": "Qwen/Qwen2.5-7B"}, "train": {"learning_rate": 1e-6}}
    >>> small, _ = scaled_down(data)
    >>> small["model"]["path"], small["train"]["max_steps"], small["train"]["learning_rate"]
    ('embedded:tiny-qwen2', 2, 1e-06)
    """
    given, recipe, removed = recipe, copy.deepcopy(recipe), []
    if isinstance(recipe.get("name"), str):
        recipe["name"] += "-tiny"
    stages = recipe.get("stages")
    for part in stages if isinstance(stages, list) else []:
        if isinstance(part, dict):
            _stage(part, removed, shared=recipe)
    _stage(recipe, removed, shared={})
    return recipe, [*_replaced(given, recipe), *dict.fromkeys(removed)]


def _replaced(given: dict, small: dict) -> list[str]:
    """One line that names the models that were replaced, if any were."""
    found: dict[str, list[str]] = {}
    for before, after in zip(_models(given), _models(small)):
        if before and before != after:
            found.setdefault(after, []).append(before)
    models = "; ".join(f"{own} in place of {', '.join(dict.fromkeys(names))}" for own, names in found.items())
    return [f"{models}: this shows that the recipe runs, but its answers and scores mean nothing"] if models else []


def _models(recipe: dict) -> list[str]:
    """The paths of model and teacher of a recipe and of each of its stages, empty where there is none."""
    stages = recipe.get("stages")
    parts = [part for part in (recipe, *(stages if isinstance(stages, list) else [])) if isinstance(part, dict)]
    models = [part.get(section) for part in parts for section in ("model", "teacher")]
    return [str(model.get("path") or "") if isinstance(model, dict) else "" for model in models]


def _stage(part: dict, removed: list[str], shared: dict) -> None:
    """Scales down a stage, or the shared sections of a pipeline, in place. `shared` has the sections as written."""
    kind = str(part.get("stage"))
    generates = kind in STAGES and STAGES[kind].generates
    for section in ("rollout", "eval"):
        if section not in part and section in shared and generates:
            part[section] = copy.deepcopy(shared[section])
    if kind == "sample":
        part.pop("eval", None)
    if isinstance(part.get("model"), dict):
        part["model"] = _model(part["model"])
    if isinstance(part.get("teacher"), dict) and not str(part["teacher"].get("path", "")).startswith("@"):
        student = part.get("model") or shared.get("model") or {}
        part["teacher"] = {"path": _model(student)["path"]}  # which has the same tokens
    if isinstance(part.get("data"), dict):
        _data(part["data"])
    if isinstance(part.get("rewards"), list):
        part["rewards"] = _rewards(part["rewards"], removed)
    if isinstance(part.get("environment"), dict):
        part["environment"]["max_turns"] = 2
    if isinstance(part.get("rollout"), dict) or generates:
        rollout = {k: v for k, v in (part.get("rollout") or {}).items() if k not in _NOT_ROLLOUT} | _ROLLOUT
        if isinstance(rollout.get("dynamic_sampling"), dict):
            rollout["dynamic_sampling"]["max_rounds"] = 1
        if kind == "sample":
            rollout["max_completion_length"] = SAMPLED
        part["rollout"] = rollout
    if trains(kind):
        part["train"] = _train(part.get("train") or {}, kind)
    if isinstance(part.get("eval"), dict):
        _eval(part["eval"])
    elif kind == "eval":
        part["eval"] = {"size": QUESTIONS, "num_samples": 2}
    if isinstance(part.get("schedule"), dict):
        given = part.get("rewards") or shared.get("rewards") or []
        _schedule(part["schedule"], reward_names([str(r.get("name")) for r in given if isinstance(r, dict)]))
    if kind == "sample" and not (isinstance(part.get("keep"), dict) and part["keep"].get("which") == "pairs"):
        if part.get("keep") not in (None, "all", "pairs"):
            part["keep"] = "all"  # such a small model may have no correct sample
    if "launch" in part:
        part["launch"] = {"gpus": 1}


def _model(model: dict) -> dict:
    path = str(model.get("path", ""))
    if path.startswith(("@", "embedded:tiny-", "scratch:")):
        kept = path
    else:
        names = {"llama": "tiny-llama", "smollm": "tiny-llama", "deepseek-v3": "tiny-deepseek-v3"}
        kept = "embedded:" + next((tiny for name, tiny in names.items() if name in path.lower()), "tiny-qwen2")
    small: dict = {"path": kept}
    if isinstance(model.get("lora"), dict):
        small["lora"] = {key: value for key, value in model["lora"].items() if key != "quantize"}
    return small


def _data(data: dict) -> None:
    """Replaces data sets of the Hub by small packaged ones of the same format; generators make fewer rows."""
    for part in data.get("parts") or []:
        if isinstance(part, dict):
            _data(part)
    builder, path = data.get("builder", "rows"), data.get("path")
    if builder == "mix" or "size" in data or "parts" not in data:
        data["size"] = min(max(data.get("size") or ROWS, GROUPS), ROWS)
    if isinstance(path, str) and path.startswith("@"):
        if builder == "traces":  # such a small model generates no traces
            data["builder"] = "rows"
            for name in ("config", "right_only", "answer_tags", "per_prompt", "on_unknown"):
                data.pop(name, None)
    elif builder == "logic_rl":
        data["builder"] = "knights_knaves"
        data.pop("path", None)
    elif (own := _packaged(builder, path)) and not _here(path):
        data["path"] = own
        for name in ("config", "columns", "years", "subset", "without"):
            data.pop(name, None)
    data.pop("max_tokens", None)
    if isinstance(data.get("pass_rate"), dict):
        data["pass_rate"] = {"path": data["pass_rate"].get("path")}
    data.pop("decontaminate", None)  # the small sets are the same for training and test


def _packaged(builder: str, path: object) -> str | None:
    """The small packaged file of a builder, or for rows from a file the one of its name, if there is one."""
    names = [Path(path).stem, builder] if builder == "rows" and isinstance(path, str) else [builder]
    files = [folder("data") / "tiny" / f"{name}.jsonl" for name in names]
    return next((str(file) for file in files if file.is_file()), None)


def _here(path: object) -> bool:
    return isinstance(path, str) and Path(path).expanduser().exists()


def _rewards(rewards: list, removed: list[str]) -> list:
    kept = []
    for reward in rewards:
        name = reward.get("name") if isinstance(reward, dict) else None
        model = str(reward.get("model", "")) if isinstance(reward, dict) else ""
        known = facts_of(name) if isinstance(name, str) else None
        if known and known.asks and not (known.asks == "model" and model.startswith("@")):
            what = "server" if known.asks == "server" else "large model"
            removed.append(f"rewards: {name} is left out, because it needs a {what}")
        else:
            kept.append(reward)
    return kept or [{"name": "format"}]


def _train(train: dict, kind: str) -> dict:
    scaled = {
        key: value for key, value in train.items() if key not in _NOT_TRAIN and not key.startswith("vllm_")
    } | _TRAIN
    if "ref_model_sync_steps" in scaled:
        scaled["ref_model_sync_steps"] = 1
    if train.get("global_batch_size"):
        del scaled["gradient_accumulation_steps"]
        scaled["global_batch_size"] = 4
    if on_policy(kind) and train.get("generation_batch_size"):
        scaled["generation_batch_size"] = 4
    if scaled.get("packing"):
        scaled["max_length"] = 512
    return scaled


def _eval(section: dict) -> None:
    samples = 1 if section.get("temperature") == 0 else 2
    section |= {"size": QUESTIONS, "num_samples": samples, "max_completion_length": TOKENS}
    if section.get("every"):
        section["every"] = 1
    if section.get("budgets"):
        section["budgets"] = [0, TOKENS // 2]
    for task in section.get("tasks") or []:
        if isinstance(task, dict):
            _data(task)
            task["size"] = QUESTIONS
            task.pop("num_samples", None)


def _schedule(schedule: dict, rewards: list[str]) -> None:
    """Makes each change one step after the previous one, so that two steps see the first change."""

    def steps(values: object) -> object:
        return dict(enumerate(value for _, value in sorted(values.items()))) if isinstance(values, dict) else values

    if isinstance(lengths := schedule.get("max_completion_length"), dict):
        schedule["max_completion_length"] = {step: min(TOKENS, 16 * (step + 1)) for step in range(len(lengths))}
    if "temperature" in schedule:
        schedule["temperature"] = steps(schedule["temperature"])
    if isinstance(schedule.get("rewards"), dict):
        schedule["rewards"] = {n: steps(values) for n, values in schedule["rewards"].items() if n in rewards}
