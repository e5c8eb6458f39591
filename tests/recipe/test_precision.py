"""The dtypes of weights and of computation in a training stage."""

import pytest

from r1lab.errors import UserError
from r1lab.recipe import loading as recipes
from r1lab.recipe import precision

SFT = """stage: sft
model: {path: embedded:tiny-qwen2}
data: {builder: arithmetic, solution: true, size: 64}
"""


@pytest.mark.parametrize(
    ("words", "dtype", "weights", "computed"),
    [
        ([], "float32", "float32", None),
        ([], "bfloat16", "float32", "bfloat16"),
        ([], "float16", "float32", "float16"),
        (["launch={gpus: 2, strategy: ddp}"], "bfloat16", "float32", "bfloat16"),
        (["launch={gpus: 2, strategy: fsdp2}"], "bfloat16", "float32", "bfloat16"),
        (["train.master_weights=true"], "bfloat16", "float32", "bfloat16"),
        (["train.master_weights=false"], "bfloat16", "bfloat16", None),
        (["train.master_weights=false"], "float32", "float32", None),
        (["model.lora={r: 4}"], "bfloat16", "bfloat16", "bfloat16"),
        (["model.lora={r: 4}"], "float32", "float32", None),
        (["train.bf16=false"], "bfloat16", "float32", None),
        (["train.bf16=true"], "float32", "float32", "bfloat16"),
        (["train.fp16=true"], "bfloat16", "float32", "float16"),
    ],
)
def test_weights_that_are_trained_are_float32_under_every_strategy(write, words, dtype, weights, computed):
    recipe = recipes.load([write(SFT), *words])
    assert (precision.weights(recipe, dtype), precision.computed(recipe, dtype)) == (weights, computed)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.bf16=true"], "false: weights in model.dtype are also computed in it: remove train.bf16"),
        (["train.deepspeed=zero2.json"], "false: DeepSpeed keeps float32 weights of its own: remove it"),
        (["model.lora={r: 4}"], "has no effect with model.lora, whose adapters are float32"),
    ],
)
def test_a_setting_that_does_not_go_with_weights_in_half_precision_is_one_line(write, words, message):
    with pytest.raises(UserError) as caught:
        recipes.load([write(SFT), "train.master_weights=false", *words])
    assert caught.value.problems == [f"command line: train.master_weights: {message}"]
