"""The recipes of published work have the published settings; each row of the table names its source."""

from pathlib import Path

import pytest

from r1lab.recipe import batch
from r1lab.recipe import loading as recipes

ROOT = Path(__file__).parents[2] / "recipes"

# By recipe, then by key: what the source says. Lengths in tokens.
GRPO = {
    "open-r1/grpo-qwen2.5-1.5b": {  # Open-R1, recipes/Qwen2.5-1.5B-Instruct/grpo/config_demo.yaml
        "model.path": "Qwen/Qwen2.5-1.5B-Instruct",
        "train.learning_rate": 2e-5,
        "train.lr_scheduler_type": "cosine",
        "train.warmup_steps": 0.1,
        "rollout.num_generations": 16,
        "rollout.max_completion_length": 1024,
        "data.max_tokens": 512,
    },
    "open-r1/grpo-distill-qwen-1.5b": {  # Open-R1, recipes/DeepSeek-R1-Distill-Qwen-1.5B/grpo/config_demo.yaml
        "model.path": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        "train.learning_rate": 1e-6,
        "train.lr_scheduler_type": "cosine_with_min_lr",
        "rollout.num_generations": 16,
        "rollout.max_completion_length": 2048,
        "rollout.temperature": 0.7,
    },
    "open-r1/grpo-code": {  # Open-R1, recipes/Qwen2.5-1.5B-Instruct/grpo/config_demo_code.yaml
        "train.learning_rate": 5e-6,
        "train.beta": 0.01,
        "train.max_steps": 500,
        "rollout.num_generations": 14,
        "rollout.max_completion_length": 2048,
        "rollout.temperature": 1.0,
        "data.max_tokens": 1024,
    },
    "open-r1/grpo-codeforces": {  # Open-R1, recipes/Qwen2.5-Coder-7B-Instruct/grpo/config_codeforces.yaml
        "model.path": "Qwen/Qwen2.5-Coder-7B-Instruct",
        "train.learning_rate": 1e-6,
        "train.beta": 0.0,
        "train.loss_type": "dr_grpo",
        "train.scale_rewards": "none",
        "train.mask_truncated_completions": True,
        "train.max_grad_norm": 0.2,
        "train.num_train_epochs": 4,
        "rollout.num_generations": 16,
        "rollout.max_completion_length": 8192,
        "rollout.temperature": 0.7,
        "data.max_tokens": 2000,
    },
    "open-r1/grpo-simple-rl": {  # Open-R1, the former recipes/Qwen2.5-Math-7B/grpo/config_simple_rl.yaml
        "model.path": "Qwen/Qwen2.5-Math-7B",
        "train.learning_rate": 3e-6,
        "rollout.num_generations": 7,
        "rollout.max_completion_length": 1024,
    },
    "published/tinyzero-countdown": {  # github.com/Jiayi-Pan/TinyZero, its actor
        "train.learning_rate": 1e-6,
        "train.beta": 0.001,
        "rollout.max_completion_length": 1024,
        "data.size": 327680,
    },
    "published/mini-r1-countdown": {  # philschmid, grpo-qwen-2.5-3b-deepseek-r1-countdown.yaml
        "model.path": "Qwen/Qwen2.5-3B-Instruct",
        "train.learning_rate": 5e-7,
        "train.beta": 0.001,
        "train.max_steps": 450,
        "rollout.num_generations": 8,
        "rollout.max_completion_length": 1024,
    },
    "published/simplerl-zoo": {  # arXiv:2503.18892; hkust-nlp/simpleRL-reason, train_grpo_math_tune_ray.sh
        "train.learning_rate": 5e-7,
        "train.beta": 1e-4,
        "train.epsilon": 0.2,
        "train.entropy_coef": 0.001,
        "rollout.num_generations": 8,
        "rollout.max_completion_length": 8192,
    },
    "published/dr-grpo": {  # arXiv:2503.20783; sail-sg/understand-r1-zero, examples/qwen2.5-math-7b.sh
        "model.path": "Qwen/Qwen2.5-Math-7B",
        "train.learning_rate": 1e-6,
        "train.lr_scheduler_type": "constant",
        "train.beta": 0.0,
        "train.loss_type": "dr_grpo",
        "train.scale_rewards": "none",
        "rollout.num_generations": 8,
        "rollout.max_completion_length": 3000,
        "rollout.temperature": 1.0,
    },
    "published/dapo": {  # arXiv:2503.14476, section 4.1
        "model.path": "Qwen/Qwen2.5-32B",
        "train.learning_rate": 1e-6,
        "train.beta": 0.0,
        "train.epsilon": 0.2,
        "train.epsilon_high": 0.28,
        "train.loss_type": "dapo",
        "train.mask_truncated_completions": True,
        "rollout.num_generations": 16,
        "rollout.max_completion_length": 16384 + 4096,
        "rollout.dynamic_sampling.metric": "right",
        "eval.num_samples": 32,
    },
    "published/deepscaler": {  # DeepScaleR-1.5B-Preview
        "train.learning_rate": 1e-6,
        "train.beta": 0.001,
        "train.max_steps": 1750,
        "rollout.num_generations": 8,
        "rollout.temperature": 0.6,
        "schedule.max_completion_length": {0: 8192, 1040: 16384, 1520: 24576},
    },
    "published/l1-exact": {  # arXiv:2503.04697; github.com/cmu-l3/l1, scripts/train/run_l1_exact.sh
        "model.path": "agentica-org/DeepScaleR-1.5B-Preview",
        "train.learning_rate": 1e-6,
        "train.beta": 0.001,
        "rollout.num_generations": 16,
        "rollout.max_completion_length": 4096,
        "rollout.temperature": 0.6,
        "data.budget.lowest": 100,
        "data.budget.highest": 4000,
    },
    "published/open-rs": {  # arXiv:2503.16219; github.com/knoveleng/open-rs
        "model.path": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        "rollout.num_generations": 6,
        "rollout.max_completion_length": 3584,
    },
    "published/r1-zero-qwen-32b": {  # arXiv:2501.12948v2, appendix B.4.1
        "train.learning_rate": 2e-6,
        "train.beta": 0.001,
        "train.sync_ref_model": True,
        "train.ref_model_sync_steps": 400,
        "train.ref_model_mixup_alpha": 1.0,
        "rollout.num_generations": 16,
        "rollout.max_completion_length": 32768,
        "rollout.temperature": 1.0,
    },
}

