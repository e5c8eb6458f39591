"""Recipes in small: `--tiny`."""

import copy

import pytest

from r1lab.recipe import batch, loading, tiny, yaml_source
from r1lab.recipe.schema import Pipeline

EVERY = sorted(yaml_source.packaged_recipes())


def text(name: str) -> str:
    return yaml_source.packaged_recipes()[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", EVERY)
def test_every_recipe_loads_in_small(name):
    small = loading.load([name], tiny=True, inputs=True)
    stages = small.stages if isinstance(small, Pipeline) else [small]
    assert small.name.endswith("-tiny")
    for stage in stages:
        assert stage.model.path.startswith(("embedded:", "scratch:", "@"))
        if hasattr(stage, "train"):
            assert stage.train["max_steps"] == 2 and stage.launch.gpus == 1
        if getattr(stage, "rollout", None):
            assert stage.rollout.engine == "transformers" and stage.rollout.max_completion_length <= 96
        for reward in getattr(stage, "rewards", []):
            assert reward.name != "judge"


@pytest.mark.parametrize("gpus", [1, 2])
def test_a_recipe_in_small_trains_on_two_devices_too(gpus):
    for name in EVERY:
        small = loading.load([name, f"launch.gpus={gpus}"] if "train:" in text(name) else [name], tiny=True)
        for stage in small.stages if isinstance(small, Pipeline) else [small]:
            if stage.trl:
                assert (batch.of(stage).rows, batch.of(stage).ranks) == (4, gpus), name


@pytest.mark.parametrize("name", EVERY)
def test_what_a_recipe_is_made_of_stays(name):
    whole, small = loading.load([name]), loading.load([name], tiny=True)
    pairs = zip(whole.stages, small.stages) if isinstance(whole, Pipeline) else [(whole, small)]
    for before, after in pairs:
        assert (before.stage, before.seed) == (after.stage, after.seed)
        assert getattr(before, "prompt", None) == getattr(after, "prompt", None)
        kept = {"learning_rate", "beta", "loss_type", "epsilon", "advantage", "scale_rewards", "lr_scheduler_type"}
        train = [{key: part.train[key] for key in kept & part.train.keys()} for part in (before, after)
                 if hasattr(part, "train")]  # fmt: skip
        assert not train or train[0] == train[1]


def test_the_recipe_given_is_not_changed():
    data = yaml_source.read(["quickstart"]).data
    before = copy.deepcopy(data)
    tiny.scaled_down(data)
    assert data == before


def test_words_of_the_command_line_come_after():
    small = loading.load(["quickstart", "stages.zero.train.max_steps=3", "rollout.engine=vllm"], tiny=True)
    assert small.stages[1].train["max_steps"] == 3
    small = loading.load(["stages.zero.train.max_steps=4", "quickstart"], tiny=True)
    assert small.stages[1].train["max_steps"] == 4


def test_what_cannot_be_had_is_left_out_and_told():
    given = {"stage": "grpo", "rewards": [{"name": "judge", "url": "http://x"}, {"name": "accuracy"}]}
    small, left_out = tiny.scaled_down(given)
    assert [reward["name"] for reward in small["rewards"]] == ["accuracy"]
    assert left_out == ["rewards: judge is left out, because it needs a server"]


def test_models_that_were_replaced_are_named_once(tmp_path, caplog):
    stages = [{"stage": "grpo", "model": {"path": path}} for path in ("@a/model", "Qwen/A", "meta/Llama-B", "Qwen/A")]
    _, (line,) = tiny.scaled_down({"stages": stages})
    assert line.startswith("embedded:tiny-qwen2 in place of Qwen/A; embedded:tiny-llama in place of meta/Llama-B: ")
    assert tiny.scaled_down({"stages": stages[:1], "model": {"path": "embedded:tiny-qwen2"}})[1] == []
    recipe = tmp_path / "r.yaml"
    recipe.write_text("stage: sft\nmodel: {path: Qwen/A}\ndata: {builder: gsm8k}\n")
    loading.load([str(recipe)], tiny=True, quiet=True)
    assert not caplog.messages
    loading.load([str(recipe)], tiny=True)
    (said,) = caplog.messages
    assert said.startswith("--tiny: embedded:tiny-qwen2 in place of Qwen/A: ")


def test_rows_of_the_hub_are_those_that_r1lab_carries():
    small, _ = tiny.scaled_down({"stage": "sft", "data": {"builder": "gsm8k"}, "name": "mine"})
    assert small["data"]["path"].endswith("data/tiny/gsm8k.jsonl") and small["data"]["size"] == 16
    small, _ = tiny.scaled_down({"stage": "sft", "data": {"builder": "rows", "path": "@draw/samples"}})
    assert small["data"]["path"] == "@draw/samples"


def test_a_schedule_changes_at_the_first_steps():
    schedule = {"max_completion_length": {0: 8192, 1000: 16384}, "rewards": {"format": {0: 1.0, 1300: 0.5}}}
    rewards = [{"name": "format"}]
    small, _ = tiny.scaled_down({"stage": "grpo", "rewards": rewards, "schedule": schedule})
    assert small["schedule"] == {"max_completion_length": {0: 16, 1: 32}, "rewards": {"format": {0: 1.0, 1: 0.5}}}


def test_rows_from_a_file_become_packaged_rows_of_the_same_form():
    for path, own in (("tool_calls.jsonl", "tool_calls"), ("own.jsonl", "rows")):
        small, _ = tiny.scaled_down({"stage": "grpo", "data": {"builder": "rows", "path": path}})
        assert small["data"]["path"].endswith(f"data/tiny/{own}.jsonl")
