"""Two ranks on two machines, which are this one twice, compute what one process does: two nodes of a Slurm cluster,
and two network namespaces, which reach each other only through a cable of their own."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from r1lab import ranks
from r1lab.run import group, slurm
from r1lab.rundir import directory, storage
from tests.run import cluster as slurm_cluster
from tests.stages.several_ranks import ROOT, apart, logs, prepared, sharded, train_rows, updates

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
STAGES = {"sft": 3, "grpo": 4}  # with their steps
REWARD = """
import pathlib, time

here, steps = pathlib.Path(__file__).parent, []

def parity(completions, **columns):
    steps.append(1)
    if len(steps) == 3 and (here / "hold").exists():
        (here / "held").touch()
        while (here / "hold").exists():
            time.sleep(0.1)
    return [float(len(text) % 2) for text in completions]
"""
# `r1lab run`, whose ranks also write the rows that they train on.
RUN = f"""
import os, sys
os.environ |= {{"PYTHONPATH": {str(ROOT)!r}, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}}
from r1lab import cli
from r1lab.run import pipeline
pipeline.stage_command = lambda path: [sys.executable, "-m", "tests.stages.rank", str(path)]
sys.exit(cli.main(["run", "r.yaml", "--no-check", "--resume"]))
"""


def ready(base: Path, folder: Path, stage: str, count: int, **more) -> Path:
    """The run directory of a stage on a number of ranks, with the reward of this file."""
    if stage == "grpo":
        (folder.parent / "mine.py").write_text(REWARD)
        more["rewards"] = [{"name": f"{folder.parent / 'mine.py'}:parity"}]
    return prepared(base, folder, stage, count, train={"max_steps": STAGES[stage]}, **more)


@pytest.fixture(scope="module")
def one(start, base, tmp_path_factory):
    """The run directories of the stages after training in one process."""
    folder = tmp_path_factory.mktemp("one")
    found = {stage: ready(base, folder / stage, stage, 1) for stage in STAGES}
    assert start(1, list(found.values())) == [0], "\n".join(map(logs, found.values()))
    return found


def compare(base: Path, one: Path, two: Path, steps: int) -> None:
    """Compares two trainings, and prints how far they are apart, which `pytest -rP` shows."""
    assert updates(one) == updates(two) and len(updates(two)) == steps
    losses = [[row["loss"] for row in train_rows(found)] for found in (one, two)]
    assert len(losses[1]) == steps and any(losses[0])
    gap, distance = max(abs(a - b) for a, b in zip(*losses, strict=True)), apart(base / "start", one, two)
    print(f"{two}: {steps} steps, losses differ by at most {gap:.1e}, weights by {distance:.1e} of their movement")
    assert gap <= 1e-5 and distance <= 1e-4


# Slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if why := slurm_cluster.missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster.cluster(folder, kill_wait=300) as running:
        yield running


def test_two_nodes_of_slurm_and_what_scancel_leaves(cluster, start, base, one, tmp_path):
    launch = {"gpus": 1, "nodes": 2, "strategy": "ddp", "timeout": 300, "slurm": {"extra": ["--gres=none"]}}
    written = [ready(base, tmp_path / stage, stage, 2, launch=launch) for stage in STAGES]
    recipe = {"name": "s", "stages": [storage.read_yaml(folder / "config.yaml") for folder in written]}
    storage.write_yaml(tmp_path / "r.yaml", recipe)
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "hold").touch()
    text = slurm.script(recipe, name="s", command=[sys.executable, "run.py"], folder=tmp_path)
    job = cluster("sbatch", "--parsable", input=text).strip()
    sft, grpo = (tmp_path / "runs" / "s" / name for name in ("01-sft", "02-grpo"))

    def ended() -> bool:
        return cluster.state(job) not in ("PENDING", "RUNNING")

    slurm_cluster.wait_until(lambda: (tmp_path / "held").exists() or ended(), 900)  # in step 3 of grpo
    output = f"{(tmp_path / f's-{job}.log').read_text()}\n{logs(sft)}\n{logs(grpo)}"
    assert not ended(), output
    compare(base, one["sft"], sft, STAGES["sft"])
    cluster("scancel", job)
    slurm_cluster.wait_until((grpo / "stop").exists, 60)
    (tmp_path / "hold").unlink()
    assert cluster.ended(job) == "CANCELLED"
    assert [row["step"] for row in train_rows(grpo)] == [1, 2, 3], logs(grpo)
    assert len(list((grpo / "checkpoints").glob("checkpoint-3/rng_state_*.pth"))) == 2
    assert not directory.result(grpo)
    (grpo / "stop").unlink()
    assert start(1, [ready(base, grpo, "grpo", 1)]) == [0], logs(grpo)
    compare(base, one["grpo"], grpo, STAGES["grpo"])


# Network namespaces


@contextmanager
def namespaces():
    """The names of two network namespaces, their ends of the cable between them, and the address of the first."""
    names = [f"r1lab-{os.getpid()}-{number}" for number in (0, 1)]
    ends = [f"r1{os.getpid()}{letter}" for letter in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for number, (name, end) in enumerate(zip(names, ends), 1):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", end)
            for device in ("lo", end):
                ip("-n", name, "link", "set", device, "up")
        yield names, ends, "10.77.0.1"
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs `ip`: apt-get install iproute2")
    if done.returncode:
        pytest.skip(f"needs root and network namespaces: ip {' '.join(words)}: {done.stderr.strip()}")


def test_two_network_namespaces_with_a_static_rendezvous(base, one, tmp_path):
    run_dirs = [ready(base, tmp_path / stage, stage, 2, strategy="fsdp2") for stage in STAGES]
    started = []
    with namespaces() as (names, ends, address):
        try:
            for number, (name, end) in enumerate(zip(names, ends)):
                more = group.environment(0, 1, group.Node(number, 2, address, 29500))
                more |= {"GLOO_SOCKET_IFNAME": end, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
                command = ["ip", "netns", "exec", name, sys.executable, "-m", "tests.stages.rank"]
                started.append(
                    subprocess.Popen([*command, *map(str, run_dirs)], cwd=ROOT, env=os.environ | more)
                )  # fmt: skip
            statuses = [process.wait(900) for process in started]
        finally:
            for process in started:
                process.kill()
                process.wait()
    assert statuses == [0, 0], "\n".join(map(logs, run_dirs))
    for run_dir, (stage, steps) in zip(run_dirs, STAGES.items()):
        assert sharded(run_dir) and (ranks.folder(run_dir) / "1.log").is_file()
        compare(base, one[stage], run_dir, steps)
