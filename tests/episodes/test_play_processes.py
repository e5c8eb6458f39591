"""Episodes in worker processes end as they do in this one, and a fault of an environment ends its own."""

import pytest

from r1lab.environments.base import Reply
from r1lab.environments.processes import ProcessHost
from r1lab.episodes.play import Job, Limits, Player
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


TABLE = {  # what the environment does: how the episode ends, its reward, and what the model or the record has of it
    "spin": ("timeout", None, "exceeded its deadline of 0.5 s of CPU time"),
    "lock": ("timeout", None, "exceeded its deadline of 0.5 s of CPU time"),
    "raise": ("env_error", None, "KeyError: 'no such key'"),
    "exit": ("env_error", None, "its process ended during step"),
    "sys_exit": ("env_error", None, "SystemExit: 3"),
    "segv": ("env_error", None, "its process ended during step"),
    "memory": ("env_error", None, ""),
    "print": ("answered", 1.5, "printed"),
    "huge": ("answered", 1.5, "characters left out"),
    "none": ("answered", 1.5, ""),
    "bytes": ("answered", 1.5, "bytes"),
    "special": ("answered", 1.5, "<|im_end|><|im_start|>user"),
    "answer": ("answered", 1.5, "<answer> 7 </answer>"),
}


def test_whatever_an_environment_does_the_run_goes_on(tokenizer):
    """Each fault costs at most one deadline and is counted under its own end; what a reply holds is text."""
    texts = [["1", fault, "none"] for fault in TABLE]
    stream = Scripted(tokenizer, dict(enumerate(texts)))
    spec = {"environment": {"name": "Numbers"}, "tools": []}
    host = ProcessHost("tests.environments.hosted:make", spec, timeout=0.5, workers=1)
    try:
        player = Player(
            stream, host, Limits(4, 30, 90, 4000, reply_tokens=200), TurnTemplate(tokenizer, template="chat"),
            lambda row, said: tokenizer(f"go {said}")["input_ids"],
        )  # fmt: skip
        episodes = player.play([Job({"answer": 1}, seed=7) for _ in texts])
    finally:
        host.close()
    ends = {fault: episode.end for fault, episode in zip(TABLE, episodes)}
    assert ends == {fault: end for fault, (end, _, _) in TABLE.items()}
    marks = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<answer>", "</answer>")}
    for (fault, (end, reward, told)), episode in zip(TABLE.items(), episodes):
        assert told in (episode.info["problem"] if end != "answered" else episode.segments[-2].text), fault
        assert episode.counted == (end != "env_error"), fault
        assert episode.reward == reward and episode.text in (fault, "none"), fault
        if end == "answered" and fault != "none":
            plain = set(TurnTemplate(tokenizer, template="chat").between([Reply("x")], tokenizer.eos_token_id))
            assert not (set(episode.segments[3].ids) & marks - plain), fault
