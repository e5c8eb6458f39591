"""Checks for settings that are known to hurt, each with its evidence, and for how a batch divides over processes."""

import importlib.util
import re
from pathlib import Path
from typing import Any

from r1lab import engines, hardware, lookup
from r1lab.check.seen import GENERATED, Seen
from r1lab.findings import Finding
from r1lab.models import loading
from r1lab.recipe import batch, launch, precision, trl_fields
from r1lab.recipe.devices import Launch
from r1lab.recipe.schema import (
    EvalRecipe,
    GrpoRecipe,
    SampleRecipe,
    SftRecipe,
    StageRecipe,
    Trained,
    is_trained,
    setting,
)
from r1lab.recipe.sections import Lora, Model, Rollout
from r1lab.recipe.yaml_source import Keys
from r1lab.rewards.facts import facts_of

DEVICES = (1, 2, 4, 8)

# Below each number of billions of parameters, the smallest and the largest published learning rate:
# DeepSeek-R1 (arXiv:2501.12948, 2.1, 3.2.1, B.4.2, B.4.3), Logic-RL (2502.14768), Open-R1's recipes,
# Dr. GRPO (2503.20783), DAPO (2503.14476), DeepScaleR, and r1lab's own recipes for models of a few million parameters.
PUBLISHED = {"grpo": ((0.02, 3e-5, 1e-3), (0.5, 1e-6, 1e-4), (3, 1e-6, 2e-5), (1e6, 3e-7, 3e-6)),
             "sft": ((0.02, 1e-4, 1e-3), (0.5, 1e-5, 5e-4), (1e6, 5e-6, 1e-4))}  # fmt: skip
FAR = 4  # tolerated factor beyond the published range
LORA = 20  # adapters need 10 to 20 times the learning rate ("LoRA Without Regret", Thinking Machines, 2025)
ROUNDED = 2e-5  # below it, AdamW moves few weights of bfloat16: in 100 steps at 1e-6 2 %, at 1e-5 16 % of them
LONG = 500  # steps above which a run without a checkpoint is a risk

_NEEDS = {"use_liger_kernel": "liger_kernel", "deepspeed": "deepspeed"}  # optional packages
_TRACKERS = ("wandb", "trackio", "tensorboard", "mlflow", "swanlab")


def launch_findings(recipe: StageRecipe) -> list[Finding]:
    """Whether this machine can start the ranks of a stage, and has a core for each."""
    launched: Launch | None = getattr(recipe, "launch", None)
    if launched is None or launched.ranks == 1:
        return []
    here, cores = hardware.gpus(), hardware.allowed_cores()
    refused = launch.refused(launched.gpus, launched.nodes, here, hardware.nodes())
    problem = refused or launch.crowded(launched.gpus, here, cores)
    if problem is None:
        return []
    keys, what, fix = problem
    return [Finding("warning", "launch", what, fix, keys)]


def batch_findings(recipe: StageRecipe) -> list[Finding]:
    """What an update learns from, and how 1, 2, 4 and 8 devices share it."""
    if not is_trained(recipe):
        return []
    group = recipe.rollout.num_generations if isinstance(recipe, GrpoRecipe) else 0
    update, listed = recipe.train.get("global_batch_size"), []
    if not update and not group:
        return []
    for devices in DEVICES:
        problems, on = batch.problems(recipe, devices), f"{devices} device" if devices == 1 else str(devices)
        if not problems:
            shared = batch.of(recipe, devices)
            listed.append(f"{shared.accumulation if update else shared.rows:,} on {on}")
        elif update:
            listed.append(f"not possible on {on}")
        elif devices != recipe.launch.ranks:  # loading the recipe reports a problem with its own number
            fix = problems[0][1].partition(": ")[2] or problems[0][1]
            listed.append(f"not possible on {on} ({fix})")
    by_device = ", ".join(listed)
    if not update:
        what = f"{group} completions of each prompt; completions that an update learns from: {by_device}"
        what += " (train.global_batch_size makes it the same on all)"
        return [Finding("ok", "batch", what, keys=("rollout", "num_generations"))]
    what = f"each update learns from {update:,} {'completions' if group else 'rows'}"
    if group:
        rollout = recipe.train.get("generation_batch_size") or update
        prompts = f"{rollout // group:,} prompts with {group} each"
        of = f"{prompts}, {rollout:,} in all, are generated for {rollout // update} updates"
        what += f" ({prompts if rollout == update else of})"
    size = batch.of(recipe).size
    what += f" on any number of devices; each device computes {size} at a time: passes per update {by_device}"
    return [Finding("ok", "batch", what, keys=("train", "global_batch_size"))]


