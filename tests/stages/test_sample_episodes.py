"""A sample stage that plays episodes: what its records have, and that an interrupted one ends as another."""

import subprocess
import sys

import pytest

from r1lab.models.loading import load_tokenizer
from r1lab.recipe import loading
from r1lab.recipe.sections import Data, Keep
from r1lab.rundir import directory, storage
from r1lab.stages import sample as sampling
from r1lab.stages.rows import build_rows

STAGE = """
stage: sample
name: s
model: {path: embedded:tiny-qwen2}
data: {builder: number_guess, size: 5}
environment: {name: number_guess, max_turns: 3, max_turn_length: 8, max_reply_length: 32}
prompt: {template: r1-zero, prefill: "<think>"}
rewards: [{name: environment}, {name: "./mine.py:letters", weight: 0.1}]
rollout: {engine: transformers, num_generations: 2, max_completion_length: 24}
keep: all
"""
REWARD = (
    "def letters(completions, *, turns, **columns):\n"
    "    assert all(all(turn.startswith('<think>') for turn in one) for one in turns)\n"
    "    return [len(set(''.join(one))) / 100 for one in turns]\n"
)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A function that loads the recipe with settings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(REWARD)
    (tmp_path / "s.yaml").write_text(STAGE)
    return lambda *settings: loading.load(["s.yaml", *settings])


def test_the_record_of_an_episode_has_its_turns_and_all_tokens(load, tmp_path):
    assert sampling.run(load(), tmp_path / "run") == 0
    rows = storage.read_jsonl(tmp_path / "run/samples/samples.jsonl")
    assert len(rows) == 10 and len({row["task_seed"] for row in rows}) == 5
    for row in rows:
        own = [turn for turn in row["turns"] if turn["own"]]
        assert row["completion"] == "<think>" + own[-1]["text"] and row["end"] == "length"
        assert row["truncated"] and set(row["rewards"]) == {"environment", "letters"}
        assert sum(len(turn["ids"]) for turn in own) <= 24 and all(turn["ids"] for turn in own)
        assert len(row["prompt_ids"]) > 10 and "seconds" not in row["turns"][0]
    tokens = max(sum(len(turn["ids"]) for turn in row["turns"]) + len(row["prompt_ids"]) for row in rows)
    for limit in (tokens, tokens - 1):
        data = Data(builder="rows", path=str(tmp_path / "run/samples"), max_tokens=limit)
        left = build_rows(data, seed=0, tokenizer=load_tokenizer("embedded:tiny-qwen2"))
        assert (len(left) < 10) == (limit < tokens)
    result = directory.result(tmp_path / "run")
    assert result["sampled"] == 10 and result["episodes"]["ends"] == {"length": 1.0}
    assert not (tmp_path / "run/samples/partial.jsonl").exists()


@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.slow)])
def test_episodes_are_the_same_wherever_it_is_killed(load, tmp_path, monkeypatch, killed_after, engine):
    if engine == "vllm":
        pytest.importorskip("vllm")
    recipe = load(f"rollout.engine={engine}")
    loaded = sampling.load_engine(recipe)
    monkeypatch.setattr(sampling, "load_engine", lambda *_, **__: loaded)
    assert sampling.run(recipe, tmp_path / "whole") == 0
    for _ in range(2):
        with killed_after(lambda row: True):
            sampling.run(recipe, tmp_path / "killed")
    assert len(storage.read_jsonl(tmp_path / "killed/samples/partial.jsonl")) == 2
    assert sampling.run(recipe, tmp_path / "killed") == 0
    whole, killed = (tmp_path / name / "samples/samples.jsonl" for name in ("whole", "killed"))
    assert len(storage.read_jsonl(whole)) == 10 and whole.read_bytes() == killed.read_bytes()


def test_another_environment_samples_again(load, tmp_path, killed_after):
    with killed_after(lambda row: True):
        sampling.run(load(), tmp_path / "run")
    assert sampling.run(load("environment.guesses=2"), tmp_path / "run") == 0
    notes = [row["message"] for row in storage.read_jsonl(tmp_path / "run/metrics.jsonl") if row["phase"] == "note"]
    assert notes[0].startswith("1 rows are sampled again")


def test_episodes_whose_environment_failed_are_left_out(load, tmp_path):
    code = "class Fails:\n    def reset(self, low):\n        assert low % 2, 'even'\n    def step(self, turn): ...\n"
    (tmp_path / "env.py").write_text(code)
    rows = [{"prompt": "Which?", "low": low} for low in (1, 2, 3)]
    storage.write_jsonl(tmp_path / "rows.jsonl", rows)
    settings = [
        "environment={name: './env.py:Fails', workers: 0}",
        "data={builder: rows, path: ./rows.jsonl}",
        "rewards=[]",
    ]
    assert sampling.run(load(*settings), tmp_path / "run") == 0
    kept = storage.read_jsonl(tmp_path / "run/samples/samples.jsonl")
    assert sorted(row["low"] for row in kept) == [1, 1, 3, 3]
    result = directory.result(tmp_path / "run")
    assert (result["sampled"], result["kept"], result["dropped"]) == (6, 4, {"environment failed": 2})
    told = [row.get("message", "") for row in storage.read_jsonl(tmp_path / "run/metrics.jsonl")]
    assert "environment: failed in 2 of 6 episodes, twice each, which are left out" in told


def test_equal_prompts_with_different_tasks_are_not_duplicates():
    def episode(seed, *turns):
        said = [{"own": True, "text": text} for text in turns]
        return {"prompt": "Which?", "task_seed": seed, "completion": turns[-1], "turns": said, "reward": len(turns)}

    samples = [episode(1, "a", "c"), episode(1, "b", "c"), episode(1, "a", "c"), episode(2, "a", "c")]
    kept, dropped = sampling.keep(samples, Keep(), seed=0)
    assert [sample in kept for sample in samples] == [True] * 4 and dropped == {"duplicates": 1} and len(kept) == 3
    right = [sample | {"right": True} for sample in samples]
    assert len(sampling.keep(right, Keep(which="best"), seed=0)[0]) == 2


PIPELINE = """
name: guess
model: {path: "embedded:tiny-qwen2"}
environment: {name: number_guess, max_turns: 3, max_turn_length: 16, max_reply_length: 32}
prompt: {template: r1-zero}
stages:
  - name: played
    stage: sample
    data: {builder: number_guess, size: 6}
    rewards: [{name: environment}]
    rollout: {max_completion_length: 40, num_generations: 2, engine: transformers}
    launch: {gpus: 2}
  - name: sft
    stage: sft
    data: {path: "@played/samples"}
    train: {max_steps: 2, per_device_train_batch_size: 4}
"""


@pytest.mark.slow
def test_a_pipeline_that_trains_on_the_episodes_of_two_workers(tmp_path):
    (tmp_path / "guess.yaml").write_text(PIPELINE)
    command = [sys.executable, "-m", "r1lab", "run", "guess.yaml", "--no-check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs/guess"
    rows = storage.read_jsonl(run / "01-played/samples/samples.jsonl")
    own = {sum(turn["tokens"] for turn in row["turns"] if turn["own"]) for row in rows}
    told = [row.get("message", "") for row in storage.read_jsonl(run / "02-sft/metrics.jsonl")]
    learned = [line for line in told if line.startswith("trains on")]
    assert len(rows) == 12 and len(learned) == 3 and all(int(line.split()[2]) in own for line in learned)
    losses = [row["loss"] for row in storage.read_jsonl(run / "02-sft/metrics.jsonl") if "loss" in row]
    assert len(losses) == 2 and all(0 < loss < 10 for loss in losses)
