"""Episodes on vLLM: several turns, replies in between, and the log-probabilities of one pass over everything."""

import pytest
import torch

from r1lab.engines import Sampling
from r1lab.environments.base import Reply, Turn
from r1lab.environments.host import LocalHost
from r1lab.environments.toolset import Session
from r1lab.episodes.play import Job, Limits, Player
from r1lab.episodes.template import TurnTemplate
from r1lab.models import loading

pytest.importorskip("vllm")
MODEL = "embedded:tiny-qwen2"


class Talk:
    """Says something of another length after each turn."""

    def reset(self, *, n: int):
        self.n = n

    def step(self, turn: Turn):
        return Reply("and then? " * (1 + (self.n + turn.number) % 5), role="user")


@pytest.mark.slow
def test_episodes_on_vllm(tiny_model):
    from r1lab.engines.vllm import VLLMEngine, start

    tokenizer, model = loading.load_tokenizer(str(tiny_model)), loading.load_model(str(tiny_model), dtype="float32")
    llm = start(
        str(tiny_model), dtype="float32", max_model_length=512, options={"enforce_eager": True, "block_size": 32}
    )
    template = TurnTemplate(tokenizer, template="r1-zero")

    def played(seed=None):
        stream = VLLMEngine(llm).open(Sampling(logprobs=True), stop=[template.end])
        requests, added = {}, stream.add

        def add(key, ids, most, seed=None):
            requests.setdefault(key, []).append(list(ids))
            added(key, ids, most, seed)

        stream.add = add
        player = Player(
            stream, LocalHost(lambda: Session(Talk())), Limits(4, 24, 80, 500), template,
            lambda row, said: tokenizer(f"User: {'who ' * (1 + row['n'])}? Assistant:")["input_ids"],
        )  # fmt: skip
        jobs = [Job({"n": n}, seed=0, sampling_seed=None if seed is None else seed + n) for n in range(16)]
        return player.play(jobs), requests

    episodes, requests = played()
    gaps = []
    for key, episode in enumerate(episodes):
        ids, start_ = episode.prompt_ids + episode.completion_ids, len(episode.prompt_ids)
        with torch.inference_mode():
            again = model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
        again = again.gather(-1, torch.tensor(ids[1:])[:, None])[start_ - 1 :, 0]
        own = torch.tensor(episode.mask).bool()
        gaps.append((again[own] - torch.tensor(episode.logprobs)[own]).abs().max().item())
        for before, after, turn in zip(requests[key], requests[key][1:], episode.turns):
            assert after[: len(before) + len(turn.ids)] == before + turn.ids
        assert episode.end in ("turns", "length") and len(episode.turns) > 1
    assert max(gaps) < 1e-3
    once, again = played(seed=5)[0], played(seed=5)[0]
    assert (
        [e.completion_ids for e in once] == [e.completion_ids for e in again] != [e.completion_ids for e in episodes]
    )
