"""Checks that go beyond the schema: TRL's fields, references, the batch. `r1lab.recipe.calls` checks functions.

Each check returns `(keys, message)` pairs, with keys relative to the stage.
"""

import json
from typing import Any

from r1lab import lookup
from r1lab.recipe import batch, launch, precision, trl_fields
from r1lab.recipe.calls import call_problems, evaluation_problems, tasks_problems
from r1lab.recipe.environments import environment_problems
from r1lab.recipe.prompt import prompt_problems
from r1lab.recipe.references import references
from r1lab.recipe.schema import (
    STAGES,
    DistillRecipe,
    EvalRecipe,
    GrpoRecipe,
    SampleRecipe,
    StageRecipe,
    Trained,
    is_trained,
)
from r1lab.recipe.sections import Data, EvalRollout, GrpoRollout, Prompt, Reward, Rollout
from r1lab.recipe.training import ADVANTAGES, ADVANTAGES_OF_GROUPS
from r1lab.recipe.values import Problems, not_a_choice, value_problems
from r1lab.recipe.yaml_source import Keys
from r1lab.rundir import trackers
from r1lab.text import counted, did_you_mean, either

ELSEWHERE = {
    "output_dir": "it is the run directory: use --runs-dir and --name",
    "run_name": "set `name` instead",
    "seed": "set `seed` at the top of the recipe instead",
    "num_generations": "set `rollout.num_generations` instead",
    "max_completion_length": "set `rollout.max_completion_length` instead",
    "temperature": "set `rollout.temperature` instead",
    "top_p": "set `rollout.top_p` instead",
    "top_k": "set `rollout.top_k` instead",
    "use_vllm": "set `rollout.engine` instead",
    "vllm_mode": "set `launch.rollout: colocate` or `server` instead",
    "vllm_gpu_memory_utilization": "set `rollout.gpu_memory_utilization` instead",
    "vllm_max_model_length": "set `rollout.max_model_length` instead",
    "vllm_server_base_url": "set `launch.rollout: server`, or `rollout.url` for servers that run already",
    "vllm_server_host": "set `launch.rollout: server`, or `rollout.url` for servers that run already",
    "vllm_server_port": "set `launch.rollout: server`, or `rollout.url` for servers that run already",
    "use_transformers_continuous_batching": "set `rollout.engine` instead",
    "transformers_continuous_batching_config": "set `rollout.engine` instead",
    "reward_weights": "set `weight` of each reward instead",
    "model_init_kwargs": "set `model.dtype`, `model.revision`, `model.attn_implementation` instead",
    "max_tool_calling_iterations": "set `environment.max_turns` instead",
    "trust_remote_code": "set `model.trust_remote_code` instead",
    "assistant_only_loss": "an sft stage trains on the completion alone: see `completion_only_loss`",
    "eval_strategy": "set `eval.every` instead",
    "eval_steps": "set `eval.every` instead",
    "eval_on_start": "put an eval stage before this one instead",
    "num_generations_eval": "set `eval.num_samples` instead",
    "resume_from_checkpoint": "use `r1lab run --resume` instead",
    "do_train": "`stage` decides this: remove it",
    "do_eval": "`stage` decides this: remove it",
    "do_predict": "`stage` decides this: remove it",
    "remove_unused_columns": "r1lab decides this, because rewards need the columns of the rows: remove it",
    "parallelism_config": "this is a Python object, which YAML cannot express: remove it",
    "local_rank": "the launcher sets this: remove it",
    "push_to_hub": "r1lab uploads nothing: use `hf upload` on the run's model/ instead",
    "ignore_data_skip": "a resumed run always continues with the rows that it has not seen: remove it",
    "logging_strategy": "r1lab writes a row of metrics for each step: remove it",
    "logging_steps": "r1lab writes a row of metrics for each step: remove it",
    "logging_first_step": "r1lab writes a row of metrics for each step: remove it",
    "save_only_model": "a checkpoint without its optimizer cannot be resumed: remove it (save_total_limit limits the "
    "number of checkpoints that are kept)",
    "chat_template_path": "write the template into chat_template.jinja in the model's folder instead",
}
"""TRL's fields that a recipe does not set under `train`, and what to do instead."""

