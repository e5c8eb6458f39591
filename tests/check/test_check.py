"""`r1lab check` as a whole: what it prints, its exit status, and that it leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from r1lab import cli
from r1lab.check import check, probe
from r1lab.check.look import start_of
from r1lab.recipe import loading
from r1lab.recipe.yaml_source import packaged_recipes

RECIPES = sorted(packaged_recipes())
EXPECTED = {
    "ttrl/tiny": "majority: no gold answer is read",  # the group's vote is the reference, which invites a collapse
    "ttrl/math500": "majority: no gold answer is read",
    "tiny/player-base": "completion_only_loss: the questions are learned too",  # pretraining, in several stages
    "environments/number_guess": "completion_only_loss: the questions are learned too",  # and its own base
}
"""What check says, rightly, of a recipe that is as it should be."""


@pytest.mark.parametrize("name", RECIPES)
def test_no_false_alarm_on_a_tiny_recipe(name):
    lines = check.lines([name], tiny=True)
    assert lines
    found = [line for line in lines if not line.startswith("ok")]
    assert [line for line in found if name not in EXPECTED or EXPECTED[name] not in line] == []
    assert found or name not in EXPECTED


def test_what_is_printed_and_the_exit_status(capsys):
    assert cli.main(["check", "quickstart"]) == 0
    out = capsys.readouterr().out
    assert "zero (grpo)\nok      " in out
    assert "0 warnings, 0 errors" in out.splitlines()[-1]
    assert cli.main(["check", "quickstart", "stages.zero.rollout.max_completion_length=2000"]) == 3
    assert (
        "error   command line: stages.zero.rollout.max_completion_length: the model's context is 1,024"
        in capsys.readouterr().out
    )
    assert cli.main(["check", "quickstart", "stages.zero.train.max_step=2", "--quiet"]) == 2


def test_run_does_not_start_a_recipe_with_an_error(tmp_path):
    words = ["quickstart", "--tiny", "stages.zero.rewards.0.tasks=[chess]", "--runs-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "r1lab", "run", *words], capture_output=True, text=True)
    assert done.returncode == 3
    assert "is for chess, but the rows have" in done.stdout
    assert "not started, see above; --no-check starts it anyway" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_behind(tmp_path):
    """Neither in the current folder, nor at home, nor in the temporary folder."""
    places = {name: tmp_path / name for name in ("cwd", "home", "temp")}
    for place in places.values():
        place.mkdir()
    environment = os.environ | {"HOME": str(places["home"]), "TMPDIR": str(places["temp"]), "HF_HUB_OFFLINE": "1"}
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-B", "-m", "r1lab", "check", "quickstart"],
        capture_output=True, text=True, cwd=places["cwd"], env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    left = [path for place in places.values() for path in place.rglob("*") if path.is_file()]
    assert left == []


def test_the_model_that_a_stage_starts_from():
    pipeline = loading.load(["r1/tiny"])
    by_name = {stage.name: stage for stage in pipeline.stages}
    assert start_of("@rl2/model", by_name) == "embedded:tiny-qwen2"
    assert start_of("@llama-student/model", by_name) == "embedded:tiny-llama"


@pytest.mark.slow
def test_the_probe_samples_the_model_and_says_whether_reinforcement_can_start():
    words = ["quickstart", "stages.zero.rollout.engine=transformers", "stages.zero.rollout.max_completion_length=192"]
    lines = [line for line in check.lines(words, probe=True) if "probe:" in line]
    assert any("16 prompts, 8 samples each: pass@1" in line for line in lines)
    assert any("RL can start" in line for line in lines)


def probed(**figures):
    given = {"correct": [2] * 16, "group": 8, "equal": 0.2, "parsed": 0.9, "truncated": 0.0, "tokens": 100.0} | figures
    return [(f.verdict, f.message) for f in probe.probe_findings(probe.Probed(**given)) if f.verdict != "ok"]


def test_findings_of_the_probe():
    assert probed() == []
    ((verdict, message),) = probed(correct=[0] * 16, equal=1.0)
    assert verdict == "warning" and "0 of 128 samples correctly: a cold start is needed" in message
    ((verdict, message),) = probed(correct=[1, 1] + [0] * 14, equal=0.5)
    assert verdict == "warning" and message.startswith("the model answers 2 of 128 samples correctly, so most groups")
    ((verdict, message),) = probed(correct=[8] * 16, equal=0.5)
    assert message.startswith("the model already answers 128 of 128") and message.endswith(": use harder rows")
    assert probed(truncated=0.9)[0][0] == "warning"
    assert "teach nothing" in probed(correct=[8] * 6 + [0] * 10, equal=0.95)[0][1]


def test_recipes_are_found():
    assert len(RECIPES) >= 39 and Path(packaged_recipes()["quickstart"]).is_file()
