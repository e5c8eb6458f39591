"""Running recipes, with real processes that only pretend to train (see fake_stages.py)."""

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from r1lab import listing
from r1lab.errors import UserError
from r1lab.recipe import loading as recipes
from r1lab.recipe import references
from r1lab.report import read, verdict
from r1lab.run import pipeline, start
from r1lab.run import stages as run_stages
from r1lab.rundir import directory, storage
from r1lab.text import duration

TESTS = Path(__file__).parent
ROOT = TESTS.parents[1]
FAKE_STAGE = str(TESTS / "fake_stages.py")
RECIPES = SimpleNamespace(
    resolved=lambda recipe: recipe,
    reread=lambda config: config,
)
# The parent of the signal tests: a process that runs the recipe of its first argument.
PARENT = f"""
import json, sys
sys.path[:0] = [{str(TESTS)!r}, {str(ROOT)!r}]
import importlib.util
spec = importlib.util.spec_from_file_location("test_pipeline", {__file__!r})
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
tests.pipeline.recipes = tests.run_stages.recipes = tests.RECIPES
tests.pipeline.stage_command = tests.fake_command
recipe, runs_dir, *flags = sys.argv[1:]
sys.argv = ["r1lab", "run", "a recipe.yaml", "--runs-dir", runs_dir, *flags]
sys.exit(tests.pipeline.run(
    json.loads(recipe), recipe_text="", runs_dir=runs_dir, resume="--resume" in flags, overwrite="--overwrite" in flags
))
"""


def fake_command(path):
    return [sys.executable, FAKE_STAGE, str(path)]


@pytest.fixture(autouse=True)
def fake_stages(monkeypatch):
    monkeypatch.setattr(pipeline, "recipes", RECIPES)
    monkeypatch.setattr(run_stages, "recipes", RECIPES)
    monkeypatch.setattr(pipeline, "stage_command", fake_command)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)


def three_stages(**train):
    return {
        "name": "quick",
        "seed": 0,
        "stages": [
            {"stage": "eval", "name": "base", "model": {"path": "tiny"}},
            {"stage": "grpo", "name": "zero", "model": {"path": "tiny"}, "train": {"max_steps": 3} | train},
            {"stage": "eval", "name": "final", "model": {"path": "@zero/model"}},
        ],
    }


def single(name="zero", **train):
    return {"stage": "grpo", "name": name, "model": {"path": "tiny"}, "train": {"max_steps": 3} | train}


def run(recipe, tmp_path, **flags):
    console = Console(file=io.StringIO(), width=80)
    status = pipeline.run(recipe, recipe_text="# mine\n", runs_dir=tmp_path, console=console, **flags)
    return status, console.file.getvalue()


def start_parent(recipe, tmp_path, *flags, **output):
    command = [sys.executable, "-c", PARENT, json.dumps(recipe), str(tmp_path), *flags]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | output
    return subprocess.Popen(command, text=True, start_new_session=True, **output)


def wait_for(condition, seconds=20):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it did not happen"
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# Running to the end


def test_a_pipeline_runs_its_stages_and_compares_before_and_after(tmp_path):
    status, told = run(three_stages(), tmp_path)
    run_dir = tmp_path / "quick"
    assert status == 0
    assert {path.name for path in run_dir.iterdir()} == {
        "01-base", "02-zero", "03-final", "recipe.yaml", "config.yaml", "manifest.json", "metrics.jsonl",
        "result.json", "curve.png", "report.html",
    }  # fmt: skip
    assert (run_dir / "recipe.yaml").read_text() == "# mine\n"
    result = directory.result(run_dir)
    assert list(result["stages"]) == ["base", "zero", "final"] and result["seconds"] > 0
    by_task = {(row["task"], row["metric"]): row for row in result["compare"]}
    row = by_task["knights_knaves", "avg"]
    assert (row["before"], row["after"], row["n_questions"]) == ("base", "final", 40)
    assert row["ci95"][0] > 0 and row["diff"] == pytest.approx(row["after_value"] - row["before_value"], abs=2e-4)
    assert by_task["knights_knaves/2ppl", "greedy"]["n_questions"] == 20
    assert "stage 2 of 3" in told and "difference" in told and str(run_dir) in told