# Completions an update, and a rollout, on the recipe's GPUs.
BATCHES = {
    "open-r1/grpo-qwen2.5-1.5b": (16 * 4 * 8, 16 * 4 * 8),
    "open-r1/grpo-distill-qwen-1.5b": (16 * 4 * 8, 16 * 4 * 8),
    "open-r1/grpo-code": (16 * 4 * 7, 16 * 4 * 7),  # seven of eight GPUs trained
    "open-r1/grpo-codeforces": (4 * 32 * 8, 4 * 32 * 8),
    "open-r1/grpo-simple-rl": (16 * 8 * 7, 16 * 8 * 7),
    "published/tinyzero-countdown": (64 * 8, 256 * 8),  # questions as published, 8 answers each
    "published/mini-r1-countdown": (8 * 3 * 8, 8 * 3 * 8),
    "published/simplerl-zoo": (256 * 8, 1024 * 8),
    "published/dr-grpo": (128, 128 * 8),
    "published/dapo": (512, 512 * 16),
    "published/deepscaler": (128 * 8, 128 * 8),
    "published/l1-exact": (64 * 16, 128 * 16),
    "published/r1-zero-qwen-32b": (32 * 16, 8192),
}

# Batch (rows or packs an update), learning rate, epochs, tokens.
SFT = {
    "open-r1/sft-distill-7b": (128, 4e-5, 5, 32768),  # Open-R1, recipes/OpenR1-Distill-7B/sft/config_distill.yaml
    "open-r1/sft-openr1-qwen-7b": (16, 5e-5, 3, 32768),  # Open-R1, the former recipe of OpenR1-Qwen-7B
    "open-r1/sft-bespoke": (128, 2e-5, 1, 4096),  # Open-R1, recipes/Qwen2.5-1.5B-Instruct/sft, February 2025
    "published/bespoke-stratos-7b": (96, 1e-5, 3, 16384),  # the model's card; the length is ours
    # arXiv:2501.12948v2, appendix B.4.3 and table 6; of "2 to 3 epochs" ours is 2
    "open-r1/distil/qwen-1.5b": (64, 1e-4, 2, 32768),
    "open-r1/distil/qwen-7b": (64, 8e-5, 2, 32768),
    "open-r1/distil/qwen-14b": (64, 7e-5, 2, 32768),
    "open-r1/distil/qwen-32b": (64, 6e-5, 2, 32768),
    "open-r1/distil/llama-8b": (64, 5e-5, 2, 32768),
    "open-r1/distil/llama-70b": (64, 2e-5, 2, 32768),
}


