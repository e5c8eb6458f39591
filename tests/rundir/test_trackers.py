"""Figures sent on to trackers under the names of metrics.jsonl."""

import importlib.util
import sys
import time
import types

import pytest

from r1lab.recipe import loading
from r1lab.rundir import directory, trackers
from r1lab.stages.training import Metrics, trl_config


def test_numbers_alone_are_sent_by_their_own_names():
    row = {"phase": "train", "step": 3, "total": 9, "time": 1.5, "reward": 0.5, "rewards": {"a": 1, "b": None}}
    row |= {"loss": float("nan"), "finished": True, "reasons": {"a": {"correct": 3}}}
    assert trackers.flat(row) == {"reward": 0.5, "rewards/a": 1.0, "reasons/a/correct": 3.0}
    assert trackers.flat({"kk": {"avg": 0.5, "ci95": [0.4, 0.6]}}, "eval/") == {"eval/kk/avg": 0.5}


def loaded(tmp_path, report_to):
    path = tmp_path / "r.yaml"
    path.write_text(
        "stage: sft\nname: t\nmodel: {path: embedded:tiny-qwen2}\ndata: {builder: rows, path: x.jsonl}\n"
        f"train: {{report_to: {report_to}}}\n"
    )
    return loading.load([str(path)])


@pytest.mark.parametrize(
    "given, theirs", [("none", []), ("tensorboard", []), ("[wandb, trackio]", []), ("[wandb, mlflow]", ["mlflow"])]
)
def test_transformers_does_not_send_them_twice(tmp_path, given, theirs):
    from trl import SFTConfig

    assert trl_config(SFTConfig, loaded(tmp_path, given), tmp_path).report_to == theirs


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_has_what_metrics_has(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from transformers import TrainerControl, TrainerState

    metrics = Metrics(
        loaded(tmp_path, "tensorboard"), tmp_path, lambda logs: {"loss": logs["loss"], "rewards": {"a": 1}}
    )
    state = TrainerState(is_world_process_zero=True, global_step=2, max_steps=4)
    metrics.on_train_begin(None, state, TrainerControl())
    metrics.on_log(None, state, TrainerControl(), logs={"loss": 0.5})
    metrics.write({"phase": "eval", "step": 2, "tasks": {"kk": {"avg": 0.25}}})
    metrics.on_train_end(None, state, TrainerControl())
    seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(seen.Tags()["scalars"]) == {"loss", "rewards/a", "eval/kk/avg"}
    assert [(event.step, event.value) for event in seen.Scalars("loss")] == [(2, 0.5)]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_a_resumed_run_supersedes_the_later_steps_in_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, steps, loss in ((0, (1, 2, 3), 0.5), (2, (3, 4), 0.25)):
        log, end = trackers.start("tensorboard", tmp_path, {}, done)
        for step in steps:
            log({"loss": loss}, step)
        end()
        time.sleep(1.1)  # TensorBoard orders its files by the second in their names
    seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in seen] == [(1, 0.5), (2, 0.5), (3, 0.25), (4, 0.25)]


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_a_resumed_run_is_one_run_in_trackio(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    from trackio.sqlite_storage import SQLiteStorage

    for folder, steps in (("a", (1, 2)), ("a", (3,)), ("b", (1,))):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "recipe.yaml").touch()
        log, end = trackers.start("trackio", tmp_path / folder, {}, steps[0] - 1)
        for step in steps:
            log({"loss": 0.5}, step)
        end()
    assert sorted(SQLiteStorage.get_runs("r1lab")) == ["a", "b"]


def test_a_tracker_keeps_the_identity_of_its_run_until_the_folder_is_emptied(tmp_path, monkeypatch):
    begun = []
    run = types.SimpleNamespace(log=lambda figures, step: None, finish=lambda: None)
    monkeypatch.setitem(
        sys.modules, "wandb", types.SimpleNamespace(init=lambda **settings: begun.append(settings) or run)
    )
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        directory.prepare("stage: sft\n", {}, tmp_path, **{"resume": False, "overwrite": False} | flags)
        trackers.start("wandb", tmp_path, {})
    first, resumed, anew = (settings["id"] for settings in begun)
    assert first == resumed != anew and {settings["resume"] for settings in begun} == {"allow"}


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_takes_them(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    log, end = trackers.start("wandb", tmp_path, {"name": "t"})
    log({"rewards/a": 1.0}, 1)
    end()
    assert list(tmp_path.rglob("*.wandb"))