def row_count_findings(seen: Seen, *, tiny: bool = False) -> list[Finding]:
    """Whether a grpo stage has a row for each group of a generation batch, if its rows are available.

    Args:
        tiny: The recipe was scaled down by `--tiny`, which also set its batch.
    """
    recipe, count = seen.recipe, len(seen.data)
    if not isinstance(recipe, GrpoRecipe) or not count:
        return []
    if count >= GENERATED:  # a generator is not asked for more
        count = max(count, recipe.data.size or batch.groups(recipe))
    problem = batch.too_few_rows(recipe, count, tiny=tiny)
    return [Finding("error", "batch", *problem, ("data",))] if problem else []


def setting_findings(recipe: StageRecipe, *, tiny: bool = False) -> list[Finding]:
    """Settings that are known to hurt.

    Args:
        tiny: The recipe was scaled down by `--tiny`: its settings are meant for another model.
    """
    rollout: Rollout | None = getattr(recipe, "rollout", None)
    train: dict[str, Any] = getattr(recipe, "train", {})
    server = rollout is not None and rollout.engine == "server"
    found = _not_installed(recipe.model, train) + _deepspeed(train)
    found += [] if server else _bfloat16(recipe.model, train)
    if isinstance(recipe, GrpoRecipe):
        found += _weights(recipe)
    if isinstance(recipe, GrpoRecipe | SampleRecipe | EvalRecipe):
        found += _sampling(recipe)
    if rollout and (lacking := engines.missing(rollout.engine)):
        found.append(Finding("error", "settings", *lacking, ("rollout", "engine")))
    if isinstance(recipe, GrpoRecipe):
        found += _ratios(recipe) + _lengths(recipe, tiny) + _sleep(recipe)
    if not tiny:
        found += _learning_rate(recipe) if isinstance(recipe, SftRecipe | GrpoRecipe) else []
        found += _rounding(recipe) if is_trained(recipe) else []
        found += _steps(train)
        found += _kl(recipe) if isinstance(recipe, GrpoRecipe) else []
    base = recipe.model.path.startswith("scratch:")  # a new model also has to learn the language of the questions
    if isinstance(recipe, SftRecipe) and recipe.train.get("completion_only_loss") is False and not base:
        what = "the questions are learned too, which no published recipe for reasoning does"
        found.append(Finding("warning", "settings", what, "set true", ("train", "completion_only_loss")))
    return found


def _sleep(recipe: GrpoRecipe) -> list[Finding]:
    """vLLM's sleep mode on a machine without a GPU, where vLLM would refuse it only after loading the model."""
    import torch

    sleeps = recipe.train.get("vllm_enable_sleep_mode") and engines.choose(recipe.rollout.engine) == "vllm"
    if not sleeps or torch.cuda.is_available():
        return []
    what = "vLLM's sleep mode needs a GPU, and this machine has none"
    return [Finding("error", "settings", what, "remove it", ("train", "vllm_enable_sleep_mode"))]


