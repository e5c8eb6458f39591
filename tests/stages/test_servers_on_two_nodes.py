"""Each of two nodes has a rank and a server, and every rank asks both servers."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from r1lab.run import group
from r1lab.rundir import storage
from tests.stages.several_ranks import ROOT, logs, prepared, train_rows
from tests.stages.test_ranks_on_two_machines import namespaces

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ADDRESSES = ["10.77.0.1", "10.77.0.2"]


def servers() -> list[psutil.Process]:
    """The servers on the addresses of the namespaces, with their guards."""
    found = [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]]
    words = [(process, process.info["cmdline"]) for process in found]
    return [process for process, own in words if "--host" in own and own[own.index("--host") + 1] in ADDRESSES]


def listens(process: psutil.Process) -> tuple[str, set[str]]:
    """The `--host` of a server, and the addresses of its namespace on which its port is open."""
    words = process.cmdline()
    host, port = (words[words.index(name) + 1] for name in ("--host", "--port"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process.pid}/net/{table}").read_text().splitlines()[1:]:
            address, _, own = line.split()[1].partition(":")
            if line.split()[3] == "0A" and int(own, 16) == int(port):
                found.add(socket.inet_ntoa(bytes.fromhex(address)[::-1]) if table == "tcp" else address)
    return host, found


def test_each_namespace_has_a_server_that_listens_only_between_the_nodes(base, tmp_path):
    run_dir = prepared(
        base, tmp_path / "run", "grpo", 2, model={"path": "embedded:tiny-qwen2", "dtype": "float32"},
        launch={"gpus": 2, "nodes": 2, "rollout": "server", "strategy": "fsdp2", "timeout": 600},
        rollout={
            "num_generations": 4, "max_completion_length": 8, "sync_folder": str(tmp_path / "sync"),
            "options": {"enforce_eager": True, "max_num_seqs": 8},
        },
    )  # fmt: skip
    started, open_on = [], []
    with namespaces() as (names, ends, address):
        try:
            for number, (name, end) in enumerate(zip(names, ends)):
                more = group.environment(0, 1, group.Node(number, 2, address, 29500))
                more |= {"GLOO_SOCKET_IFNAME": end, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
                command = ["ip", "netns", "exec", name, sys.executable, "-m", "tests.stages.rank", str(run_dir)]
                started.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | more))
            metrics = run_dir / "metrics.jsonl"
            while all(process.poll() is None for process in started) and not open_on:
                time.sleep(0.5)
                if metrics.is_file() and any(row["phase"] == "train" for row in storage.read_jsonl(metrics)):
                    open_on = [listens(process) for process in servers()]
            statuses = [process.wait(900) for process in started]
        finally:
            for process in started:
                process.kill()
                process.wait()
    assert statuses == [0, 0], logs(run_dir)
    assert {host for host, _ in open_on} == set(ADDRESSES)
    assert all(found == {host} for host, found in open_on), open_on
    assert [row["drift"] < 1e-4 for row in train_rows(run_dir)] == [True] * 3  # the weights arrived at both servers
    assert {file.name for file in (run_dir / "servers").iterdir()} == {"0.log", "1.log"}
    assert "it is left out" not in (run_dir / "log.txt").read_text()
    assert not list((tmp_path / "sync").rglob("*.safetensors"))
    psutil.wait_procs(servers(), timeout=60)
    assert not servers()