MINIMUM = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "steps_per_generation": 1,
    "generation_batch_size": 1,
    "num_iterations": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "warmup_steps": 0,
}
"""The minimum values of fields of TRL, which TRL checks only after everything is built, or never."""

_EVALUATION = ("eval_strategy", "eval_steps", "eval_on_start")
_EVAL_STAGE = "add an eval stage after it, with `model: {path: @STAGE/model}`"

# TRL types these as str and rejects an unknown one only after the first rollout.
_AVERAGES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")  # they differ in how tokens are averaged
_GRPO = {
    "scale_rewards": ("group", "batch", "none"),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}
CHOICES = {
    "grpo": _GRPO | {"loss_type": (*_AVERAGES, "cispo", "sapo", "vespo")},
    "distill": _GRPO | {"loss_type": _AVERAGES},
    "sft": {"loss_type": ("nll", "dft"), "truncation_mode": ("keep_start", "keep_end")},
}
# Transformers rejects an unknown one only when it builds the trainer.
_REPORTERS = (*trackers.NAMES, "none", "all", "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive",
              "flyte", "kubeflow", "mlflow", "neptune", "swanlab")  # fmt: skip


def stage_problems(recipe: StageRecipe) -> Problems:
    """What is wrong with a stage's recipe in which every key has the correct type."""
    found: Problems = []
    if is_trained(recipe):
        found += train_problems(recipe) or batch.problems(recipe) + _shared_engine_problems(recipe)
        found += launch.problems(recipe) + precision.problems(recipe)
    if isinstance(recipe, GrpoRecipe):
        found += grpo_problems(recipe)
    if isinstance(recipe, DistillRecipe):
        found += distill_problems(recipe)
    rewards: list[Reward] = getattr(recipe, "rewards", [])
    for index, reward in enumerate(rewards):
        found += call_problems("rewards", reward.name, reward.parameters, ("rewards", index))
    found += environment_problems(recipe)
    data: Data | None = getattr(recipe, "data", None)
    if data:
        found += call_problems("data", data.builder, data.parameters, ("data",), data)
        against = data.decontaminate.against if data.decontaminate else []
        found += tasks_problems(against, ("data", "decontaminate", "against"), None)
    if isinstance(recipe, GrpoRecipe | EvalRecipe) and recipe.eval:
        found += evaluation_problems(recipe, recipe.eval)
    path = recipe.model.path
    if path.startswith("scratch:") and recipe.stage != "sft":
        what = f"{path}: only an sft stage can start from random weights: name a trained model"
        found.append((("model", "path"), what))
    if not recipe._keys:
        found += [
            (keys, f"{value}: only a stage of a pipeline can refer to another stage: give a path")
            for keys, value in references(recipe)
        ]
    if isinstance(recipe, SampleRecipe):
        found += keep_problems(recipe)
    rollout: Rollout | None = getattr(recipe, "rollout", None)
    if rollout:
        found += engine_problems(rollout)
    if isinstance(recipe, EvalRecipe | SampleRecipe):
        found += workers_problems(recipe)
    prompt: Prompt | None = getattr(recipe, "prompt", None)
    if prompt:
        found += prompt_problems(prompt, server=rollout is not None and rollout.engine == "server")
    return found


def keep_problems(recipe: SampleRecipe) -> Problems:
    """Whether a sample stage has the rewards that decide which samples it keeps."""
    keep = recipe.keep
    if not recipe.rewards and keep.which in ("right", "best"):
        what = f"{keep.which}: needs `rewards`: the first one decides which samples are correct"
        return [(("keep", "which"), what)]
    if not recipe.rewards and keep.which == "pairs":
        return [(("keep", "which"), "pairs: needs `rewards`, which rank the samples of a prompt")]
    names = lookup.reward_names([reward.name for reward in recipe.rewards])
    missing = [name for name in keep.at_least if name not in names]
    known = f"; available: {', '.join(names)}" if names else ": `rewards` is empty"
    return [
        (("keep", "at_least", name), f"no such reward{did_you_mean(name, names, otherwise=known)}") for name in missing
    ]