def test_references_become_paths_that_exist_in_the_config_of_the_stage(tmp_path):
    run(three_stages(), tmp_path)
    config = storage.read_yaml(tmp_path / "quick" / "03-final" / "config.yaml")
    assert config["model"]["path"] == str(tmp_path / "quick" / "02-zero" / "model")
    resolved = references.with_folders(
        {"data": [{"path": "@zero/samples"}], "prompt": "ask @zero/model", "other": "@nobody/model"},
        {"zero": tmp_path / "02-zero"},
    )
    assert resolved == {
        "data": [{"path": str(tmp_path / "02-zero" / "samples")}],
        "prompt": "ask @zero/model",
        "other": "@nobody/model",
    }


def test_a_single_stage_runs_in_the_run_directory_itself(tmp_path):
    status, told = run(single(), tmp_path, name="mine")
    assert status == 0
    assert directory.result(tmp_path / "mine")["steps"] == 3
    assert {"manifest.json", "log.txt", "metrics.jsonl", "curve.png"} <= set(os.listdir(tmp_path / "mine"))
    assert "a fake stage starts" not in told and "completions at step 1" in told


def test_a_run_of_one_stage_takes_as_long_as_its_attempts_and_an_interrupted_one_is_listed_as_such(tmp_path):
    recipe, run_dir = single(max_steps=200, seconds=0.05), tmp_path / "zero"
    parent = start_parent(recipe, tmp_path)
    wait_for(lambda: len(storage.read_jsonl(run_dir / "metrics.jsonl")) >= 3)
    os.killpg(parent.pid, signal.SIGINT)
    parent.communicate(timeout=20)
    assert parent.returncode == 130 and listing.state(run_dir) == "interrupted"
    (run_dir / "checkpoints" / "checkpoint-1" / "step").write_text("198")
    status, told = run(recipe, tmp_path, resume=True)
    first, last = [row for row in storage.read_jsonl(run_dir / "metrics.jsonl") if row["phase"] == "stage"]
    assert (status, first["status"], last["status"]) == (0, 130, 0) and listing.state(run_dir) == "finished"
    took = first["seconds"] + last["seconds"]
    assert f"run    {run_dir}/  ({duration(took)})" in told
    found = read.read(run_dir)
    assert found.seconds == pytest.approx(took) and found.stages[0].seconds == pytest.approx(last["seconds"])
    assert verdict.big_numbers([found])[-1].value == duration(took)


def test_compare_names_its_pairs(tmp_path):
    recipe = three_stages() | {"compare": [["final", "base"]]}
    run(recipe, tmp_path)
    rows = directory.result(tmp_path / "quick")["compare"]
    assert {(row["before"], row["after"]) for row in rows} == {("final", "base")} and rows[0]["diff"] < 0


def test_real_recipes_give_configs_that_load_again_and_resume_unchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "recipes", recipes)
    monkeypatch.setattr(run_stages, "recipes", recipes)
    recipe = recipes.load(["quickstart", "stages.zero.train.max_steps=2", "rollout.engine=transformers"])
    config = recipes.resolved(recipe)
    run_dir = tmp_path / "quickstart"
    stages = pipeline.stage_runs(config, run_dir)
    directory.prepare("", config, run_dir, resume=False, overwrite=False)
    folders = {stage.name: stage.path for stage in stages}
    for stage in stages:
        stage.path.mkdir()
        storage.write_yaml(stage.path / "config.yaml", references.with_folders(stage.config, folders))
        storage.write_json_atomic(stage.path / "result.json", {})
        loaded = recipes.load([str(stage.path / "config.yaml")])
        assert recipes.resolved(loaded) == storage.read_yaml(stage.path / "config.yaml")
    assert recipes.resolved(recipes.load([str(run_dir / "config.yaml")])) == config
    assert pipeline.changed_stages(run_dir, stages) == {}


