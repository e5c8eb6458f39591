"""The rows of an update on any number of devices, and rows and settings that make no step of training."""

from types import SimpleNamespace

import pytest

from r1lab.check import check
from r1lab.errors import UserError
from r1lab.recipe import batch, loading
from r1lab.stages import grpo, training

GRPO = """
stage: grpo
name: g
model: {path: "embedded:tiny-qwen2"}
data: {builder: rows, path: FILE}
prompt: {template: r1-zero}
rewards: [{name: accuracy}]
rollout: {engine: transformers, num_generations: 4, max_completion_length: 8}
train: {max_steps: 2, learning_rate: 1.0e-4, SIZE}
"""


def loaded(tmp_path, rows, size, *words):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"prompt": "{i} + 1?", "answer": "{i + 1}"}}\n' for i in range(rows)))
    path = tmp_path / "g.yaml"
    path.write_text(GRPO.replace("FILE", str(file)).replace("SIZE", size))
    return loading.load([str(path), *words])


def said_by_check(recipe):
    return [f.message for _, f in check.check(recipe) if f.check == "batch" and f.verdict == "error"]


@pytest.mark.parametrize(
    ("size", "rows", "groups", "way"),
    [
        ("per_device_train_batch_size: 32", 2, 8, "train.per_device_train_batch_size to at most 8"),
        ("per_device_train_batch_size: 8, gradient_accumulation_steps: 4", 7, 8, "size to at most 7"),
        ("per_device_train_batch_size: 8, steps_per_generation: 4", 7, 8, "size to at most 7"),
        ("per_device_train_batch_size: 8, generation_batch_size: 32", 7, 8, "generation_batch_size to at most 24"),
        ("generation_batch_size: 16", 3, 4, "generation_batch_size to at most 8"),
    ],
)
def test_fewer_rows_than_groups_are_an_error_of_check_and_of_the_run(tmp_path, size, rows, groups, way):
    few = loaded(tmp_path, rows, size)
    batches = f"a generation batch has {groups} groups, each for a different row"
    problem = f"{rows} rows, but {batches}: there would be no training step"
    [said] = said_by_check(few)
    assert said.startswith(f"{problem}: use at least {groups} rows, or lower ") and said.endswith(way)
    with pytest.raises(UserError, match=f"data: {problem}"):
        grpo.run(few, tmp_path)
    assert batch.too_few_rows(few, rows, tiny=True) == (problem, f"use at least {groups} rows")
    assert batch.too_few_rows(few, groups) is None


@pytest.mark.parametrize("operation", ["data.deduplicate=true", "data.max_tokens=9"])
def test_the_rows_that_an_operation_leaves_are_what_counts(tmp_path, operation):
    few = loaded(tmp_path, 8, "per_device_train_batch_size: 32", operation)
    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "1 + 1?", "answer": "2"}\n' * 4
        + "".join(f'{{"prompt": "{i} + 1, which is more than you think?", "answer": "2"}}\n' for i in range(4))
    )
    with pytest.raises(UserError, match=r"data: [45] rows, but a generation batch has 8 groups"):
        grpo.run(few, tmp_path)
    assert len(said_by_check(few)) == ("deduplicate" in operation)  # tokens are counted by the run


# The rows of an update over all devices


@pytest.mark.parametrize(
    ("ranks", "split"), [(1, (8, 1, 16, 32)), (2, (8, 2, 8, 16)), (4, (8, 4, 4, 8)), (16, (8, 16, 1, 2))]
)
def test_an_update_and_a_rollout_are_the_same_on_any_number_of_devices(tmp_path, ranks, split):
    size = "per_device_train_batch_size: 8, global_batch_size: 128, generation_batch_size: 256"
    on = batch.of(loaded(tmp_path, 8, size), ranks)
    assert (on.size, on.ranks, on.accumulation, on.generation) == split
    assert (on.rows, on.rollout) == (128, 256)