def load(name):
    return recipes.load([str(ROOT / f"{name}.yaml")])


def found(folder: str) -> set[str]:
    return {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / folder).rglob("*.yaml")}


def at(recipe, key: str):
    value = recipe
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


def update(recipe) -> int:
    """Rows that an update learns from."""
    return batch.of(recipe).rows


def test_every_recipe_of_the_two_folders_is_held_against_its_source():
    pipelines = {"open-r1/traces", "open-r1/evaluate"}
    assert found("open-r1") | found("published") == {*GRPO, *SFT} | pipelines


@pytest.mark.parametrize("name", GRPO)
def test_a_grpo_recipe_has_the_published_settings(name):
    recipe = load(name)
    assert {key: at(recipe, key) for key in GRPO[name]} == GRPO[name]


@pytest.mark.parametrize("name", BATCHES)
def test_a_grpo_recipe_has_the_published_batch(name):
    recipe = load(name)
    assert (update(recipe), batch.of(recipe).rollout) == BATCHES[name]


@pytest.mark.parametrize("name", SFT)
def test_an_sft_recipe_has_the_published_settings(name):
    recipe = load(name)
    train = recipe.train
    settings = (update(recipe), train["learning_rate"], train["num_train_epochs"], train["max_length"])
    assert settings == SFT[name]


@pytest.mark.parametrize("name", [name for name in SFT if "/distil/" in name])
def test_a_distillation_ends_at_a_tenth_of_its_learning_rate(name):
    train = load(name).train
    assert train["lr_scheduler_type"] == "cosine_with_min_lr"
    assert train["lr_scheduler_kwargs"] == {"min_lr_rate": 0.1}


def test_the_overlong_penalty_of_dapo_ends_where_its_completions_do():
    recipe = load("published/dapo")
    penalty = recipe.rewards[1].model_extra
    assert penalty == {"max_completion_length": recipe.rollout.max_completion_length, "cache": 4096}


def test_the_teacher_of_the_traces_samples_as_open_r1_does_and_students_learn_what_it_kept():
    stages = {stage.name: stage for stage in load("open-r1/traces").stages}
    rollout = stages["teacher"].rollout
    assert (rollout.num_generations, rollout.temperature, rollout.top_p) == (4, 0.6, 0.95)
    assert rollout.max_completion_length == 16384
    assert stages["teacher"].keep.which == "right"
    assert {task.builder for task in stages["teacher"].data.decontaminate.against} == {"aime", "math"}
    for student, rate in (("qwen", 8e-5), ("llama", 5e-5)):
        assert at(stages[student].data, "model_extra.path") == "@teacher/samples"
        assert stages[student].train["learning_rate"] == rate
        assert update(stages[student]) == 64


def test_the_evaluation_takes_as_many_answers_as_open_r1():
    stages = load("open-r1/evaluate").stages
    assert {stage.name: stage.eval.num_samples for stage in stages} == {"aime24": 64, "math-500": 4, "gpqa-diamond": 8}
    assert {(stage.eval.temperature, stage.rollout.top_p) for stage in stages} == {(0.6, 0.95)}
    assert {stage.rollout.max_completion_length for stage in stages} == {32768}


def test_the_page_on_recipes_names_each_of_them():
    page = (ROOT.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert [name for name in sorted(found(".")) if f"`{name}`" not in page] == []