# Refusing, resuming, skipping


def test_a_used_directory_is_refused_and_overwritten_only_when_told(tmp_path):
    run(single(), tmp_path)
    with pytest.raises(UserError, match="--resume.*--overwrite.*--name"):
        run(single(), tmp_path)
    (tmp_path / "zero" / "mark").write_text("")
    assert run(single(), tmp_path, overwrite=True)[0] == 0
    assert not (tmp_path / "zero" / "mark").exists()


@pytest.mark.parametrize("name", ["../escape", "a/b", "..", "-x"])
def test_a_name_that_is_no_folder_is_refused_and_nothing_written(tmp_path, name):
    with pytest.raises(UserError, match="--name"):
        run(single(), tmp_path / "runs", name=name)
    assert not (tmp_path / "runs").exists()


def test_finished_stages_are_skipped(tmp_path):
    run(three_stages(behaviour="crash"), tmp_path)
    first = directory.result(tmp_path / "quick" / "01-base")
    written = (tmp_path / "quick" / "01-base" / "result.json").stat().st_mtime_ns
    assert first and not (tmp_path / "quick" / "result.json").exists()
    status, told = run(three_stages(), tmp_path, resume=True)
    assert status == 0 and "base  already finished, skipped" in told
    assert (tmp_path / "quick" / "01-base" / "result.json").stat().st_mtime_ns == written
    status, told = run(three_stages(), tmp_path, resume=True)
    assert status == 0 and told.count("already finished") == 3 and "difference" in told
    assert len(json.loads((tmp_path / "quick" / "manifest.json").read_text())["resumed"]) == 2


def test_resume_begins_a_run_that_is_not_there(tmp_path):
    assert run(single(), tmp_path, resume=True)[0] == 0