@pytest.mark.parametrize(
    ("size", "words", "message"),
    [
        (
            "per_device_train_batch_size: 8, global_batch_size: 100",
            ["launch.gpus=4"],
            "train.global_batch_size: 100 completions do not divide into micro-batches of 8 on each of 4 GPUs: "
            "set train.global_batch_size to 96 or 128, or train.per_device_train_batch_size to 5",
        ),
        (
            "per_device_train_batch_size: 16, global_batch_size: 64",
            ["launch.gpus=8"],
            "train.global_batch_size: 64 completions do not divide into micro-batches of 16 on each of 8 GPUs: "
            "set train.global_batch_size to 128, or launch.gpus to 1, 2 or 4, or "
            "train.per_device_train_batch_size to 8",
        ),
        (
            "per_device_train_batch_size: 8, global_batch_size: 64",
            ["launch.gpus=3"],
            "set train.global_batch_size to 48 or 72, or launch.gpus to 1, 2, 4 or 8",
        ),
        (
            "per_device_train_batch_size: 2, global_batch_size: 62",
            [],
            "train.global_batch_size: 62 completions do not divide into groups of 4: "
            "set train.global_batch_size to 60 or 64",
        ),
        (
            "per_device_train_batch_size: 2, global_batch_size: 8, generation_batch_size: 12",
            ["launch.gpus=4"],
            "train.generation_batch_size: 12 completions do not divide into micro-batches of 2 on each of 4 GPUs: "
            "set train.generation_batch_size to 8 or 16, or launch.gpus to 1 or 2, or "
            "train.per_device_train_batch_size to 1",
        ),
        (
            "per_device_train_batch_size: 2, global_batch_size: 8",
            ["launch.gpus=4", "curriculum={learnability: true}"],
            "8 completions do not divide into whole groups of 4 on each of 4 GPUs, as "
            "curriculum needs them: set train.global_batch_size to 16, or launch.gpus to 1 or 2",
        ),
        (
            "per_device_train_batch_size: 8, global_batch_size: 64",
            ["train.gradient_accumulation_steps=4"],
            "train.gradient_accumulation_steps: follows from train.global_batch_size and the number of devices: "
            "remove it, or set train.global_batch_size to 32",
        ),
        (
            "per_device_train_batch_size: 8, global_batch_size: 64",
            ["train.steps_per_generation=16"],
            "remove it, or set train.generation_batch_size to 128",
        ),
        ("global_batch_size: 0", [], "train.global_batch_size: should be at least 1"),
        ("global_batch_sise: 64", [], "did you mean `global_batch_size`?"),
    ],
)
def test_rows_that_do_not_divide_are_an_error_with_what_fits(tmp_path, size, words, message):
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, 8, size, *words)
    (line,) = caught.value.problems
    assert message in line


@pytest.mark.parametrize("kind", ["sft", "dpo", "reward"])
def test_every_stage_that_trains_has_it(tmp_path, kind):
    def load(*train):
        words = ["stage=" + kind, "name=s", "model.path=embedded:tiny-qwen2", "data={builder: rows, path: r.jsonl}"]
        return loading.load([*words, "launch.gpus=2", *train])

    whole = load("train.global_batch_size=32", "train.per_device_train_batch_size=4")
    assert batch.of(whole).accumulation == 4 and batch.of(whole, ranks=1).accumulation == 8
    with pytest.raises(UserError, match="30 rows do not divide into micro-batches of 4 on each of 2 GPUs"):
        load("train.global_batch_size=30", "train.per_device_train_batch_size=4")


def test_too_few_rows_name_the_rows_of_an_update(tmp_path):
    few = loaded(tmp_path, 7, "per_device_train_batch_size: 8, global_batch_size: 32")
    _, way = batch.too_few_rows(few, 7)
    assert way == "use at least 8 rows, or lower train.global_batch_size to at most 24"


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 16), (2, 8)])
def test_the_trainer_gets_what_follows_for_the_processes_that_there_are(tmp_path, monkeypatch, ranks, accumulation):
    monkeypatch.setattr(training.ranks, "world_size", lambda: ranks)
    monkeypatch.setattr(training, "_group_settings", lambda recipe: {})  # there are no other processes to join
    recipe = loaded(tmp_path, 8, "per_device_train_batch_size: 8, global_batch_size: 128")
    one_device = type("Config", (SimpleNamespace,), {"n_gpu": 1})
    config = training.trl_config(one_device, recipe, tmp_path)
    assert config.gradient_accumulation_steps == accumulation and not hasattr(config, "global_batch_size")


def test_a_reward_that_compares_completions_needs_whole_groups_on_each_device(tmp_path):
    words = [
        "stage=grpo", "name=t", "model.path=embedded:tiny-qwen2", "data.builder=arithmetic",
        "rollout.num_generations=8", "train.per_device_train_batch_size=4", "launch.gpus=2",
    ]  # fmt: skip
    plain = loading.load([*words, "rewards=[{name: accuracy}]"])
    assert batch.problems(plain, 2) == []
    voted = plain.model_copy(update={"rewards": [type(plain.rewards[0])(name="majority")]})
    ((keys, what),) = batch.problems(voted, 2)
    assert keys == ("rewards",) and "needs whole groups of 8" in what
    assert batch.problems(voted.model_copy(update={"train": {"per_device_train_batch_size": 8}}), 2) == []
