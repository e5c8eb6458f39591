"""Rows and settings that make no step of training."""

import pytest

from r1lab.check import check
from r1lab.errors import UserError
from r1lab.recipe import batch, loading
from r1lab.stages import grpo

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
        ("per_device_train_batch_size: 8, generation_batch_size: 32", 7, 8, "generation_batch_size to at most 28"),
        ("generation_batch_size: 16", 3, 4, "generation_batch_size to at most 12"),
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
