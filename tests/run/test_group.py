"""Stages on several ranks, with real processes that only pretend to train (see fake_ranks.py), and their faults."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from r1lab import hardware
from r1lab.errors import UserError
from r1lab.grading import clock
from r1lab.run import group, pipeline, stages, watch
from r1lab.rundir import directory, storage

TESTS = Path(__file__).parent
ROOT = TESTS.parents[1]
RECIPES = SimpleNamespace(resolved=lambda recipe: recipe, reread=lambda config: config)
# The parent of the signal tests: a process that runs the recipe of its first argument in the folder of its second.
PARENT = f"""
import json, sys
sys.path[:0] = [{str(TESTS)!r}, {str(ROOT)!r}]
import test_group as tests
tests.pipeline.recipes = tests.stages.recipes = tests.RECIPES
tests.pipeline.stage_command = tests.fake_command
sys.exit(tests.pipeline.run(json.loads(sys.argv[1]), recipe_text="", runs_dir=sys.argv[2]))
"""


def fake_command(path):
    return [sys.executable, str(TESTS / "fake_ranks.py"), str(path)]


@pytest.fixture(autouse=True)
def fake_ranks(monkeypatch):
    monkeypatch.setattr(pipeline, "recipes", RECIPES)
    monkeypatch.setattr(stages, "recipes", RECIPES)
    monkeypatch.setattr(pipeline, "stage_command", fake_command)
    monkeypatch.setattr(hardware, "gpus", lambda: 0)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def recipe(gpus=2, timeout=60, **train):
    launch = {"gpus": gpus, "nodes": 1, "timeout": timeout, "strategy": "auto"}
    config = {"stage": "sft", "name": "s", "model": {"path": "tiny"}, "launch": launch}
    return config | {"train": {"max_steps": 3} | train}


def run(config, tmp_path, **flags):
    console = Console(file=io.StringIO(), width=80)
    status = pipeline.run(config, recipe_text="", runs_dir=tmp_path, console=console, **flags)
    return status, console.file.getvalue()


def environments(run_dir):
    return [json.loads(file.read_text()) for file in sorted(run_dir.glob("rank*.json"))]


def nobody_left(run_dir):
    pids = [int(file.stem.split(".")[1]) for file in run_dir.glob("*.pid")]
    return pids and not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_each_rank_has_the_variables_of_a_launcher_and_its_own_log(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "allowed_cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    status, shown = run(recipe(gpus=2), tmp_path)
    assert status == 0 and "2 ranks, sft: starting" in shown
    first, second = environments(tmp_path / "s")
    port = first["MASTER_PORT"]
    assert int(port) > 1023
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"OMP_NUM_THREADS": "4", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "5,6"}
    assert first == common | {"RANK": "0", "LOCAL_RANK": "0"} and second == common | {"RANK": "1", "LOCAL_RANK": "1"}
    assert (tmp_path / "s" / "log.txt").read_text() == "a rank starts\n"
    assert (tmp_path / "s" / "ranks" / "1.log").read_text() == "a rank starts\n"
    assert storage.read_yaml(tmp_path / "s" / "config.yaml")["launch"]["strategy"] == "ddp"
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["launch"] == {"s": {"ranks": 2, "strategy": "ddp"}}


def test_the_number_of_threads_that_the_user_set_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert group.environment(0, 2, group.Node(0, 1, "127.0.0.1", 1))["OMP_NUM_THREADS"] == "3"


def test_the_port_of_the_ranks_is_kept_for_them(tmp_path):
    running = group.start([sys.executable, "-c", "import time; time.sleep(100)"], tmp_path, 2)
    try:
        port = running.port.getsockname()[1]
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        socket.create_server(("", port)).close()  # reuses the address, as torch's store does on rank 0
    finally:
        group.kill(running)
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))


def test_with_gpus_accelerate_uses_them(monkeypatch):
    monkeypatch.setattr(hardware, "gpus", lambda: 2)
    assert "ACCELERATE_USE_CPU" not in group.environment(0, 2, group.Node(0, 1, "127.0.0.1", 1))


def test_an_only_rank_has_the_environment_as_it_is(tmp_path):
    status, shown = run(recipe(gpus=1), tmp_path)
    assert status == 0 and "ranks" not in shown and not (tmp_path / "s" / "ranks").exists()
    (own,) = environments(tmp_path / "s")
    assert own == {name: os.environ.get(name) for name in own}


@pytest.mark.parametrize(
    ("launch", "line"),
    [
        ({"gpus": 4}, "s: launch.gpus: 4: this machine has 2 GPUs: set launch.gpus=2"),
        (
            {"gpus": 2, "nodes": 2},
            "s: launch.nodes: 2: only a Slurm job has several nodes, and this is none: submit it with `r1lab run ... "
            "--submit`, or see docs/scale.md for clusters without Slurm",
        ),
    ],
)
def test_ranks_that_this_machine_cannot_start_are_refused_and_nothing_written(tmp_path, monkeypatch, launch, line):
    monkeypatch.setattr(hardware, "gpus", lambda: 2)
    config = recipe()
    config["launch"] |= launch
    with pytest.raises(UserError) as caught:
        run(config, tmp_path)
    assert caught.value.problems == [line] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rank", "fault", "why"),
    [
        (0, "SIGKILL", "killed by SIGKILL, possibly out of memory; last line of the log: a rank starts"),
        (1, "SIGKILL", "killed by SIGKILL, possibly out of memory; last line of the log: a rank starts"),
        (1, "crash", "failed: ValueError: the loss is nan"),
        (1, "refuse", "data: row 3 has no answer"),
    ],
)
def test_the_rank_that_failed_first_is_named_with_its_own_error(tmp_path, capsys, rank, fault, why):
    config = recipe(faults={str(rank): fault})
    status, _ = run(config, tmp_path)
    logs = [tmp_path / "s" / "log.txt", tmp_path / "s" / "ranks" / "1.log"]
    assert status == 1 and capsys.readouterr().err.splitlines() == [f"s: rank {rank}: {why} (log: {logs[rank]})"]
    stack = tmp_path / "s" / "ranks" / f"{1 - rank}.stack"
    assert "in all_reduce" in stack.read_text() or "onnection closed" in logs[1 - rank].read_text()
    assert nobody_left(tmp_path / "s")
    for saved in (0, 1):
        (tmp_path / "s" / "checkpoints" / "checkpoint-1" / f"step{saved}").write_text("1")
    assert run(config, tmp_path, resume=True)[0] == 0
    assert directory.result(tmp_path / "s")["first"] == 2


@pytest.mark.parametrize(
    ("fault", "where"),
    [("SIGSTOP", "rank 1: stopped by a signal"), ("hang", "rank 1: fail ")],
)
def test_ranks_that_wait_for_one_without_a_sign_of_life_are_ended_with_their_places(tmp_path, capsys, fault, where):
    status, _ = run(recipe(timeout=3, faults={"1": fault}), tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 1 and nobody_left(tmp_path / "s")
    assert line.startswith(f"s: no rank has shown a sign of life for 3 s (launch.timeout): {where}")
    assert "rank 0: all_reduce" in line and line.endswith(f"(stacks: {tmp_path / 's' / 'ranks'})")
    assert "in all_reduce" in (tmp_path / "s" / "ranks" / "0.stack").read_text()


def test_a_mistake_that_every_rank_finds_is_reported_once(tmp_path, capsys):
    status, _ = run(recipe(faults={"0": "refuse all", "1": "refuse all"}), tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        f"s: data: row 3 has no answer (log: {tmp_path / 's' / 'log.txt'})"
    ]
    assert status == 2


def test_ranks_that_ask_for_a_new_start_get_one(tmp_path):
    status, _ = run(recipe(faults={"0": "restart", "1": "restart"}), tmp_path)
    assert status == 0 and directory.result(tmp_path / "s")["first"] == 2
    assert (tmp_path / "s" / "ranks" / "1.log").read_text() == "a rank starts\n" * 2


def test_what_an_earlier_attempt_left_is_not_taken_for_this_ones(tmp_path):
    ranks = tmp_path / "s" / "ranks"
    run(recipe(), tmp_path)
    (tmp_path / "s" / "result.json").unlink()
    for file in (tmp_path / "s" / "stop", ranks / "1.error", ranks / "7.beat"):
        file.touch()
    running = group.start([sys.executable, "-c", ""], tmp_path / "s", 2)
    group.kill(running)
    assert not (tmp_path / "s" / "stop").exists()
    assert {file.name for file in ranks.iterdir() if file.suffix in (".beat", ".error", ".stack")} == set()


def start_parent(config, tmp_path):
    command = [sys.executable, "-c", PARENT, json.dumps(config), str(tmp_path)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def wait_for(condition, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it did not happen"
        time.sleep(0.02)


def test_ctrl_c_stops_all_ranks_after_the_same_step_and_a_run_resumes(tmp_path):
    config = recipe(max_steps=200, seconds=0.2)
    parent = start_parent(config, tmp_path)
    wait_for(lambda: (tmp_path / "s" / "metrics.jsonl").is_file())
    parent.send_signal(signal.SIGINT)
    _, error = parent.communicate(timeout=60)
    assert parent.returncode == 130 and error.startswith("s: interrupted; to continue: ")
    folder = tmp_path / "s" / "checkpoints" / "checkpoint-1"
    assert folder.joinpath("step0").read_text() == folder.joinpath("step1").read_text()
    assert nobody_left(tmp_path / "s")
    for rank in (0, 1):
        folder.joinpath(f"step{rank}").write_text("198")
    assert run(config, tmp_path, resume=True)[0] == 0


@pytest.mark.parametrize("count", [1, 2])
def test_a_start_removes_the_file_that_stopped_the_last_attempt(tmp_path, count):
    (tmp_path / "stop").touch()
    started = group.start([sys.executable, "-c", ""], tmp_path, count)
    group.kill(started)
    assert not (tmp_path / "stop").exists()


def test_a_second_ctrl_c_kills_all_ranks(tmp_path):
    parent = start_parent(recipe(max_steps=200, seconds=100), tmp_path)
    wait_for(lambda: len(list((tmp_path / "s").glob("*.pid"))) == 2)
    parent.send_signal(signal.SIGINT)
    time.sleep(0.5)
    parent.send_signal(signal.SIGINT)
    _, error = parent.communicate(timeout=60)
    assert parent.returncode == 130 and "interrupted" in error and nobody_left(tmp_path / "s")


# What the watch reads


STACK = """Thread 0x00007f10 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait

Current thread 0x00007f11 (most recent call first):
  File "/venv/torch/distributed/distributed_c10d.py", line 3028 in all_reduce
  File "/venv/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/home/me/r1lab/r1lab/stages/training.py", line 90 in on_step_end
"""


def test_a_rank_in_a_collective_is_named_by_it():
    assert watch.place(STACK) == "all_reduce"


def test_a_rank_elsewhere_is_named_by_the_deepest_frame_of_the_package():
    own = STACK.replace("torch/distributed/distributed_c10d.py", "torch/autograd/graph.py").replace(
        "all_reduce", "run"
    )
    assert watch.place(own) == "on_step_end (r1lab/stages/training.py:90)"
    assert watch.place("") == ""


def test_the_start_counts_until_the_first_beat(tmp_path):
    running = group.Group(tmp_path, [], [], [], started=1000.0)
    assert not watch.silent(running, 20, now=1019.0) and watch.silent(running, 20, now=1021.0)
    (tmp_path / "ranks").mkdir()
    (tmp_path / "ranks" / "1.beat").touch()
    os.utime(tmp_path / "ranks" / "1.beat", (1010, 1010))
    assert not watch.silent(running, 20, now=1029.0) and watch.silent(running, 20, now=1031.0)


def test_loading_shows_life_by_its_cpu_time_and_a_step_does_not(tmp_path):
    work = [sys.executable, "-c", "while True: pass"]
    running = group.start(work, tmp_path, 2)
    try:
        wait_for(lambda: not watch.silent(running, 20, now=running.started + 30))
        assert running.worked == running.started + 30 and watch.silent(running, 20, now=running.started + 51)
        storage.append_jsonl(tmp_path / "metrics.jsonl", {"phase": "train", "step": 1, "time": running.started + 1})
        wait_for(lambda: clock.used(running.processes[0].pid).seconds > running.used + 2)
        os.utime(tmp_path / "metrics.jsonl", (running.started, running.started))
        assert watch.silent(running, 20, now=running.started + 51)
    finally:
        group.kill(running)
