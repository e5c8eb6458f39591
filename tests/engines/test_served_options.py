"""vLLM's own arguments in a recipe reach the servers that r1lab starts."""

import httpx
import pytest

from r1lab.engines import processes
from r1lab.engines.sync import WeightSync
from r1lab.models import loading
from r1lab.stages import serving
from tests.engines.test_adapters import recipe
from tests.engines.test_sync import gap, moved


@pytest.mark.slow
def test_a_server_that_speculates_samples_from_the_policy(tmp_path):
    pytest.importorskip("vllm")
    ngram = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
    options = {"enforce_eager": True, "max_num_seqs": 8, "speculative_config": ngram}
    made = recipe(model={"path": "embedded:tiny-qwen2", "dtype": "float32"}, rollout={"options": options})
    (server,) = started = serving.start(made, tmp_path, 512)
    sender = WeightSync([server.url], folder=tmp_path / "sync", timeout=600)
    try:
        processes.wait(started)
        policy = moved(loading.load_model("embedded:tiny-qwen2", dtype="float32").eval(), 1)
        assert sender.send(1, policy.named_parameters()).failed == {}
        assert gap(policy, server.url, 1) <= 1e-4
        figures = httpx.get(f"{server.url}/metrics", timeout=60).text
        assert "vllm:spec_decode_num_drafts_total" in figures  # which only a server that speculates has
    finally:
        sender.close()
        processes.stop(started)
