"""Runs on a Slurm cluster: the batch script, and real jobs on two nodes, which are this machine twice."""

import json
import re
import subprocess
import sys

import pytest

from r1lab import cli
from r1lab.run import slurm
from r1lab.rundir import directory
from tests.run import cluster as slurm_cluster
from tests.run.test_group import ROOT, TESTS, environments, nobody_left

RECIPE = """\
stage: sft
name: words
model: {path: embedded:tiny-qwen2}
data: {builder: knights_knaves, people: 2, size: 64, solution: evaluation}
prompt: {template: none}
train:
  max_steps: 3
  per_device_train_batch_size: 2
  global_batch_size: 8
  save_strategy: "no"
launch:
  nodes: 2
  slurm: {time: "24:00:00", partition: main, extra: [--gres=none]}
"""
SCRIPT = """\
#!/bin/bash
# The run words on 2 nodes with 1 rank each. Submit this file with sbatch, or print it again: r1lab run ... --slurm
#SBATCH --job-name=words
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --partition=main
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=words-%j.log
#SBATCH --chdir={folder}
#SBATCH --gres=none

# r1lab runs once, on the first node of the job, and starts the ranks of each stage on all nodes with one srun.
{program} run r.yaml seed=2 --runs-dir runs --name words --no-check --resume &
run=$!

"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test stands in an empty folder, with a recipe r.yaml in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Slurm cluster of two nodes, which is ended after the last test of this file, with nothing left of it."""
    if why := slurm_cluster.missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster.cluster(folder, kill_wait=60) as running:
        yield running
    assert slurm_cluster.processes(folder) == []


# The script