def test_a_changed_recipe_of_one_finished_stage_is_refused_and_nothing_written(tmp_path):
    run(single(learning_rate=0.1), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as refusal:
        run(single(learning_rate=0.2), tmp_path, resume=True)
    [problem] = refusal.value.problems
    assert "zero: train.learning_rate: was 0.1, now 0.2, after the stage finished" in problem
    assert "--overwrite" in problem and "--name" in problem
    assert "--resume without this change continues the run as it was" in problem
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_changed_recipe_is_refused_before_the_check(tmp_path, monkeypatch):
    class Recipe(dict):
        name = "zero"

    run(single(learning_rate=0.1), tmp_path)
    monkeypatch.setattr(start.recipes, "load", lambda *sources, **options: Recipe(single(learning_rate=0.2)))
    monkeypatch.setattr(start, "_checked", lambda *sources: pytest.fail("the check has started"))
    options = dict.fromkeys(("tiny", "overwrite", "no_check", "slurm", "submit", "debug"), False)
    with pytest.raises(UserError, match="train.learning_rate: was 0.1, now 0.2"):
        start.start([], runs_dir=str(tmp_path), name=None, resume=True, **options)


def test_a_run_of_an_earlier_version_resumes_unchanged_and_a_damaged_one_is_one_line(tmp_path, monkeypatch):
    """Its recipe holds keys without an effect, and lacks those that are new."""
    monkeypatch.setattr(pipeline, "recipes", recipes)
    monkeypatch.setattr(run_stages, "recipes", recipes)
    (tmp_path / "r.yaml").write_text(json.dumps(
        {"stage": "eval", "model": {"path": "embedded:tiny-qwen2"}, "rewards": [{"name": "exact_match"}],
         "data": {"builder": "arithmetic"}, "prompt": {"template": "r1-zero"}}
    ))  # fmt: skip
    recipe = recipes.load([str(tmp_path / "r.yaml")])
    stages = pipeline.stage_runs(recipes.resolved(recipe), tmp_path / "run")
    config = recipes.resolved(recipe)
    (tmp_path / "run" / "samples").mkdir(parents=True)
    (tmp_path / "run" / "samples" / "partial.jsonl").write_text("")
    config["rollout"]["temperature"], config["prompt"]["system"] = 0.3, "Be brief."
    del config["rollout"]["top_p"]
    file = tmp_path / "run" / "config.yaml"
    storage.write_yaml(file, config)
    assert pipeline.changed_stages(tmp_path / "run", stages) == {}
    config["rollout"]["top_p"] = 0.5
    storage.write_yaml(file, config)
    with pytest.raises(
        UserError, match=r"rollout.top_p: was 0.5, now 1.0, after the stage started: --resume without this change"
    ):
        pipeline.changed_stages(tmp_path / "run", stages)
    for text, why in (
        ("a: 1\na: 2\n", ":2: cannot be read as YAML"),
        ("a: [", ":1: cannot be read as YAML|:2: cannot be read as YAML"),
        ("", ": not a recipe"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=why) as caught:
            pipeline.changed_stages(tmp_path / "run", stages)
        assert len(str(caught.value).splitlines()) == 1 and "--overwrite" in str(caught.value)


def five_stages(**second):
    stages = three_stages()["stages"]
    stages += [
        {"stage": "grpo", "name": "two", "model": {"path": "@zero/model"}, "train": {"max_steps": 3} | second},
        {"stage": "eval", "name": "last", "model": {"path": "@two/model"}},
    ]
    return three_stages() | {"stages": stages}


def test_a_changed_stage_of_a_pipeline_runs_again_with_those_after_it_and_nothing_before(tmp_path):
    run(five_stages(learning_rate=0.1), tmp_path)
    results = {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("quick/0*/result.json")}
    status, told = run(five_stages(learning_rate=0.2), tmp_path, resume=True)
    assert status == 0
    again = {path.parent.name for path in tmp_path.glob("quick/0*/result.json")
             if path.stat().st_mtime_ns != results[path.parent.name]}  # fmt: skip
    assert again == {"04-two", "05-last"}
    assert "two  runs again: train.learning_rate: was 0.1, now 0.2" in told
    assert "last  runs again, because it depends on two" in told and told.count("already finished, skipped") == 3


def test_a_rerun_that_fails_leaves_nothing_that_was_made_from_the_old_output(tmp_path):
    run(five_stages(), tmp_path)
    assert run(five_stages(behaviour="crash"), tmp_path, resume=True)[0] == 1
    assert directory.result(tmp_path / "quick" / "05-last") is None
    status, told = run(five_stages(), tmp_path, resume=True)
    assert status == 0 and told.count("already finished, skipped") == 3


def test_a_changed_recipe_of_a_stage_that_has_not_begun_is_taken(tmp_path):
    run(three_stages(behaviour="crash", learning_rate=0.1), tmp_path)
    assert run(three_stages(learning_rate=0.2), tmp_path, resume=True)[0] == 0
    assert storage.read_yaml(tmp_path / "quick" / "02-zero" / "config.yaml")["train"]["learning_rate"] == 0.2


def test_stages_that_changed_place_are_refused(tmp_path):
    run(three_stages(), tmp_path)
    recipe = three_stages()
    recipe["stages"].insert(0, {"stage": "eval", "name": "new", "model": {"path": "tiny"}})
    with pytest.raises(UserError, match="01-base: stages: "):
        run(recipe, tmp_path, resume=True)


def test_a_pipeline_does_not_take_up_a_single_stage(tmp_path):
    run(single(), tmp_path, name="quick")
    with pytest.raises(UserError, match="only one of the two recipes is a pipeline"):
        run(three_stages(), tmp_path, resume=True)


def test_a_moved_run_directory_resumes(tmp_path):
    run(three_stages(), tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert run(three_stages(), tmp_path / "b", resume=True)[1].count("already finished") == 3


def test_what_was_made_from_a_stage_that_runs_again_runs_again(tmp_path):
    run(three_stages(), tmp_path)
    (tmp_path / "quick" / "02-zero" / "result.json").unlink()
    status, told = run(three_stages(), tmp_path, resume=True)
    assert status == 0
    assert "base  already finished" in told and "final  runs again, because it depends on zero" in told


def test_half_done_output_without_a_checkpoint_is_dropped(tmp_path):
    run(single(behaviour="crash"), tmp_path)
    storage.append_jsonl(tmp_path / "zero" / "metrics.jsonl", {"phase": "train", "step": 99})
    run(single(), tmp_path, resume=True)
    rows = storage.read_jsonl(tmp_path / "zero" / "metrics.jsonl")
    assert [row["step"] for row in rows if "step" in row] == [1, 2, 3]


# Failing


@pytest.mark.parametrize(
    "behaviour, status, lines",
    [
        ("crash", 1, ["failed: RuntimeError: the loss is nan"]),
        ("refuse", 2, ["data: row 3 has no answer", "data: row 4 has no answer"]),
        ("killed", 1, ["killed by SIGKILL, possibly out of memory; last line of the log: a fake stage starts"]),
        ("no result", 1, ["ended without a result; last line of the log: a fake stage starts"]),
    ],
)
def test_a_stage_that_fails_is_told_in_a_line_with_its_log(tmp_path, capsys, behaviour, status, lines):
    assert run(three_stages(behaviour=behaviour), tmp_path)[0] == status
    log = tmp_path / "quick" / "02-zero" / "log.txt"
    assert capsys.readouterr().err.splitlines() == [f"zero: {line} (log: {log})" for line in lines]
    assert not (tmp_path / "quick" / "03-final").exists()
    assert directory.result(tmp_path / "quick") is None


def test_the_error_of_an_earlier_attempt_is_not_told_again(tmp_path, capsys):
    run(single(behaviour="refuse"), tmp_path)
    run(single(behaviour="crash"), tmp_path, resume=True)
    assert "failed: RuntimeError" in capsys.readouterr().err.splitlines()[-1]


# Stopping


def test_ctrl_c_ends_the_step_says_how_to_go_on_and_resume_goes_on(tmp_path):
    recipe = three_stages(max_steps=200, seconds=0.05)
    parent = start_parent(recipe, tmp_path)
    metrics = tmp_path / "quick" / "02-zero" / "metrics.jsonl"
    wait_for(lambda: len(storage.read_jsonl(metrics)) >= 3)
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to the whole group, of which the stage is no part
    out, err = parent.communicate(timeout=20)
    assert parent.returncode == 130
    assert "stopping after this step (recent steps took up to " in out
    assert "Traceback" not in err
    [line] = err.splitlines()
    assert line.startswith("zero: interrupted; to continue: ")
    assert line.endswith(f"run 'a recipe.yaml' --runs-dir {tmp_path} --resume")
    stopped_at = int((tmp_path / "quick" / "02-zero" / "checkpoints" / "checkpoint-1" / "step").read_text())
    assert not (tmp_path / "quick" / "03-final").exists()

    file = tmp_path / "quick" / "02-zero" / "checkpoints" / "checkpoint-1" / "step"
    file.write_text("198")  # so that this test need not wait for all steps
    assert stopped_at < 190
    status, _ = run(recipe, tmp_path, resume=True)
    assert status == 0
    assert directory.result(tmp_path / "quick" / "02-zero")["first"] == 199


def test_a_second_ctrl_c_kills_the_stage_and_what_it_started(tmp_path):
    parent = start_parent(single(behaviour="stubborn"), tmp_path)
    pids = tmp_path / "zero" / "pids.json"
    wait_for(pids.is_file)
    parent.send_signal(signal.SIGINT)
    time.sleep(0.6)
    assert parent.poll() is None
    parent.send_signal(signal.SIGINT)
    _, err = parent.communicate(timeout=20)
    assert parent.returncode == 130 and "to continue: " in err
    wait_for(lambda: not any(map(alive, json.loads(pids.read_text()))))


def test_a_stage_does_not_outlive_its_killed_parent(tmp_path):
    parent = start_parent(single(behaviour="stubborn"), tmp_path)
    pids = tmp_path / "zero" / "pids.json"
    wait_for(pids.is_file)
    stage, helper = json.loads(pids.read_text())
    assert alive(stage)
    parent.kill()
    parent.communicate()
    wait_for(lambda: not alive(stage))
    with contextlib.suppress(ProcessLookupError):
        os.kill(helper, signal.SIGKILL)


def test_sigterm_stops_like_ctrl_c_and_a_running_directory_is_held(tmp_path):
    parent = start_parent(single(max_steps=400, seconds=0.05), tmp_path)
    wait_for(lambda: storage.read_jsonl(tmp_path / "zero" / "metrics.jsonl"))
    for flags in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(UserError, match="another r1lab runs in it"):
            run(single(max_steps=400, seconds=0.05), tmp_path, **flags)
    parent.send_signal(signal.SIGTERM)
    parent.communicate(timeout=20)
    assert parent.returncode == 130
    assert (tmp_path / "zero" / "checkpoints" / "checkpoint-1" / "step").is_file()


def test_signals_are_handled_again_as_before(tmp_path):
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = [signal.getsignal(number) for number in numbers]
    run(single(), tmp_path)
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_dropped_connection_saves_a_checkpoint(tmp_path):
    """The terminal is gone: writing to it fails, and SIGHUP comes several times, with a SIGTERM beside it."""
    terminal, end = pty.openpty()
    parent = start_parent(single(max_steps=400, seconds=0.05), tmp_path, stdout=end, stderr=end)
    os.close(end)
    wait_for(lambda: storage.read_jsonl(tmp_path / "zero" / "metrics.jsonl"))
    os.close(terminal)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        parent.send_signal(number)
        time.sleep(0.05)
    assert parent.wait(timeout=20) == 130
    assert (tmp_path / "zero" / "checkpoints" / "checkpoint-1" / "step").is_file()


def test_a_closed_pipe_saves_a_checkpoint(tmp_path):
    parent = start_parent(single(max_steps=4000, seconds=0.05), tmp_path)
    wait_for(lambda: storage.read_jsonl(tmp_path / "zero" / "metrics.jsonl"))
    parent.stdout.close()
    parent.stderr.close()
    assert parent.wait(timeout=60) == 130
    assert (tmp_path / "zero" / "checkpoints" / "checkpoint-1" / "step").is_file()


def test_nohup_is_respected(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        parent = start_parent(single(max_steps=20, seconds=0.05), tmp_path)
        wait_for(lambda: storage.read_jsonl(tmp_path / "zero" / "metrics.jsonl"))
        parent.send_signal(signal.SIGHUP)
        parent.communicate(timeout=20)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert parent.returncode == 0


def test_the_command_to_resume_without_a_command_line_uses_the_config(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])
    stage = pipeline.StageRun("zero", tmp_path / "quick" / "02-zero", {}, "stage 2 of 3")
    config = tmp_path / "quick" / "config.yaml"
    assert pipeline.resume_command(stage).endswith(f"run {config} --runs-dir {tmp_path} --name quick --resume")
    assert pipeline._without_tiny() == ""


@pytest.mark.parametrize(
    ("typed", "whole"),
    [
        ("run mine.yaml --tiny", "run mine.yaml"),
        ("run a.yaml b.yaml --tiny seed=1 --name x --resume --runs-dir r", "run a.yaml b.yaml seed=1 --runs-dir r"),
        ("run --overwrite --name=x --tiny mine.yaml", "run mine.yaml"),
        ("run mine.yaml", None),
        ("check mine.yaml --tiny", None),
    ],
)
def test_the_command_after_a_run_in_small_runs_the_whole_recipe(monkeypatch, typed, whole):
    monkeypatch.setattr(sys, "argv", ["r1lab", *typed.split()])
    assert pipeline._without_tiny() == (" ".join([*pipeline._program(), whole]) if whole else "")
