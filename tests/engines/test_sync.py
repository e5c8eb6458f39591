"""Weights on their way to real servers: what arrives, what is refused, and what a server does after it."""

import copy
import os
import subprocess
import sys

import httpx
import pytest
import torch

from r1lab.engines import sync
from r1lab.engines.fleet import Fleet
from r1lab.models import loading
from tests.engines.conftest import PROMPTS

pytest.importorskip("vllm")
SETTINGS = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 24, "repetition_penalty": 1.0, "min_p": 0.0}


@pytest.fixture(scope="module")
def policy():
    return loading.load_model("embedded:tiny-qwen2", dtype="float32").eval()


@pytest.fixture
def sender(served, tmp_path):
    made = sync.WeightSync([served[0].url], timeout=60)
    yield made
    made.close()


def moved(policy, seed: int):
    """A copy of the policy whose weights have moved."""
    other = copy.deepcopy(policy)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return other


def gap(policy, url: str, version: int) -> float:
    """Mean |difference| of the log-probabilities of the server and the policy, of sampled tokens."""
    tokenizer = loading.load_tokenizer("embedded:tiny-qwen2")
    fleet = Fleet([url], timeout=120)
    fleet.synced(version)
    gaps = []
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROMPTS]
    for prompt, group in zip(prompts, fleet.complete([(ids, 2) for ids in prompts], SETTINGS)):
        for one in group:
            ids = torch.tensor([prompt + one.token_ids])
            with torch.inference_mode():
                logps = policy(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            logps = logps.gather(-1, torch.tensor(one.token_ids)[:, None])[:, 0]
            gaps.append((logps - torch.tensor(one.logprobs)).abs())
    fleet.close()
    return torch.cat(gaps).mean().item()


def state(url: str) -> dict:
    return httpx.post(f"{url}/collective_rpc", json={"method": "weights"}, timeout=60).json()["results"][0]


def answers(url: str) -> bool:
    body = {"prompt": [1, 2, 3], "max_tokens": 4}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=120).is_success


@pytest.mark.slow
def test_a_server_has_the_weights_of_the_policy_after_each_sync_and_only_then(sender, served, policy, monkeypatch):
    url = served[0].url
    for version, limit in ((11, sync.CHUNK), (12, 300_000)):  # in one file, and in several
        other = moved(policy, version)
        if version == 11:
            assert sender.send(10, policy.named_parameters()).failed == {}
            assert gap(other, url, 10) > 0.01  # the sync is left out
        monkeypatch.setattr(sync.write, "__defaults__", (limit,))
        done = sender.send(version, other.named_parameters())
        assert done.failed == {} and set(done.seconds) == {"writing", "loading", "clearing"}
        assert gap(other, url, version) <= 1e-4
        assert state(url) == {"version": version, "checksum": done.checksum}
        assert list(sender.folder.iterdir()) == []


@pytest.mark.slow
def test_what_is_wrong_is_refused_before_it_changes_a_weight(sender, served, policy, monkeypatch):
    url, right = served[0].url, list(policy.named_parameters())
    assert sender.send(20, right).failed == {}
    name = "model.layers.1.self_attn.q_proj.weight"
    tensor = dict(right)[name]

    def refused(weights) -> str:
        (problem,) = sender.send(21, weights).failed.values()
        assert answers(url) and state(url)["version"] == 20
        return problem

    without = [pair for pair in right if pair[0] != name]
    assert refused(without) == f"worker 0: 1 weights are missing, as {name}"
    assert refused([*without, (name, tensor[:-1])]).endswith(
        f"{name} has the shape {[tensor.shape[0] - 1, tensor.shape[1]]} in place of {list(tensor.shape)}"
    )
    assert "1 weights are unknown, as model.more.weight" in refused([*right, ("model.more.weight", tensor.clone())])
    assert refused([]) == "worker 0: there are no weights"
    write = sync.write

    def lost(folder, weights):
        files = write(folder, weights, limit=300_000)
        os.unlink(files[1][0])
        return files

    def changed(folder, weights):
        files = write(folder, weights)
        with open(files[0][0], "r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"\0\0\0\1")
        return files

    def broken(folder, weights):
        (folder / "0.safetensors").write_bytes(b"no weights at all")
        return [(str(folder / "0.safetensors"), sync.checksum(folder / "0.safetensors"))]

    for way, said in (
        (lost, "1.safetensors: no such file"),
        (changed, "its checksum is"),
        (broken, "SafetensorError"),
    ):
        monkeypatch.setattr(sync, "write", way)
        assert said in refused(right)
    monkeypatch.undo()
    assert gap(policy, url, 20) <= 1e-4  # still the old weights
    assert sender.send(22, right).failed == {}


@pytest.mark.slow
def test_servers_that_fail_are_reported_and_not_waited_for(served, policy):
    silent = subprocess.Popen(
        [sys.executable, "-S", "-c", "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); "
         "print(s.getsockname()[1], flush=True); time.sleep(600)"], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert silent.stdout is not None
    port = silent.stdout.readline().strip()
    urls = [served[0].url, f"http://127.0.0.1:{port}", "http://127.0.0.1:9"]
    sender = sync.WeightSync(urls, timeout=20)
    try:
        done = sender.send(40, policy.named_parameters())
    finally:
        sender.close()
        silent.kill()
        silent.wait()
    assert "ReadTimeout" in done.failed.pop(urls[1]) and "ConnectError" in done.failed.pop(urls[2])
    assert done.failed == {} and state(served[0].url)["version"] == 40


def test_what_a_killed_trainer_left_is_removed_and_what_is_in_use_is_not(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from r1lab.engines.sync import WeightSync
made = WeightSync([], folder=Path(sys.argv[1]))
(made.folder / "0.safetensors").touch()
print(made.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    left = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    assert os.listdir(left) == ["0.safetensors"]
    used = sync.WeightSync([], folder=tmp_path)
    assert not os.path.exists(left) and used.folder.is_dir()
    sync.WeightSync([], folder=tmp_path).close()
    assert list(tmp_path.iterdir()) == [used.folder]
    used.close()
    assert list(tmp_path.iterdir()) == []


def test_weights_are_cut_into_files_of_a_limited_size(tmp_path):
    whole = torch.arange(5.0).repeat_interleave(4)
    weights = [(str(i), whole[4 * i : 4 * i + 4]) for i in range(5)] + [("big", torch.ones(20))]
    files = sync.write(tmp_path, weights, limit=32)
    from safetensors.torch import load_file

    held = [load_file(path) for path, _ in files]
    assert [sorted(one) for one in held] == [["0", "1"], ["2", "3"], ["4"], ["big"]]
    assert all(sync.checksum(tmp_path / f"{i}.safetensors") == found for i, (_, found) in enumerate(files))
    assert torch.equal(held[1]["3"], weights[3][1])
