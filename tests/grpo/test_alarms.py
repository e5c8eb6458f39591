"""Alarms fire on what they watch, and stop a run, take it back or leave it alone."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback
from trl import GRPOConfig

from r1lab.errors import UserError
from r1lab.grpo.alarms import AlarmCallback, alarms_raised, episodes, finish_rollback, last_good, read_rollback
from r1lab.grpo.trainer import GRPOTrainer
from r1lab.models import loading
from r1lab.recipe import loading as recipe
from r1lab.recipe.training import Alarms
from r1lab.run.display import StageDisplay
from r1lab.rundir import storage

RECIPE = """
stage: grpo
name: run
model: {path: embedded:tiny-qwen2}
data: {builder: knights_knaves, people: [2, 3], size: 64}
prompt: {template: r1-zero}
rewards: [{name: ./short.py:short_reward}]
rollout: {num_generations: 8, max_completion_length: 40, engine: transformers}
train:
  {max_steps: STEPS, per_device_train_batch_size: 32, learning_rate: RATE, lr_scheduler_type: constant, beta: 0.0,
   save_steps: 1, save_total_limit: 1}
alarms: ALARMS
"""
SHORT = '''
from pathlib import Path

def short_reward(completions, *, completion_ids, **_):
    """Pays for shortness, until the run is rolled back if there is a file `forgive`."""
    if Path("forgive").exists() and Path("runs/run/rollback.json").exists():
        return [float(i % 2) for i in range(len(completions))]
    return [-float(len(ids)) for ids in completion_ids]
'''


def rows(name, *values, every=1):
    return [{"step": every * (i + 1), name: value} for i, value in enumerate(values)]


def fired(history, **alarms):
    return [(episode.name, episode.since) for episode in alarms_raised(history, Alarms(**alarms))]


@pytest.mark.parametrize(
    "name,good,bad",
    [
        ("entropy", 0.1, 0.01),
        ("truncated", 0.2, 0.6),
        ("kl", 0.5, 3.0),
        ("no_signal", 0.9, 1.0),
        ("drift", 0.01, 0.3),
        ("call_errors", 0.3, 0.6),
        ("no_call", 0.5, 1.0),
        ("env_errors", 0.0, 0.1),
    ],
)
def test_a_figure_out_of_bounds_fires_after_enough_steps_in_a_row(name, good, bad):
    alarm = {name: {"steps": 3}}
    assert fired(rows(name, good, bad, bad), **alarm) == []
    assert fired(rows(name, good, bad, bad, bad), **alarm) == [(name, 2)]
    assert fired(rows(name, good, bad, bad, bad, bad), **alarm) == [(name, 2)]  # the same episode
    assert fired(rows(name, bad, bad, good, bad, bad), **alarm) == []
    assert fired(rows(name, good, bad, bad, bad), **{name: None}) == []


def test_the_figures_of_episodes_are_read_from_their_section():
    from r1lab.grpo.alarms import _metrics

    row = {"step": 3, "entropy": 0.5, "episodes": {"call_errors": 0.6, "turns": 2.0, "ends": {"done": 1.0}}}
    assert _metrics(row) == {"step": 3, "entropy": 0.5, "call_errors": 0.6}


def test_failing_environments_stop_a_run_that_continues_once_they_are_corrected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe_file(tmp_path)
    callback = AlarmCallback(recipe.load(["r.yaml", "environment={name: number_guess}"]), tmp_path)
    state = SimpleNamespace(global_step=0, is_world_process_zero=True, best_model_checkpoint=None)
    args = SimpleNamespace(output_dir=str(tmp_path), fp16=False, learning_rate=1e-4)
    with pytest.raises(
        UserError, match="alarm env_errors: share of episodes .* is 0.1, .*, since step 1: stopped"
    ) as e:
        for state.global_step in (1, 2, 3):
            callback.on_log(args, state, None, logs={"loss": 0.1, "episodes/env_errors": 0.1})
    assert state.global_step == 3 and str(e.value).endswith("and continue with --resume")
    skipping = recipe.load(["r.yaml", "tools=[calculator]", "environment={on_error: skip}"])
    assert "env_errors" not in AlarmCallback(skipping, tmp_path).active


def recipe_file(folder: Path) -> None:
    """Writes the recipe with one step and the default alarms."""
    text = RECIPE.replace("STEPS", "1").replace("RATE", "1.0e-3").replace("ALARMS", "{}")
    (folder / "short.py").write_text(SHORT)
    (folder / "r.yaml").write_text(text)


def test_lengths_are_compared_with_the_first_ones():
    alarm = {"first": 2, "length": {"below": 0.5, "above": 2.0, "steps": 1}}
    assert fired(rows("length", 1, 199), **alarm) == []  # still the first ones
    assert fired(rows("length", 90, 110, 60, 150), **alarm) == []
    assert fired(rows("length", 90, 110, 60, 40), **alarm) == [("length", 4)]
    assert fired(rows("length", 90, 110, 60, 250), **alarm) == [("length", 4)]
    assert fired(rows("length", 90, 110, 250, 250), **alarm) == [("length", 3)]


def test_a_row_without_a_figure_neither_ends_an_episode_nor_lengthens_it():
    history = rows("entropy", 0.5, 0.01, 0.01)
    history.insert(2, {"step": 2.5, "no_signal": 1.0})
    assert fired(history, entropy={"steps": 2}) == [("entropy", 2)]
    assert fired(history[:3], entropy={"steps": 2}) == []


def test_steps_between_two_logs_count_from_the_last_good_one():
    (episode,) = episodes(rows("entropy", 0.5, 0.01, every=10), Alarms())
    assert (episode.since, episode.steps) == (11, 10)
    assert alarms_raised(rows("entropy", 0.5, 0.01, every=10), Alarms()) == [episode]


@pytest.mark.parametrize("row", [{"loss": math.nan}, {"loss": math.inf}, {"loss": 0.0, "grad_norm": math.nan}])
def test_what_is_not_finite_fires_at_once(row):
    good = {"step": 1, "loss": 0.0, "grad_norm": 1.0}
    assert fired([good]) == []
    assert fired([good, {"step": 2} | row]) == [("loss", 2)]


def test_a_normal_tiny_run_trips_nothing():
    history = [
        {"step": step, "entropy": max(0.1, 0.6 - step / 50), "length": 120 + step, "truncated": 0.0,
         "no_signal": min(0.6, step / 50), "loss": 0.01, "grad_norm": 0.3, "drift": 0.01}
        for step in range(1, 60)
    ]  # fmt: skip
    assert not any(episodes(history[:end], Alarms()) for end in range(1, 60))


def test_what_stops_comes_last_so_that_warnings_are_told_too():
    history = [{"step": 1, "drift": 9.0, "kl": 9.0, "entropy": 0.0}]
    alarms = {"drift": {"steps": 1}, "kl": {"steps": 1, "do": "rollback"}, "entropy": {"steps": 1}}
    assert [name for name, _ in fired(history, **alarms)] == ["entropy", "kl", "drift"]


def test_a_recipe_changes_what_it_names_and_no_more(tmp_path):
    path = tmp_path / "r.yaml"
    text = RECIPE.replace("STEPS", "2").replace("RATE", "0.1").replace("./short.py:short_reward", "format")
    path.write_text(text.replace("ALARMS", "{entropy: {do: stop}, kl: null}"))
    alarms = recipe.load([str(path)]).alarms
    assert (alarms.entropy.do, alarms.entropy.below) == ("stop", Alarms().entropy.below)
    assert alarms.kl is None and alarms.length == Alarms().length
    with pytest.raises(UserError, match=r"alarms\.loss\.above: unknown key"):
        recipe.load([str(path), "alarms.loss.above=3"])
    with pytest.raises(UserError, match=r"train\.logging_nan_inf_filter: not set here: set `alarms.loss` instead"):
        recipe.load([str(path), "train.logging_nan_inf_filter=true"])


def checkpoint(folder: Path, step: int, whole: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if whole:
        (path / "trainer_state.json").write_text("{}")
    return path


def test_the_last_good_checkpoint_is_whole_and_older_than_what_the_first_bad_step_measured(tmp_path):
    for step in (2, 9, 10, 30):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 8, whole=False)
    assert last_good(tmp_path, 11).name == "checkpoint-9"  # step 11 measures checkpoint-10
    assert last_good(tmp_path, 10).name == "checkpoint-2"
    assert last_good(tmp_path, 3) is None


def test_a_rollback_cut_short_is_finished_and_remembered(tmp_path):
    for step in (2, 9, 10):
        checkpoint(tmp_path / "checkpoints", step)
    storage.write_json_atomic(tmp_path / "rollback.json", {"alarms": ["kl"], "learning_rate_factor": 0.5, "to": 2})
    finish_rollback(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-2"]
    checkpoint(tmp_path / "checkpoints", 4)
    finish_rollback(tmp_path)  # when the run is taken up later, its own checkpoints stay
    assert (tmp_path / "checkpoints" / "checkpoint-4").is_dir()
    assert read_rollback(tmp_path) == {"alarms": ["kl"], "learning_rate_factor": 0.5, "to": None}


def test_a_warning_is_shown_once_though_metrics_are_written_anew(tmp_path):
    row = {"phase": "warning", "time": 5.0, "message": "alarm kl: too high"}
    storage.write_jsonl(tmp_path / "metrics.jsonl", [{"phase": "train", "step": 1, "time": 5.0}] * 3 + [row])
    console = Console(file=io.StringIO())
    display = StageDisplay(console, tmp_path, name="zero", kind="grpo", doing="", clock=lambda: 4.0)
    display.update()
    storage.write_jsonl(tmp_path / "metrics.jsonl", [row])
    display.update()
    assert console.file.getvalue().count("too high") == 1


class Poison(TrainerCallback):
    """Makes the gradient of the second step NaN, and looks at the weights around it."""

    def __init__(self):
        self.weights = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.weights[state.global_step] = [p.detach().clone() for p in model.parameters()]
        if state.global_step == 1:
            next(p for p in model.parameters() if p.grad is not None).grad[0] = math.nan


@pytest.fixture
def trained(tmp_path):
    """Trains four steps with alarms, the gradient of the second one NaN; gives `Poison` and the trainer."""

    def train(do: str):
        tokenizer = loading.load_tokenizer("embedded:tiny-qwen2")
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = AutoConfig.for_model("qwen2", vocab_size=len(tokenizer), num_key_value_heads=2, **sizes)
        args = GRPOConfig(
            output_dir=str(tmp_path / "checkpoints"), per_device_train_batch_size=8, num_generations=4, max_steps=4,
            max_completion_length=6, logging_steps=1, bf16=False, use_cpu=True, gradient_checkpointing=False,
            report_to="none", disable_tqdm=True, save_strategy="no", learning_rate=1e-3, beta=0.0,
        )  # fmt: skip
        path = tmp_path / "r.yaml"
        path.write_text(
            "stage: grpo\nmodel: {path: embedded:tiny-qwen2}\ndata: {builder: knights_knaves}\n"
            f"rewards: [{{name: format}}]\nalarms: {{loss: {{do: {do}}}}}\n"
        )
        torch.manual_seed(0)
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_config(config),
            args=args,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"prompt": ["a"] * 8}),
            reward_funcs=lambda completions, **_: [float(i % 2) for i in range(len(completions))],
            callbacks=[poison := Poison(), AlarmCallback(recipe.load([str(path)], check=False), tmp_path)],
        )
        try:
            trainer.train()
        except UserError as error:
            return poison, trainer, error
        return poison, trainer, None

    return train


def test_an_update_that_is_not_finite_is_left_out_and_told_once(trained, tmp_path):
    poison, trainer, error = trained("warn")
    assert error is None and trainer.state.global_step == 4
    before, after, later = (poison.weights[step] for step in (1, 2, 3))
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    assert not all(torch.equal(a, b) for a, b in zip(after, later))  # and training went on
    (row,) = storage.read_jsonl(tmp_path / "metrics.jsonl")
    assert (row["phase"], row["step"], row["alarm"], row["since"]) == ("warning", 2, "loss", 2)


def test_an_update_that_is_not_finite_stops_before_it_is_applied(trained):
    poison, trainer, error = trained("stop")
    assert error.status == 1 and "alarm loss: the gradient is not finite, since step 2: stopped" in str(error)
    assert trainer.state.global_step == 1
    assert all(torch.equal(a, b) for a, b in zip(poison.weights[1], trainer.model.parameters()))


def run(folder: Path, *, steps: int, rate: float, alarms: str) -> tuple[subprocess.CompletedProcess, Path]:
    (folder / "short.py").write_text(SHORT)
    text = RECIPE.replace("STEPS", str(steps)).replace("RATE", str(rate)).replace("ALARMS", alarms)
    (folder / "run.yaml").write_text(text)
    command = [sys.executable, "-m", "r1lab", "run", "--no-check", "run.yaml"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, env=environment)
    return done, folder / "runs" / "run"


def told(path: Path, phase: str) -> list[dict]:
    return [row for row in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()) if row["phase"] == phase]


@pytest.mark.slow
def test_a_learning_rate_that_breaks_the_weights_stops_the_run_with_a_sound_checkpoint(tmp_path):
    done, path = run(tmp_path, steps=12, rate=1e20, alarms="{entropy: null}")
    assert done.returncode == 1, done.stderr
    assert "alarm loss: " in done.stderr and "Traceback" not in done.stderr
    assert not (path / "model").exists() and not (path / "result.json").exists()
    for file in path.glob("checkpoints/*/model.safetensors"):
        assert all(weight.isfinite().all() for weight in load_file(file).values())


@pytest.mark.slow
def test_a_run_is_rolled_back_once_and_stopped_the_second_time(tmp_path):
    alarms = "{first: 1, length: {below: 0.7, steps: 3, do: rollback}}"
    done, path = run(tmp_path, steps=40, rate=2e-3, alarms=alarms)
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("back to") == 1  # told once
    (warning,) = told(path, "warning")
    assert "length: mean completion length in tokens" in warning["message"]
    assert "stopped, again after a rollback; last good checkpoint: runs/run/checkpoints/checkpoint-" in done.stderr
    good = int(done.stderr.split("checkpoints/checkpoint-")[1].split(";")[0])
    train = told(path, "train")
    assert [row["step"] for row in train] == list(range(1, len(train) + 1))  # none lost, none twice
    rates = [row["learning_rate"] for row in train]
    assert rates == sorted(rates, reverse=True) and set(rates) == {2e-3, 1e-3}
    # Bad steps saved checkpoints, one of which was to be kept, and did not push the good one out.
    assert (path / "checkpoints" / f"checkpoint-{good}" / "model.safetensors").is_file()
    assert not (path / "model").exists() and not (path / "result.json").exists()


@pytest.mark.slow
def test_a_run_that_recovers_goes_on_to_its_end(tmp_path):
    (tmp_path / "forgive").touch()
    alarms = "{first: 1, length: {below: 0.7, steps: 1, do: rollback}, learning_rate_factor: 0.1}"
    done, path = run(tmp_path, steps=8, rate=2e-3, alarms=alarms)
    assert done.returncode == 0, done.stderr
    train = told(path, "train")
    assert [row["step"] for row in train] == list(range(1, 9))
    assert train[-1]["learning_rate"] == pytest.approx(2e-4)
    assert len(list((path / "samples").iterdir())) == 8
    assert read_rollback(path) == {"alarms": ["length"], "learning_rate_factor": 0.1, "to": None}
    assert (path / "model").is_dir() and (path / "result.json").is_file()