def engine_problems(rollout: Rollout) -> Problems:
    """Whether the engine `server` has a URL, and is not that of a grpo stage."""
    server = rollout.engine == "server"
    if server and isinstance(rollout, GrpoRollout):
        ways = "set auto, with launch.rollout: server or rollout.url"
        return [(("rollout", "engine"), f"server: a grpo stage has vLLM servers of its own weights: {ways}")]
    if server and isinstance(rollout, EvalRollout) and not rollout.url:
        return [(("rollout", "engine"), "server: needs `rollout.url`, as in http://localhost:8000/v1")]
    return []


def workers_problems(recipe: EvalRecipe | SampleRecipe) -> Problems:
    """Whether the GPUs of a node can be dealt to workers with `rollout.tensor_parallel` GPUs each."""
    split, gpus = recipe.rollout.tensor_parallel, recipe.launch.gpus
    if "tensor_parallel_size" in recipe.rollout.options:
        return [
            (("rollout", "options", "tensor_parallel_size"), "not set here: set `rollout.tensor_parallel` instead")
        ]
    if gpus % split:
        fitting = -(-gpus // split) * split
        what = f"{split}: launch.gpus is {gpus}, which is not a multiple of it: set launch.gpus to {fitting}"
        return [(("rollout", "tensor_parallel"), what)]
    return []


def train_fields(kind: str) -> list[str]:
    """The keys that `train` of a kind of stage may have; none for a kind that does not train."""
    fields = [name for name in trl_fields.FIELDS.get(STAGES[kind].trl, ()) if name not in ELSEWHERE]
    return [*fields, *(STAGES[kind].own.model_fields if fields else ())]


def train_problems(recipe: StageRecipe) -> Problems:
    """Checks each key of `train` against TRL's config class, and each value against its type there."""
    found, fields, config = [], trl_fields.FIELDS[recipe.trl], recipe.trl
    train: dict[str, Any] = getattr(recipe, "train", {})
    for key, value in train.items():
        keys = ("train", key)
        if key in _EVALUATION and key in fields and not recipe.on_policy:
            found.append((keys, f"not set here: a stage of kind {recipe.stage} does not evaluate: {_EVAL_STAGE}"))
        elif key in ELSEWHERE and key in fields:
            found.append((keys, f"not set here: {ELSEWHERE[key]}"))
        elif key in recipe.own.model_fields:
            found += value_problems(value, recipe.own.model_fields[key].rebuild_annotation(), keys)
            found += _function_problems(key, value, keys) if not found else []
        elif key not in fields:
            unlike = f": TRL's {config} has no such field; `r1lab ls keys {recipe.stage}.train` lists them"
            hint = did_you_mean(key, train_fields(recipe.stage), otherwise=unlike)
            found.append((keys, f"unknown key{hint}"))
        elif key in (choices := CHOICES.get(recipe.stage, {})) and value not in choices[key]:
            found.append((keys, not_a_choice(value, choices[key])))
        elif wrong := value_problems(value, fields[key][0], keys):
            found += wrong
        elif key == "report_to":
            given = [value] if isinstance(value, str) else value or []
            found += [(keys, not_a_choice(name, _REPORTERS)) for name in given if name not in _REPORTERS]
        elif key == "save_strategy" and value == "best":
            found.append((keys, "best: no evaluation during training selects a best checkpoint: set steps"))
        elif key in MINIMUM and value is not None and value < MINIMUM[key]:
            found.append((keys, f"{value}: should be at least {MINIMUM[key]}"))
    return found or batch.no_steps(train) + _sync_problems(recipe, train)


def _function_problems(key: str, value: str | None, keys: Keys) -> Problems:
    """Whether an advantage is one of r1lab's or a function, and a loss is a function; `inputs` loads the function."""
    kinds = {"advantage": ADVANTAGES, "loss": ()}.get(key)
    if kinds is None or value is None or value in kinds or "." in value:
        return []
    what = not_a_choice(value, kinds) if kinds else f"{value}: not a function"
    return [(keys, f"{what}; write ./mine.py:function for your own")]


def _sync_problems(recipe: StageRecipe, train: dict[str, Any]) -> Problems:
    """Reference models that TRL cannot synchronize, which it reports only when it builds the trainer."""
    keys = ("train", "sync_ref_model")
    if train.get("sync_ref_model") and getattr(recipe.model, "lora", None):
        why = "with LoRA the reference is the base model, which does not change: remove sync_ref_model or model.lora"
        return [(keys, why)]
    if train.get("sync_ref_model") and recipe.on_policy and not train.get("beta", trl_fields.GRPO["beta"][1]):
        why = "without a KL penalty there is no reference model: set train.beta, or remove sync_ref_model"
        return [(keys, why)]
    return []


def grpo_problems(recipe: GrpoRecipe) -> Problems:
    """Settings of a grpo stage that bias the gradient or contradict each other."""
    found: Problems = []
    train, rollout = recipe.train, recipe.rollout
    if not rollout.biased_sampling:
        truncating = [("rollout", "top_p", rollout.top_p < 1, "1.0"), ("rollout", "top_k", rollout.top_k > 0, "0")]
        truncating.append(("train", "min_p", bool(train.get("min_p")), "0.0"))
        for section, key, wrong, off in truncating:
            if wrong:
                what = "sampling from a truncated distribution biases the gradient and its importance ratio"
                fix = f"set {off}, or also set rollout.biased_sampling: true"
                found.append(((section, key), f"{what}: {fix}"))
    if "logging_nan_inf_filter" in train:
        found.append((("train", "logging_nan_inf_filter"), "not set here: set `alarms.loss` instead"))
    found += _loss_problems(train) + _async_problems(recipe) + _overlap_problems(recipe)
    if train.get("advantage") and "scale_rewards" in train:
        found.append((("train", "advantage"), "replaces TRL's scale_rewards: remove one of them"))
    if (
        train.get("advantage")
        and train.get("multi_objective_aggregation", "sum_then_normalize") != "sum_then_normalize"
    ):
        found.append((("train", "advantage"), "needs the sum of the rewards: remove multi_objective_aggregation"))
    if recipe.curriculum and recipe.curriculum.min_pass_rate > recipe.curriculum.max_pass_rate:
        found.append((("curriculum", "min_pass_rate"), "is above max_pass_rate, so no row would be left: lower it"))
    lora = recipe.model.lora
    if lora and lora.quantize == "8bit" and rollout.engine != "transformers":
        found.append((("model", "lora", "quantize"), "vLLM does not support 8bit: set rollout.engine: transformers"))
    names = lookup.reward_names([reward.name for reward in recipe.rewards])
    for name in recipe.schedule.rewards:
        if name not in names:
            hint = did_you_mean(name, names, otherwise=f"; available: {', '.join(names)}")
            found.append((("schedule", "rewards", name), f"no such reward{hint}"))
    return found


def distill_problems(recipe: DistillRecipe) -> Problems:
    """Settings that do not fit together with a teacher."""
    found: Problems = []
    train, settings, path = recipe.train, recipe.distill, recipe.teacher.path
    if path.startswith("scratch:"):
        found.append((("teacher", "path"), f"{path}: random weights teach nothing: name a trained model"))
    if not settings.exact and settings.beta != 1:
        what = f"{settings.beta:g}: without `exact` there is only the reverse KL: set exact: true, or beta: 1.0"
        found.append((("distill", "beta"), what))
    if recipe.teacher.url and settings.exact:
        what = "a server scores tokens, and has no distributions: set distill.exact: false, or remove url"
        found.append((("teacher", "url"), what))
    if recipe.teacher.url and (recipe.rollout.temperature != 1 or recipe.schedule.temperature):
        what = "a server scores tokens at temperature 1: set rollout.temperature: 1.0, or remove url"
        found.append((("teacher", "url"), what))
    if recipe.teacher.share_base:
        found += _shared_base_problems(recipe)
    unfit = ["loss", "overlap", "delta", "off_policy_mask_threshold"] + ["entropy_coef"] * settings.exact
    for key in unfit:
        if train.get(key):
            found.append((("train", key), "is not for a distill stage, whose loss comes from a teacher: remove it"))
    return found


def _shared_base_problems(recipe: DistillRecipe) -> Problems:
    """Settings with which a student's base cannot be that of its teacher too."""
    found: Problems = []
    if recipe.model.lora is None:
        what = "true: the student trains all weights, so its base would move under the teacher"
        fix = "set model.lora, or remove share_base, to load the teacher as a second model"
        found.append((("teacher", "share_base"), f"{what}: {fix}"))
    for key in ("url", "dtype", "attn_implementation", "revision", "trust_remote_code"):
        if getattr(recipe.teacher, key) != type(recipe.teacher).model_fields[key].default:
            where = "has the teacher's whole model" if key == "url" else "is that of the student's base"
            found.append((("teacher", key), f"{where} with share_base: remove one of them"))
    return found


def _async_problems(recipe: GrpoRecipe) -> Problems:
    """Settings that do not fit together with groups from earlier weights."""
    section, found = recipe.rollout.asynchronous, []
    if section is None:
        return []
    if section.staleness and recipe.train.get("vllm_importance_sampling_correction") is False:
        why = "groups from earlier weights need this correction, also those of transformers: remove it"
        found.append((("train", "vllm_importance_sampling_correction"), f"false: {why}"))
    if recipe.launch.ranks > 1 and not recipe.launch.generators and not recipe.rollout.url:
        ways = "set launch.rollout: server, or launch.gpus to 1"
        what = f"without servers it is for one rank, and launch has {recipe.launch.ranks}: {ways}"
        found.append((("rollout", "async"), what))
    return found


OVERLAP_NEEDS = {
    "beta": 0.0, "num_iterations": 1, "entropy_coef": 0.0, "top_entropy_quantile": 1.0, "grade_early": True,
    "reuse_logps": True, "gradient_checkpointing": False, "vllm_enable_sleep_mode": False,
}  # fmt: skip
"""The only values of fields of `train` with which `train.overlap` has an effect."""


def _overlap_problems(recipe: GrpoRecipe) -> Problems:
    """Settings with which `train.overlap` would have no effect; `r1lab.grpo.overlap.obstacle` has the reasons."""
    train, rollout = recipe.train, recipe.rollout
    if not train.get("overlap"):
        return []
    needed = [f"train.{key}={json.dumps(v)}" for key, v in OVERLAP_NEEDS.items() if train.get(key, v) != v]
    if recipe.launch.ranks > 1:
        needed.append("launch.gpus=1")
    if rollout.engine in ("transformers", "server"):
        needed.append("rollout.engine=vllm")
    if train.get("scale_rewards") == "batch":
        needed.append("train.scale_rewards=group")
    if train.get("advantage", "grpo") not in ADVANTAGES_OF_GROUPS:
        needed.append(f"train.advantage={ADVANTAGES_OF_GROUPS[0]}")
    unfit = {
        "train.loss": train.get("loss"), "rollout.url": rollout.url, "rollout.async": rollout.asynchronous,
        "rollout.dynamic_sampling": rollout.dynamic_sampling, "curriculum": recipe.curriculum,
        "launch.rollout": recipe.launch.generators, "environment": recipe.environment, "tools": recipe.tools,
    }  # fmt: skip
    said = [f"true: needs {setting}: set it, or remove overlap" for setting in needed]
    said += [f"true: has no effect with {key}: remove one of them" for key, value in unfit.items() if value]
    return [(("train", "overlap"), what) for what in said]


def _shared_engine_problems(recipe: Trained) -> Problems:
    """Whether the GPUs divide into the engines that they share, which TRL checks after it loads the model."""
    split, ranks = recipe.train.get("vllm_tensor_parallel_size") or 1, recipe.launch.ranks
    if ranks % split == 0:
        return []
    fitting = either([n for n in range(1, split) if ranks % n == 0])
    what = f"{split}: {counted(ranks, 'GPU')} do not divide into engines of {split} GPUs each: set {fitting}"
    return [(("train", "vllm_tensor_parallel_size"), what)]


def _loss_problems(train: dict) -> Problems:
    """Settings that a user's own loss leaves without effect, or that would change its formula."""
    if not train.get("loss"):
        return []
    found: Problems = []
    if (kind := train.get("loss_type", "dapo")) in ("cispo", "sapo", "vespo"):
        fix = "set loss_type to grpo, bnpo, dr_grpo, dapo or luspo, which only decide how tokens are averaged"
        found.append((("train", "loss_type"), f"{kind}: train.loss replaces this formula: {fix}"))
    for key in ("epsilon", "epsilon_high", "delta", "off_policy_mask_threshold"):
        if train.get(key):
            found.append((("train", key), "belongs to TRL's formula, which train.loss replaces: remove it"))
    return found