def printed(capsys, *arguments):
    assert cli.main(["run", "r.yaml", "--slurm", *arguments]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    assert cli.main(["run", "r.yaml", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def options(text):
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_the_script_of_a_recipe(capsys, here):
    text = printed(capsys, "seed=2", "--no-check")
    program = slurm.command([], [])[0]
    assert text.startswith(SCRIPT.format(folder=here, program=program))
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert sorted(path.name for path in here.iterdir()) == ["r.yaml"]


def test_names_with_spaces_are_quoted(capsys):
    text = printed(capsys, "--name", "my words")
    assert "--job-name='my words'" in text
    assert "--name 'my words'" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_a_job_has_the_nodes_and_gpus_of_the_largest_stage(capsys, here):
    parts = [{"name": "a", "launch": {"gpus": 8}}, {"name": "b", "launch": {"gpus": 2, "nodes": 4}}, {"name": "c"}]
    text = slurm.script({"name": "all", "stages": parts}, name="all", command=["r1lab"], folder=here)
    assert options(text)[1:4] == ["--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8"]


def test_stages_with_different_options_cannot_be_one_job(here):
    parts = [{"name": name, "launch": {"slurm": {"partition": name}}} for name in ("a", "b")]
    with pytest.raises(slurm.UserError, match="b: launch.slurm: differs from that of a"):
        slurm.script({"name": "all", "stages": parts}, name="all", command=["r1lab"], folder=here)


@pytest.mark.parametrize(
    ("extra", "gone"),
    [
        ([], []),
        (["--gpus-per-node=h100:8"], ["--gpus-per-node=1"]),
        (["--gpus=2"], ["--gpus-per-node=1"]),
        (["--cpus-per-task=16"], ["--exclusive", "--mem=0"]),
        (["--mem-per-gpu=64G"], ["--mem=0"]),
        (["--no-requeue"], ["--requeue"]),
        (["--output=/scratch/%x.log"], ["--output=words-%j.log"]),
        (["--time-min=10"], []),
    ],
)
def test_an_extra_option_takes_the_place_of_one_with_the_same_purpose(extra, gone, here):
    plain = slurm.options({"time": "10:00"}, "words", 2, 1, here)
    assert slurm.options({"time": "10:00", "extra": extra}, "words", 2, 1, here) == [
        *(option for option in plain if option not in gone),
        *extra,
    ]


def test_a_short_time_limit_leaves_time_to_train_before_its_signal(here):
    assert "--signal=B:USR1@75" in slurm.options({"time": "5"}, "words", 2, 1, here)


def test_refused_options(capsys, monkeypatch):
    assert refused(capsys, "--slurm", "launch.slurm.time=soon") == (
        "launch.slurm.time: soon: not a time limit of Slurm: write it as in 24:00:00 or 2-12:00:00"
    )
    assert refused(capsys, "--slurm", "launch.slurm.extra=[-q high]") == (
        "launch.slurm.extra: -q high: not a long option of sbatch: write it as in --qos=high"
    )
    assert refused(capsys, "--slurm", "--overwrite") == (
        "r1lab run: --overwrite: a job that starts again would delete its own run: delete runs/words"
    )
    monkeypatch.setenv("PATH", "/nowhere")
    assert refused(capsys, "--submit").startswith("--submit: there is no sbatch on this machine")


def test_the_help_of_run_names_both_options(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    out = capsys.readouterr().out
    assert "--slurm " in out
    assert "--submit " in out


# Jobs

PARENT = f"""
import json, sys
sys.path[:0] = [{str(TESTS)!r}, {str(ROOT)!r}]
import test_group as tests
tests.pipeline.recipes = tests.stages.recipes = tests.RECIPES
tests.pipeline.stage_command = tests.fake_command
sys.argv[:] = ["r1lab", "run", "r.yaml"]
sys.exit(tests.pipeline.run(json.loads({{config!r}}), recipe_text="", runs_dir="runs", resume=True))
"""


def job(cluster, here, *, name="s", gpus=2, timeout=60, **train):
    """Submits a run of ranks that only pretend to train (see fake_ranks.py) on two nodes; returns its number."""
    launch = {"gpus": gpus, "nodes": 2, "timeout": timeout, "strategy": "auto"}
    config = {"stage": "sft", "name": name, "model": {"path": "tiny"}, "launch": launch}
    config |= {"train": {"max_steps": 3} | train}
    (here / "parent.py").write_text(PARENT.format(config=json.dumps(config)))
    given = {"launch": {"gpus": gpus, "nodes": 2, "slurm": {"extra": ["--gres=none"]}}}
    text = slurm.script({"name": name} | given, name=name, command=[sys.executable, "parent.py"], folder=here)
    return cluster("sbatch", "--parsable", input=text).strip()


def ended(cluster, here, number, name="s"):
    """Waits until a job has ended, and returns its state and its output."""
    state = cluster.ended(number)
    return state, (here / f"{name}-{number}.log").read_text()


def result(here):
    return directory.result(here / "runs" / "s") or {}


@pytest.mark.slow
def test_ranks_of_two_nodes(cluster, here):
    state, output = ended(cluster, here, job(cluster, here))
    assert state == "COMPLETED" and "4 ranks, sft: starting" in output, output
    found = environments(here / "runs" / "s")
    assert [environment["RANK"] for environment in found] == ["0", "1", "2", "3"]
    assert [environment["LOCAL_RANK"] for environment in found] == ["0", "1", "0", "1"]
    assert {environment["WORLD_SIZE"] for environment in found} == {"4"}
    assert {environment["LOCAL_WORLD_SIZE"] for environment in found} == {"2"}
    assert len({(environment["MASTER_ADDR"], environment["MASTER_PORT"]) for environment in found}) == 1
    assert "a rank starts" in (here / "runs" / "s" / "log.txt").read_text()
    assert [(here / "runs" / "s" / "ranks" / f"{rank}.log").is_file() for rank in (1, 2, 3)] == [True] * 3
    slurm_cluster.wait_until(lambda: nobody_left(here / "runs" / "s"), 60)  # Slurm may still be ending them


@pytest.mark.slow
def test_the_error_is_that_of_the_rank_that_failed_first_on_any_node(cluster, here):
    state, output = ended(cluster, here, job(cluster, here, faults={"3": "crash"}))
    assert state == "FAILED"
    lines = [line for line in output.splitlines() if "rank " in line]
    assert lines == ["s: rank 3: failed: ValueError: the loss is nan (log: runs/s/ranks/3.log)"], output
    slurm_cluster.wait_until(lambda: nobody_left(here / "runs" / "s"), 60)  # Slurm may still be ending them


@pytest.mark.slow
def test_a_hang_says_where_the_ranks_of_both_nodes_are(cluster, here):
    state, output = ended(cluster, here, job(cluster, here, timeout=20, faults={"1": "hang"}))
    assert state == "FAILED"
    (line,) = [line for line in output.splitlines() if "sign of life" in line] or [output]
    # The others are either seen as they wait, or have ended because ranks of the other node have.
    assert "rank 1: fail (" in line
    assert re.search(r"2-3: (all_reduce|ended) \(stacks: runs/s/ranks\)", line), line
    slurm_cluster.wait_until(lambda: nobody_left(here / "runs" / "s"), 60)  # Slurm may still be ending them


@pytest.mark.slow
def test_all_nodes_start_again_after_a_rollback(cluster, here):
    state, output = ended(cluster, here, job(cluster, here, gpus=1, faults=dict.fromkeys("01", "restart")))
    assert state == "COMPLETED", output
    assert result(here)["first"] == 2


@pytest.mark.slow
def test_a_signal_to_the_batch_script_leaves_a_checkpoint_to_resume_from(cluster, here):
    number = job(cluster, here, gpus=1, max_steps=24, seconds=0.5)
    slurm_cluster.wait_until((here / "runs" / "s" / "metrics.jsonl").is_file)
    cluster("scancel", "--batch", "--signal=TERM", number)
    state, output = ended(cluster, here, number)
    assert state == "FAILED" and "s: interrupted; to continue: " in output, output
    slurm_cluster.wait_until(lambda: nobody_left(here / "runs" / "s"), 60)
    assert not result(here)
    state, output = ended(cluster, here, job(cluster, here, gpus=1, max_steps=24, seconds=0.5))
    assert state == "COMPLETED", output
    assert 1 < result(here)["first"] < 25


@pytest.mark.slow
def test_scancel_leaves_a_checkpoint_to_resume_from(cluster, here):
    number = job(cluster, here, gpus=1, max_steps=24, seconds=0.5)
    slurm_cluster.wait_until((here / "runs" / "s" / "metrics.jsonl").is_file)
    cluster("scancel", number)
    assert cluster.ended(number) == "CANCELLED"
    slurm_cluster.wait_until(lambda: nobody_left(here / "runs" / "s"))
    steps = {(here / "runs/s/checkpoints/checkpoint-1" / f"step{rank}").read_text() for rank in (0, 1)}
    assert len(steps) == 1  # both ranks stopped at the same step
    state, output = ended(cluster, here, job(cluster, here, gpus=1, max_steps=24, seconds=0.5))
    assert state == "COMPLETED", output
    assert result(here)["first"] == int(*steps) + 1


@pytest.mark.slow
def test_a_job_that_is_stopped_for_its_time_limit_continues_as_the_same_job(cluster, here):
    number = job(cluster, here, gpus=1, max_steps=24, seconds=0.5)
    slurm_cluster.wait_until((here / "runs" / "s" / "metrics.jsonl").is_file)
    cluster("scancel", "--batch", "--signal=USR1", number)  # what --signal in the script makes Slurm do
    slurm_cluster.wait_until(lambda: result(here))
    assert cluster.ended(number) == "COMPLETED"
    assert result(here)["first"] > 1


def test_a_cluster_of_two_nodes(cluster):
    command = ["srun", "--nodes=2", "--ntasks-per-node=1", sys.executable, "-c"]
    text = cluster(*command, "import os; print(os.environ['SLURMD_NODENAME'], os.environ['SLURM_NODEID'])")
    assert sorted(text.splitlines()) == ["n1 0", "n2 1"], cluster.logs()


def test_a_refused_script_is_an_error_of_the_user(cluster, capsys, monkeypatch):
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.environment[name])
    line = refused(capsys, "--submit", "launch.slurm.partition=other")
    assert line.startswith("--submit: sbatch refused the script, which --slurm prints: ")
    assert "partition" in line
