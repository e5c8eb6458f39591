"""On what a stage runs."""

from pathlib import Path

import pytest

from r1lab.errors import UserError
from r1lab.recipe import launch, references
from r1lab.recipe import loading as recipes
from r1lab.run.stages import stage_runs

SFT = """stage: sft
model: {path: embedded:tiny-qwen2}
data: {builder: arithmetic, solution: true, size: 64}
"""
QLORA = "model.lora={quantize: 4bit}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["launch.strategy=fsdp2"],
            "fsdp2: needs several ranks to shard the model over: set launch.gpus to at least 2",
        ),
        (
            ["launch.strategy=fsdp2", "launch.gpus=2", QLORA],
            "fsdp2: cannot shard a model in 4bit: set ddp, or remove model.lora.quantize",
        ),
        (
            ["launch.strategy=ddp", "launch.gpus=2", "train.fsdp=full_shard"],
            "ddp: train.fsdp also says how the ranks share the model: remove one of the two",
        ),
    ],
)
def test_a_strategy_that_does_not_fit_the_recipe_is_one_line(write, words, message):
    with pytest.raises(UserError) as caught:
        recipes.load([write(SFT), *words])
    assert caught.value.problems == [f"command line: launch.strategy: {message}"]


def test_ranks_of_several_nodes_can_shard(write):
    loaded = recipes.load([write(SFT), "launch.strategy=fsdp2", "launch.nodes=2"])
    assert loaded.launch.ranks == 2


def test_a_strategy_that_no_stage_uses_is_refused_and_a_shared_one_is_taken(write):
    loaded = recipes.load(["quickstart", "launch={gpus: 2, strategy: ddp}"], check=False)
    assert [part.launch.gpus for part in loaded.stages] == [2, 2, 2]
    with pytest.raises(UserError) as caught:
        recipes.load(["quickstart", "stages.base.launch={gpus: 2, strategy: ddp}"])
    assert caught.value.problems == [
        "command line: stages.base.launch.strategy: has no effect in a stage of kind eval"
    ]


@pytest.mark.parametrize(
    ("words", "gpu", "strategy"),
    [
        ([], True, "auto"),  # of one rank
        (["launch.gpus=2"], True, "fsdp2"),
        (["launch.gpus=2"], False, "ddp"),
        (["launch.nodes=2", "model.lora={r: 8}"], True, "ddp"),
        (["launch.gpus=2", "launch.strategy=ddp"], True, "ddp"),
        (["launch.gpus=2", "train.fsdp=full_shard"], True, "auto"),
    ],
)
def test_what_auto_means(write, words, gpu, strategy):
    loaded = recipes.load([write(SFT), *words])
    assert launch.resolved(recipes.resolved(loaded), gpu=gpu)["launch"]["strategy"] == strategy


def test_the_config_of_a_run_on_several_ranks_loads_and_resolves_to_itself(write):
    loaded = recipes.load(["quickstart", "launch.gpus=2"])
    config = launch.resolved(recipes.resolved(loaded), gpu=False)
    assert [part["launch"].get("strategy") for part in config["stages"]] == [None, "ddp", None]
    assert launch.resolved(recipes.reread(config["stages"][1]), gpu=False) == config["stages"][1]


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        (["launch.timeout=60"], ["launch.slurm={partition: main}"], True),
        (["launch.gpus=2"], [], False),  # the update has half as many rows
        (["launch.gpus=2", "train.global_batch_size=8"], ["train.global_batch_size=8"], True),
        (["launch.gpus=2", "launch.strategy=fsdp2", "train.global_batch_size=8"], ["train.global_batch_size=8"], True),
    ],
)
def test_where_a_run_may_be_resumed(write, before, now, same):
    file = write(SFT)
    one, other = (
        launch.comparable(recipes.resolved(recipes.load([file, *words], check=False))) for words in (before, now)
    )
    assert (references.changes(one, other, {}) == []) == same


GRPO = """
name: g
stage: grpo
model: {path: "embedded:tiny-qwen2"}
data: {builder: knights_knaves, people: 2, size: 64}
prompt: {template: r1-zero}
rewards: [{name: knights_knaves}]
train: {global_batch_size: 32, per_device_train_batch_size: 8}
"""


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ["launch.rollout=server"],
            "launch.rollout_gpus: 1: leaves no device to train on: set launch.gpus to at least 2",
        ),
        (
            ["launch.rollout=server", "launch.gpus=4", "launch.rollout_gpus=3", "rollout.tensor_parallel=2"],
            "launch.rollout_gpus: 3: does not divide into servers of 2 GPUs (rollout.tensor_parallel): set 2",
        ),
        (
            ["launch.rollout=server", "launch.gpus=2", "rollout.engine=transformers"],
            "rollout.engine: transformers: the servers run vLLM: set auto",
        ),
        (
            ["launch.rollout=server", "launch.gpus=2", "rollout.url=http://localhost:8000"],
            "rollout.url: has no effect with launch.rollout: server: remove one of the two",
        ),
        (
            ["launch.rollout=server", "launch.gpus=2", "launch.nodes=2"],
            "launch.rollout: servers and several nodes: set rollout.sync_folder to a folder that all of them share",
        ),
        (
            [
                "rollout.url=[http://10.0.0.1:8000, http://localhost:8000]",
                "launch.nodes=2",
                "rollout.sync_folder=/all",
            ],
            "rollout.url: http://localhost:8000: other nodes do not reach this address",
        ),
        (["launch.rollout=server", "launch.gpus=4"], "train.global_batch_size: 32 completions do not divide into"),
        (["rollout.tensor_parallel=2"], "rollout.tensor_parallel: 2: only servers split the model so"),
    ],
)
def test_servers_that_do_not_fit_the_devices_or_the_recipe(write, words, error):
    with pytest.raises(UserError) as raised:
        recipes.load([write(GRPO), *words])
    assert error in str(raised.value)


def test_devices_that_only_generate_are_no_ranks(write):
    loaded = recipes.load([write(GRPO), "launch.gpus=3", "launch.rollout=server"])
    assert (loaded.launch.ranks, loaded.launch.generators, loaded.rollout.gpu_memory_utilization) == (2, 1, 0.9)
    config = recipes.resolved(loaded)
    assert recipes.reread(config) == config
    (stage,) = stage_runs(config, Path("runs/g"))
    assert (stage.ranks, stage.servers) == (2, 1)
    one = recipes.resolved(recipes.load([write(GRPO), "launch.gpus=2", "launch.rollout=server"]))
    assert launch.resolved(one, gpu=True)["launch"]["strategy"] == "auto"  # one rank


def test_each_node_has_servers_on_its_last_devices(write):
    words = ["launch={gpus: 4, nodes: 2, rollout: server, rollout_gpus: 2}", "rollout.sync_folder=/all"]
    loaded = recipes.load([write(GRPO), *words])
    assert loaded.launch.ranks == 4 and loaded.launch.generators == 4
    (stage,) = stage_runs(recipes.resolved(loaded), Path("runs/g"))
    assert stage.ranks == 4 and stage.servers == 2