def _bfloat16(model: Model, train: dict[str, Any]) -> list[Finding]:
    """bfloat16 on a machine that only emulates it."""
    if not loading.emulates_bfloat16():
        return []
    what, found = "this machine only emulates bfloat16, which takes many times as long as float32", []
    if model.dtype == "bfloat16":
        fix = "set auto, which is float32 here"
        found.append(Finding("warning", "settings", what, fix, ("model", "dtype")))
    if train.get("bf16"):
        found.append(Finding("warning", "settings", what, "set false", ("train", "bf16")))
    if not found and model.dtype == "auto":
        what = "dtype auto resolves to float32, because this machine only emulates bfloat16"
        found.append(Finding("ok", "settings", what, keys=("model", "dtype")))
    return found


def _rounding(recipe: Trained) -> list[Finding]:
    """A learning rate whose updates weights in bfloat16 do not take: they have 8 significant bits."""
    rate = setting(recipe, "learning_rate")
    kept = precision.weights(recipe, loading.dtype_name(recipe.model.dtype))
    if kept != "bfloat16" or getattr(recipe.model, "lora", None) or not 0 < rate < ROUNDED:
        return []
    what = f"the trained weights are kept in bfloat16, which rounds most updates at a learning rate of {rate:g} away"
    return [Finding("warning", "settings", what, "remove it, or set true", ("train", "master_weights"))]


def _deepspeed(train: dict[str, Any]) -> list[Finding]:
    """DeepSpeed, which TRL supports, but r1lab has never run with."""
    if not train.get("deepspeed"):
        return []
    fix = "remove it for launch.strategy: fsdp2, which also shards the model and is tested on two processes"
    return [Finding("warning", "settings", "DeepSpeed was not tested with r1lab", fix, ("train", "deepspeed"))]


def billions(path: str) -> float | None:
    """The parameters of a model in billions, from its files or its name; None if neither says.

    >>> billions("Qwen/Qwen2.5-7B-Instruct"), billions("embedded:smollm2-135m"), billions("some/model")
    (7.0, 0.135, None)
    """
    if path.startswith(("embedded:tiny", "scratch:")):
        return 0.002
    folder = Path(path).expanduser()
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
    if weights:
        config = folder / "config.json"
        text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
        return weights / (4 if re.search(r'dtype": *"float32', text) else 2) / 1e9
    match = re.search(r"(?<![\d.])(\d+(?:\.\d+)?) ?([bm])(?![a-z])", path.rpartition("/")[2].lower())
    return float(match[1]) / (1 if match[2] == "b" else 1000) if match else None


def _learning_rate(recipe: SftRecipe | GrpoRecipe) -> list[Finding]:
    """Whether the learning rate is far from those published for models of this size."""
    kind, size = recipe.stage, billions(recipe.model.path)
    if kind not in PUBLISHED or size is None or recipe.train.get("learning_rate") == 0:
        return []
    given = "learning_rate" in recipe.train
    fields = {"grpo": trl_fields.GRPO, "sft": trl_fields.SFT}[kind]
    rate = recipe.train.get("learning_rate", fields["learning_rate"][1])
    _, low, high = next(row for row in PUBLISHED[kind] if size < row[0])
    times = LORA if recipe.model.lora else 1
    if low / FAR <= rate <= high * times * FAR:
        return []
    side = "above" if rate > high else "below"
    what = f"{rate:g}{'' if given else ' (the default)'} is far {side} the published learning rates of {kind} for"
    what += f" models of {_sized(size)} parameters, {low:g} to {high * times:g}"
    keys = ("train", "learning_rate") if given else ("train",)
    return [
        Finding(
            "warning", "settings", what, f"set train.learning_rate: {high * times if side == 'above' else low:g}", keys
        )
    ]


def _sized(size: float) -> str:
    return f"{size:g}B" if size >= 0.5 else f"{size * 1000:.0f}M"


