"""Plans of whole recipes: verdicts, changes, text and JSON."""

import json

import pytest

from r1lab import cli, engines, plan
from r1lab.errors import UserError
from r1lab.plan import gpus, shapes
from r1lab.plan.changes import _candidates, _planned, changed
from r1lab.plan.gpus import GIB
from r1lab.recipe import loading as recipes

GRPO = {
    "stage": "grpo",
    "name": "big",
    "model": {"path": "Qwen/Qwen2.5-7B"},
    "data": {"builder": "countdown", "size": 640},
    "rewards": [{"name": "countdown"}],
    "rollout": {"engine": "transformers", "num_generations": 8, "max_completion_length": 512},
    "train": {"per_device_train_batch_size": 16, "num_train_epochs": 1},
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    from r1lab.check import look

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    look.hub_reachable.cache_clear()
    yield
    look.hub_reachable.cache_clear()


@pytest.fixture(scope="module")
def quickstart():
    """The plan of quickstart on this machine."""
    return plan.plan(recipes.load(["quickstart"]))


def load(folder, **more):
    """A recipe of one stage, sections merged."""
    from r1lab.rundir import storage

    plain = more | {k: v | more.get(k, {}) if isinstance(v, dict) else more.get(k, v) for k, v in GRPO.items()}
    storage.write_yaml(folder / "recipe.yaml", plain)
    return recipes.load([str(folder / "recipe.yaml")])


@pytest.mark.parametrize(("text", "size"), [("24GiB", 24 * GIB), ("1.5 gb", 3 * GIB // 2), ("512M", GIB // 2)])
def test_sizes(text, size):
    assert plan.parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "24", "GiB", "-1GiB", "0GiB", "many"])
def test_what_is_no_size(text):
    with pytest.raises(UserError, match="write it like 24GiB"):
        plan.parse_memory(text)


@pytest.mark.parametrize("name", ["h100", "H100-80GB", "nvidia h100", "rtx 4090", "4090", "A100-80GB"])
def test_gpus_by_the_names_people_use(name):
    assert gpus.find(name).memory in (80 * GIB, 24 * GIB)


def test_an_unknown_gpu_says_which_there_are():
    with pytest.raises(UserError, match="--gpu h1000: .*available: t4"):
        gpus.find("h1000")


def test_quickstart_fits_here(quickstart):
    assert quickstart.fits
    assert [stage.name for stage in quickstart.stages] == ["base", "zero", "after"]
    assert quickstart.stages[1].steps == 75


def test_the_cli_exits_with_3_where_it_does_not_fit(capsys):
    assert cli.main(["plan", "quickstart", "--memory", "256MiB"]) == 3
    assert "does not fit: base needs" in capsys.readouterr().out


def test_each_change_makes_it_fit(tmp_path):
    recipe = load(tmp_path)
    planned = plan.plan(recipe, gpu="l40s")
    assert not planned.fits
    found = planned.changes["big"]
    assert 1 <= len(found) <= 3
    for change in found:
        words = recipes.load([str(tmp_path / "recipe.yaml"), *change.words])
        assert plan.plan(words, gpu="l40s").fits, change
        assert "memory -" in change.price


def test_changes_in_a_pipeline_name_the_stage(tmp_path):
    from r1lab.rundir import storage

    stage = {k: v for k, v in GRPO.items() if k != "name"} | {"name": "zero"}
    storage.write_yaml(tmp_path / "recipe.yaml", {"name": "whole", "stages": [stage]})
    planned = plan.plan(recipes.load([str(tmp_path / "recipe.yaml")]), gpu="l40s")
    assert all(word.startswith("stages.zero.") for change in planned.changes["zero"] for word in change.words)


def test_changes_keep_the_update_that_a_recipe_sets(tmp_path):
    train = {"per_device_train_batch_size": 16, "global_batch_size": 48, "num_train_epochs": 1}
    recipe = load(tmp_path, train=train)
    planned = plan.plan(recipe, gpu="t4")
    candidates = [(s, _planned(recipe, s, lambda _: True)) for s, _ in _candidates(recipe, planned.stages[0])]
    keys = {key for settings, _ in candidates for key in settings}
    assert "train.per_device_train_batch_size" in keys and "train.gradient_accumulation_steps" not in keys
    # 48 rows do not divide into micro-batches of 16 on two GPUs.
    assert not any(works for settings, works in candidates if "launch.gpus" in settings)
    with pytest.raises(UserError, match="--gpus 2: big: train.global_batch_size: 48 completions do not divide"):
        plan.plan(recipe, gpu="t4", gpus=2)


def test_the_work_of_an_update_is_the_same_on_several_gpus(tmp_path):
    train = {"per_device_train_batch_size": 16, "global_batch_size": 64, "num_train_epochs": 1}
    (one,), (two,) = (plan.plan(load(tmp_path, train=train), gpu="h100", gpus=gpus).stages for gpus in (1, 2))
    assert (one.steps, one.tokens, one.flops) == (two.steps, two.tokens, two.flops)
    assert two.seconds < one.seconds


def test_less_memory_with_checkpointing_lora_and_four_bits(tmp_path):
    recipe = load(tmp_path, train={"gradient_checkpointing": False})

    def peak(**settings):
        return plan.plan(changed(recipe, settings), gpu="h100").stages[0].peak.total

    plain = peak()
    assert peak(**{"train.gradient_checkpointing": True}) < plain
    assert peak(**{"model.lora.r": 16}) < plain
    assert peak(**{"model.lora.r": 16, "model.lora.quantize": "4bit"}) < peak(**{"model.lora.r": 16})
    assert peak(**{"train.beta": 0.04}) > plain


def test_sharding_spreads_over_gpus(tmp_path):
    recipe = load(tmp_path)
    whole, spread = (
        plan.plan(changed(recipe, settings), gpu="h100", gpus=8).stages[0].peak.total
        for settings in ({"launch.strategy": "ddp"}, {"launch.strategy": "fsdp2"})
    )
    assert spread < whole / 2


def test_several_changes_together_where_no_single_one_does(tmp_path):
    path = str(tmp_path / "recipe.yaml")
    planned = plan.plan(load(tmp_path), gpu="t4", gpus=1)
    (change,) = planned.changes["big"]
    assert len(change.words) > 1
    assert plan.plan(recipes.load([path, *change.words]), gpu="t4", gpus=1).fits


def test_work_goes_with_steps(tmp_path):
    (one,), (two,) = (plan.plan(load(tmp_path, train={"max_steps": steps}), gpu="h100").stages for steps in (10, 20))
    assert two.flops == 2 * one.flops
    start = gpus.find("h100").start
    assert two.seconds - start == pytest.approx(2 * (one.seconds - start))
    assert one.tokens > 0


def test_an_epoch_has_as_many_steps_as_rows_ask_for(tmp_path):
    assert plan.plan(load(tmp_path), gpu="h100").stages[0].steps == 640 * 8 // 16


def test_text_has_no_color_in_a_file_and_is_shortened_for_a_terminal(quickstart):
    planned = quickstart
    assert "\033" not in plan.as_text(planned, width=None, color=False)
    assert "\033[32mfits" in plan.as_text(planned, width=None, color=True)
    tables = plan.as_text(planned, width=60, color=False).partition("fits:")[0]
    assert max(map(len, tables.splitlines())) <= 60


def test_json_adds_up(quickstart):
    plain = json.loads(json.dumps(plan.as_json(quickstart)))
    for stage in plain["stages"]:
        for parts in stage["phases"].values():
            assert parts.pop("total") == sum(parts.values())
        assert stage["peak_bytes"] == max(sum(parts.values()) for parts in stage["phases"].values())


@pytest.mark.parametrize("name", ["r1/tiny", "open-r1/evaluate", "published/tinyzero-countdown", "gpu/knights-knaves"])
def test_packaged_recipes_can_be_planned(name):
    planned = plan.plan(recipes.load([name]), gpu="h100")
    assert all(stage.peak.total > 0 for stage in planned.stages)


def test_float32_weights_and_adam_are_sharded_over_all_ranks_by_default(tmp_path):
    recipe = load(tmp_path, launch={"gpus": 8}, train={"per_device_train_batch_size": 2})
    planned = plan.plan(recipe, gpu="h100").stages[0]
    parameters = shapes.find("Qwen/Qwen2.5-7B").parameters
    peak = planned.phases["update"]
    assert peak.weights == 4 * parameters // 8
    assert peak.optimizer == 8 * parameters // 8
    one = plan.plan(changed(recipe, {"launch.gpus": 16}), gpu="h100").stages[0].phases["update"]
    assert one.weights == peak.weights // 2
    assert planned.loading == 4 * parameters  # only the first rank reads the weights


@pytest.mark.parametrize(
    ("settings", "trained", "engine"),
    [
        ({}, 16, 2),
        ({"launch.gpus": 2, "launch.strategy": "ddp"}, 20, 2),  # the gradients twice, in buckets
        ({"train.master_weights": False}, 8, 2),
        ({"train.master_weights": False, "launch.gpus": 2, "launch.strategy": "fsdp2"}, 8 / 2, 2),
        ({"launch.gpus": 2, "launch.strategy": "fsdp2"}, 16 / 2, 2),
        ({"model.dtype": "float32"}, 16, 4),
        ({"model.dtype": "float32", "train.master_weights": False}, 16, 4),
    ],
)
def test_weights_gradients_and_adam_take_16_bytes_a_parameter_and_8_without_float32(
    tmp_path, monkeypatch, settings, trained, engine
):
    monkeypatch.setattr(engines, "choose", lambda engine: "vllm")
    recipe = load(tmp_path, rollout={"engine": "vllm"}, train={"per_device_train_batch_size": 8, "beta": 0.04})
    phases = plan.plan(changed(recipe, settings), gpu="b200").stages[0].phases
    parameters, at = shapes.find("Qwen/Qwen2.5-7B").parameters, phases["update"]
    assert at.weights + at.gradients + at.optimizer == pytest.approx(trained * parameters, rel=1e-3)
    assert at.engine == pytest.approx(engine * parameters + GIB, rel=1e-3)
    shards = 2 if settings.get("launch.strategy") == "fsdp2" else 1
    assert at.reference == pytest.approx(engine * parameters / shards, rel=1e-3)


def test_lora_leaves_the_base_whole_on_each_rank(tmp_path):
    settings = {"model": {"lora": {"r": 16}}, "train": {"per_device_train_batch_size": 2}}
    planned = plan.plan(load(tmp_path, launch={"gpus": 8}, **settings), gpu="h100").stages[0]
    assert planned.peak.weights > 2 * shapes.find("Qwen/Qwen2.5-7B").parameters
    assert planned.loading == 8 * 2 * shapes.find("Qwen/Qwen2.5-7B").parameters


def test_nothing_is_recommended_that_a_run_refuses(tmp_path):
    recipe = load(tmp_path, launch={"gpus": 2, "strategy": "ddp"}, train={"per_device_train_batch_size": 8})
    planned = plan.plan(recipe, gpu="a40")
    assert planned.changes["big"]
    for change in planned.changes["big"]:
        found = recipes.load([str(tmp_path / "recipe.yaml"), *change.words])  # refuses what `run` refuses
        assert "train.fsdp" not in " ".join(change.words)
        assert plan.plan(found, gpu="a40").fits, change
    here = plan.plan(load(tmp_path), memory=GIB)
    assert not [word for found in here.changes.values() for change in found for word in change.words if "gpus" in word]


def test_processes_on_a_machine_without_gpus_share_its_memory_and_cores():
    device = gpus.cores(2, 8 * GIB, avx512=False)
    one, two = (
        plan.plan(recipes.load(["quickstart", f"stages.zero.launch.gpus={count}"]), device=device).stages[1]
        for count in (1, 2)
    )
    assert two.budget == one.budget // 2
    assert two.seconds > one.seconds / 2


def test_weights_that_are_exchanged_between_machines_take_time(tmp_path):
    recipe = load(tmp_path, launch={"gpus": 8}, train={"per_device_train_batch_size": 1})
    one = plan.plan(recipe, gpu="h100").stages[0]
    two = plan.plan(changed(recipe, {"launch.nodes": 2}), gpu="h100").stages[0]
    assert two.seconds / two.steps > one.seconds / one.steps
    assert "50 GB/s from each GPU to other machines" in two.assumed


def test_replies_of_an_environment_are_context_and_cost_memory_and_time(tmp_path):
    rows = {"builder": "desk", "size": 64}
    alone = load(tmp_path, data=rows)
    tools = load(tmp_path, data=rows, environment={"name": "desk", "max_turns": 5, "max_reply_length": 1000})
    before, after = (plan.plan(recipe, gpu="h100").stages[0] for recipe in (alone, tools))
    assert "replies of at most 4,256 tokens in an episode" in after.assumed[0]
    assert "replies" not in before.assumed[0]
    assert after.tokens > before.tokens + 0.3 * 4000 * before.completions
    assert after.seconds > before.seconds and after.peak.activations > before.peak.activations
    assert after.written == before.written and after.completions == before.completions  # of its own tokens


def test_the_head_computes_own_tokens_alone():
    from r1lab.plan import training

    plain = training.packed(8, 4, 100, 50, shared=True, masked=False)
    replied = training.packed(8, 4, 100, 50, shared=True, masked=False, replies=30)
    assert replied.scored == plain.scored and replied.tokens == plain.tokens + 8 * 30


def test_rows_of_played_episodes_have_their_replies(tmp_path):
    from r1lab.plan.lengths import lengths, mean_written

    environment = {"name": "number_guess", "max_turns": 3, "max_reply_length": 16}
    text = {
        "name": "both", "model": {"path": "embedded:tiny-qwen2"}, "environment": environment,
        "stages": [
            {"name": "played", "stage": "sample", "data": {"builder": "number_guess", "size": 8},
             "rollout": {"engine": "transformers", "num_generations": 2, "max_completion_length": 64}},
            {"name": "taught", "stage": "sft", "data": {"path": "@played/samples"}},
        ],
    }  # fmt: skip
    (tmp_path / "both.yaml").write_text(json.dumps(text))
    played, taught = recipes.load([str(tmp_path / "both.yaml")]).stages
    before, found = lengths(played, {}), lengths(taught, {"played": played})
    assert before.replies == 2 * (16 + 64) and found.replies == 0
    assert found.whole == before.prompt + 64 + before.replies and found.rows == 16
    assert found.mean == pytest.approx(before.mean + mean_written(64) + before.mean_replies)
