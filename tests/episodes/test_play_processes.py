"""Episodes in worker processes end as they do in this one, and a fault of an environment ends its own."""

import pytest

from r1lab.environments.processes import ProcessHost
from r1lab.episodes.play import Job, Player
from r1lab.episodes.template import TurnTemplate
from r1lab.models import loading
from tests.episodes.test_play import LIMITS, Scripted


@pytest.fixture(scope="module")
def tokenizer():
    return loading.load_tokenizer("embedded:tiny-qwen2")


def test_the_ends_of_episodes_whose_environments_fail(tokenizer):
    texts = [["1", "22", "3", "4"], ["1", "spin"], ["1", "exit"], ["none"], ["1", "raise"], ["1", "22", "3", "none"]]
    stream = Scripted(tokenizer, dict(enumerate(texts)))
    spec = {"environment": {"name": "Numbers"}, "tools": []}
    host = ProcessHost("tests.environments.hosted:make", spec, timeout=0.5, workers=1)
    try:
        player = Player(
            stream, host, LIMITS, TurnTemplate(tokenizer, template="chat"),
            lambda row, said: tokenizer(f"go {said}")["input_ids"],
        )  # fmt: skip
        episodes = player.play([Job({"answer": 1}, seed=7) for _ in texts])
    finally:
        host.close()
    assert [e.end for e in episodes] == ["turns", "timeout", "env_error", "answered", "env_error", "answered"]
    assert [e.counted for e in episodes] == [True, True, False, True, False, True]
    assert [e.reward for e in episodes] == [7.0, None, None, 0.0, None, 5.5]
    assert "deadline of 0.5 s" in episodes[1].info["problem"]
