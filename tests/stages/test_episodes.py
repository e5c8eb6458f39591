"""A pipeline with an environment: evaluation, GRPO on episodes, and what the run directory has of them."""

import json
import subprocess
import sys

import pytest

from r1lab.report.read import read as read_run
from r1lab.report.samples import read as samples_of
from r1lab.rundir import storage
from tests.grpo.test_trl_episodes import ENVIRONMENTS

RECIPE = """
name: guess
seed: 0
model: {path: "embedded:tiny-qwen2"}
data: {builder: number_guess, size: 40}
environment: {name: number_guess, max_turns: 3, max_turn_length: 16, max_reply_length: 32}
prompt: {template: r1-zero}
rewards: [{name: environment}, {name: "./mine.py:letters", weight: 0.1}]
rollout: {max_completion_length: 40, num_generations: 4, engine: ENGINE}
eval: {tasks: [{builder: number_guess, numbers: 16}], size: 6, num_samples: 2}
stages:
  - name: zero
    stage: grpo
    SERVERS
    train:
      {max_steps: 2, global_batch_size: 16, per_device_train_batch_size: 8, loss_type: dr_grpo, scale_rewards: none}
  - {name: after, stage: eval, model: {path: "@zero/model"}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["transformers", "vllm", "server", "async"])
def test_a_pipeline_of_episodes(tmp_path, engine):
    more = "launch: {gpus: 2, rollout: server, timeout: 900}" if engine in ("server", "async") else ""
    if engine == "async":
        more += "\n    rollout: {async: {staleness: 1}, max_completion_length: 40, num_generations: 4, engine: vllm}"
    if engine != "transformers":
        pytest.importorskip("vllm")
    recipe = RECIPE.replace("ENGINE", engine if engine == "transformers" else "vllm").replace("SERVERS", more)
    if engine == "async":  # the section of the stage replaces that of the pipeline
        recipe = recipe.replace("40, num_generations: 4, engine: vllm}\neval", "40, engine: vllm}\neval")
    (tmp_path / "guess.yaml").write_text(recipe)
    (tmp_path / "mine.py").write_text(
        "def letters(completions, *, episode, **columns):\n"
        "    return [len(set(''.join(turn.text for turn in one.turns))) / 100 for one in episode]\n"
    )
    command = [sys.executable, "-m", "r1lab", "run", "guess.yaml", "--no-check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs/guess"
    steps = [row for row in storage.read_jsonl(run / "01-zero/metrics.jsonl") if "reward" in row]
    assert [row["step"] for row in steps] == [1, 2]
    for row in steps:
        assert 1 <= row["episodes"]["turns"] <= 3
        assert sum(row["episodes"]["ends"].values()) == pytest.approx(1, abs=1e-3)
    files = sorted(
        (run / "01-zero/samples").glob("*.jsonl")
    )  # those ahead are in the file of the step that graded them
    samples = [row for file in files for row in storage.read_jsonl(file)]
    assert len(samples) == 32 and all(row["tokens"] <= 40 and row["turns"][0]["own"] for row in samples)
    if engine in ("vllm", "server"):
        assert all(row["drift"] < 1e-2 and row["importance_ratio"] == pytest.approx(1, abs=1e-2) for row in steps)
    if engine == "async":
        assert all(0 <= row["async"]["staleness"] <= 1 and row.get("drift", 0) < 1e-2 for row in steps)
    scores = json.loads((run / "02-after/result.json").read_text())["tasks"]["number_guess"]
    assert scores["turns"] >= 1 and "pass^2" in scores and sum(scores["ends"].values()) == pytest.approx(1, abs=1e-3)
    questions = storage.read_jsonl(run / "02-after/samples/questions.jsonl")
    assert len(questions) == 6 and all(len(row["episodes"]) == 2 and "greedy_episode" in row for row in questions)
    settings = json.loads((run / "02-after/evaluation.json").read_text())
    assert settings["environment"]["name"] == "number_guess" and settings["environment_source"].startswith("sha256:")


AGES = '''
class Ages:
    """Written for TRL: `reset` gets the row, each public method is a tool, and may be a coroutine."""

    def __init__(self):
        self.asked: list[str] = []

    def reset(self, **kwargs) -> str | None:
        self.people, self.start, self.asked = kwargs["people"], kwargs["start"], []
        return None

    async def age(self, person: str) -> str:
        """
        Looks up the age of a person.

        Args:
            person: The name of the person.

        Returns:
            The age in years.
        """
        self.asked.append(person)
        if person not in self.people:
            raise ValueError(f"nobody here is called {person}")
        return str(10 + self.people.index(person))

    def get_reward(self) -> float:
        return float(self.asked == self.start)
'''
OF_TRL = """
name: ages
model: {path: "embedded:tiny-player"}
data: {builder: desk, hops: 0, terms: 1, names: 16, size: 40}
environment: {name: "./my_envs.py:Ages", max_turns: 3, max_turn_length: 48, max_reply_length: 48, workers: 1}
prompt: {template: chat}
rewards: [{name: environment}]
rollout: {engine: transformers, num_generations: 4, max_completion_length: 96}
eval: {tasks: [{builder: desk, hops: 0, terms: 1, names: 16}], size: 8, num_samples: 2, greedy: false}
stages:
  - name: zero
    stage: grpo
    train: {max_steps: 2, global_batch_size: 16, per_device_train_batch_size: 8, loss_type: dr_grpo}
  - {name: after, stage: eval, model: {path: "@zero/model"}}
  - {name: wordle, stage: eval, environment: {name: "./my_envs.py:Wordle", max_turns: 2, workers: 1}}
"""


@pytest.mark.slow
def test_a_class_written_for_trl_is_named_in_a_recipe_and_trained_on(tmp_path):
    """`Wordle` also trains in TRL's own trainer, in tests/grpo/test_trl_episodes.py."""
    (tmp_path / "my_envs.py").write_text(ENVIRONMENTS + AGES)
    (tmp_path / "ages.yaml").write_text(OF_TRL)
    command = [sys.executable, "-m", "r1lab", "run", "ages.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs/ages"
    steps = [row for row in storage.read_jsonl(run / "01-zero/metrics.jsonl") if "reward" in row]
    assert [row["step"] for row in steps] == [1, 2] and all(row["episodes"]["env_errors"] == 0 for row in steps)
    samples = [row for file in (run / "01-zero/samples").glob("*.jsonl") for row in storage.read_jsonl(file)]
    calls = [call for row in samples for turn in row["turns"] for call in turn.get("calls", ())]
    assert any(call["name"] == "age" for call in calls)
    assert {row["reward"] for row in samples} == {0.0, 1.0}  # there is something to learn from
    questions = storage.read_jsonl(run / "02-after/samples/questions.jsonl")
    told = [t["text"] for row in questions for one in row["episodes"] for t in one["turns"] if not t["own"]]
    assert len(questions) == 8 and any(text.isdigit() for text in told)
    (words,) = json.loads((run / "03-wordle/result.json").read_text())["tasks"].values()
    assert words["call_errors"] == 1 and "not_counted" not in words  # the model calls tools that are not there
    shown = samples_of(read_run(run), [])["wordle"]
    assert all(("no call" in c.flags) == (not c.counts["calls"]) for c in shown)
    assert any("invented" in c.flags for c in shown)
    assert words.get("no_call", 0) == sum("no call" in c.flags for c in shown) / len(shown)