def _kl(recipe: GrpoRecipe) -> list[Finding]:
    """A KL penalty that keeps the policy close to its start."""
    beta, size = setting(recipe, "beta"), billions(recipe.model.path)
    if beta <= 0.01:
        return []
    what = f"{beta:g} keeps the policy close to its start: R1 uses 0.001, Dr. GRPO and DAPO 0"
    what += " (arXiv:2503.20783, 2503.14476)"
    if size is not None and size < 0.5:
        what += "; tiny models need to move the furthest"
    return [Finding("warning", "settings", what, "set 0.001 or 0.0", ("train", "beta"))]


def _steps(train: dict[str, Any]) -> list[Finding]:
    """A warm-up that never ends, and long runs without a checkpoint."""
    found: list[Finding] = []
    steps, warmup = train.get("max_steps", -1), train.get("warmup_steps") or 0
    if steps > 0 and warmup >= max(steps, 1):
        what = f"{warmup} of {steps} steps: the learning rate never reaches its peak"
        found.append(Finding("warning", "settings", what, f"set {max(1, steps // 10)}", ("train", "warmup_steps")))
    never = train.get("save_strategy") == "no" or steps > 0 and train.get("save_steps", 500) > steps
    if steps > LONG and never:
        what = f"no checkpoint in {steps:,} steps: a run that is killed would lose all of them"
        keys = ("train", "save_strategy") if train.get("save_strategy") == "no" else ("train", "save_steps")
        found.append(Finding("warning", "settings", what, f"set train.save_steps: {max(50, steps // 20)}", keys))
    return found


def _sampling(recipe: GrpoRecipe | SampleRecipe | EvalRecipe) -> list[Finding]:
    """Sampling: identical completions, incoherent text, no memory for the trainer."""
    rollout, found = recipe.rollout, []
    sampled, section = (recipe.eval, "eval") if isinstance(recipe, EvalRecipe) else (recipe.rollout, "rollout")
    keys, temperature = (section, "temperature"), sampled.temperature
    if recipe.on_policy and temperature == 0:
        what = "0: all completions of a group are identical, so no group has a signal"
        found.append(Finding("error", "settings", what, "set 1.0", keys))
    elif recipe.on_policy and temperature < 0.4:
        what = f"{temperature:g}: the completions of a group hardly differ; published runs use 0.6 to 1.0"
        found.append(Finding("warning", "settings", what, "set 1.0", keys))
    elif temperature > 1.3:
        what = f"{temperature:g}: long completions become incoherent; published runs use 0.6 to 1.0"
        found.append(Finding("warning", "settings", what, "set 1.0", keys))
    if isinstance(recipe, SampleRecipe) and temperature == 0 and recipe.rollout.num_generations > 1:
        what = f"0: the {recipe.rollout.num_generations} samples of a prompt are identical"
        found.append(Finding("error", "settings", what, "set 1.0, or num_generations: 1", keys))
    if recipe.on_policy and rollout.gpu_memory_utilization > 0.9 and rollout.engine in ("auto", "vllm"):
        what = f"{rollout.gpu_memory_utilization:g}: vLLM leaves too little GPU memory for the trainer"
        found.append(Finding("warning", "settings", what, "set 0.3 to 0.6", ("rollout", "gpu_memory_utilization")))
    return found


def _ratios(recipe: GrpoRecipe) -> list[Finding]:
    """Settings that distort importance ratios: sequence-level weights, and sampling from a truncated distribution."""
    train, rollout, found = recipe.train, recipe.rollout, []
    mode = train.get("vllm_importance_sampling_mode", "token_truncate")
    corrects = rollout.engine in ("auto", "vllm") and train.get("vllm_importance_sampling_correction", True)
    if corrects and mode.startswith("sequence"):
        what = f"{mode}: rounding alone moves the ratio of a whole sequence far from 1 (0.4 to 0.7 in TRL's reports,"
        what += " trl#5815; 0.06 in NeMo-RL's, #2269), which masks or shrinks its gradient"
        keys = ("train", "vllm_importance_sampling_mode")
        found.append(Finding("warning", "settings", what, "set token_truncate", keys))
    truncating = next((key for key, off in (("top_p", 1.0), ("top_k", 0)) if getattr(rollout, key) != off), None)
    if truncating and corrects:
        what = (
            f"{getattr(rollout, truncating)} with importance correction: its ratios compare a truncated distribution"
        )
        what += " with a full one (trl#6789: top_k 50 keeps 17 % of the gradient)"
        off = "set train.vllm_importance_sampling_correction: false, or sample from the full distribution"
        found.append(Finding("warning", "settings", what, off, ("rollout", truncating)))
    if train.get("importance_sampling_level") == "sequence" and train.get("epsilon", 0.2) > 0.01:
        what = f"{train.get('epsilon', 0.2):g} never clips the ratio of a whole sequence: GSPO uses 3e-4"
        what += " (arXiv:2507.18071)"
        keys = ("train", "epsilon") if "epsilon" in train else ("train", "importance_sampling_level")
        found.append(Finding("warning", "settings", what, "set train.epsilon: 3.0e-4", keys))
    return found


def _lengths(recipe: GrpoRecipe, tiny: bool) -> list[Finding]:
    """Rewards for short answers from the first step on, and rewards set for another completion length."""
    found, names = [], lookup.reward_names([reward.name for reward in recipe.rewards])
    for index, reward in enumerate(recipe.rewards):
        known, name = facts_of(reward.name), names[index]
        if known and known.shortens and name not in recipe.schedule.rewards and reward.weight > 0:
            what = f"{name}: slows down learning from the first step on (Kimi k1.5, arXiv:2501.12599, 2.3.3)"
            fix = f"start it later: schedule.rewards: {{{name}: {{0: 0.0, 100: 1.0}}}}"
            found.append(Finding("warning", "settings", what, fix, ("rewards", index)))
        if known and known.limit and not tiny:
            limit = reward.parameters.get(known.limit)
            most = recipe.rollout.max_completion_length
            if isinstance(limit, int) and limit != most and not recipe.schedule.max_completion_length:
                what = f"{reward.name}: is set for completions of {limit:,} tokens, but rollouts end at {most:,}"
                found.append(Finding("warning", "settings", what, "set both to the same value", ("rewards", index)))
    return found


def _weights(recipe: GrpoRecipe) -> list[Finding]:
    """Weights that leave nothing to learn from."""
    if recipe.schedule.rewards:
        return []
    if all(reward.weight == 0 for reward in recipe.rewards):
        what = "all weights are 0, so every reward is 0 and nothing can be learned"
        return [Finding("error", "settings", what, "set weight: 1.0", ("rewards",))]
    if recipe.rewards[0].weight < 0:
        what = f"{recipe.rewards[0].name}: a weight of {recipe.rewards[0].weight:g} rewards wrong answers"
        return [Finding("error", "settings", what, "set weight: 1.0", ("rewards", 0, "weight"))]
    return []


def _not_installed(model: Model, train: dict[str, Any]) -> list[Finding]:
    """Packages that settings need and that are not installed."""
    wanted: list[tuple[Keys, str]] = [(("train", key), package) for key, package in _NEEDS.items() if train.get(key)]
    trackers = train.get("report_to") or []
    for tracker in [trackers] if isinstance(trackers, str) else trackers:
        wanted += [(("train", "report_to"), tracker)] if tracker in _TRACKERS else []
    lora: Lora | None = getattr(model, "lora", None)
    if lora and lora.quantize or "8bit" in str(train.get("optim", "")):
        keys = ("model", "lora", "quantize") if lora else ("train", "optim")
        wanted.append((keys, "bitsandbytes"))
    if model.attn_implementation == "flash_attention_2":
        wanted.append((("model", "attn_implementation"), "flash_attn"))
    return [
        Finding("error", "settings", f"{package.replace('_', '-')} is not installed",
                f"pip install {package.replace('_', '-')}, or remove this setting", keys)
        for keys, package in wanted
        if importlib.util.find_spec(package) is None
    ]  # fmt: skip
