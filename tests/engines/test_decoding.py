"""Decoding token by token: the same completions as `generate`, and given tokens read in place of sampled ones."""

import pytest
import torch

from r1lab.engines import Sampling
from r1lab.engines.decoding import limited
from r1lab.engines.transformers import TransformersEngine
from r1lab.models import loading

GREEDY = Sampling(temperature=0, logprobs=True)


@pytest.fixture(scope="module")
def engine(random_model):
    return TransformersEngine(
        loading.load_model(random_model, dtype="float32"), loading.load_tokenizer(random_model), batch_size=4
    )


PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [14], [15, 16], [17, 18, 19, 20]]


def finished(stream) -> dict:
    found = {}
    while stream.running:
        found |= dict(stream.step())
    return found


def logprobs(engine, ids: list[int], temperature=1.0) -> torch.Tensor:
    """Of each token after the first, by one pass."""
    with torch.inference_mode():
        logits = engine.model(torch.tensor([ids])).logits[0, :-1].float() / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_greedy_completions_are_those_of_generate(engine):
    stream = engine.open(GREEDY)
    for key, ids in enumerate(PROMPTS):
        stream.add(key, ids, 12)
    found = finished(stream)
    ends = {engine.tokenizer.eos_token_id}
    for key, ids in enumerate(PROMPTS):
        out = engine.model.generate(
            torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=list(ends), pad_token_id=0
        )
        assert found[key].token_ids == out[0, len(ids) :].tolist()
        assert found[key].truncated == (found[key].token_ids[-1] not in ends)


def test_a_completion_that_is_continued_is_one_sequence(engine):
    """With replies of different lengths: what is sampled has the log-probabilities of one pass over everything."""
    stream = engine.open(Sampling(temperature=0.8, logprobs=True))
    whole, sampled = {}, {key: [] for key in range(4)}
    for key in range(4):
        whole[key] = list(PROMPTS[key])
        stream.add(key, whole[key], 5, seed=key)
    turns = dict.fromkeys(range(4), 0)
    while stream.running:
        for key, completion in stream.step():
            at = len(whole[key])
            whole[key] += completion.token_ids
            sampled[key].append((at, completion.logprobs))
            turns[key] += 1
            if turns[key] < 3 + key % 2:
                whole[key] += [30 + key] * (1 + 7 * (key % 3))
                stream.add(key, whole[key], 5, seed=100 + key)
    for key, parts in sampled.items():
        again = logprobs(engine, whole[key], 0.8)
        assert len(parts) == 3 + key % 2
        for at, given in parts:
            assert torch.allclose(again[at - 1 : at - 1 + len(given)], torch.tensor(given), atol=1e-4)


def test_a_stop_token_ends_a_completion(engine):
    plain = engine.open(GREEDY)
    plain.add(0, PROMPTS[0], 12)
    whole = finished(plain)[0].token_ids
    stop = whole[3]
    stream = engine.open(GREEDY, [stop])
    stream.add(0, PROMPTS[0], 12)
    ended = finished(stream)[0]
    assert ended.token_ids == whole[: whole.index(stop) + 1] and not ended.truncated


def test_a_seed_gives_a_completion_whatever_else_is_generated(engine):
    def sampled(keys):
        stream = engine.open(Sampling())
        for key in keys:
            stream.add(key, PROMPTS[key], 10, seed=key)
        return finished(stream)

    alone, together = sampled([2]), sampled(range(5))
    assert alone[2].token_ids == together[2].token_ids


def test_sampling_can_be_limited():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    assert limited(logits, 0, 1.0).tolist() == logits.tolist()
    assert limited(logits, 3, 1.0).isinf().tolist() == [[False, False, False, True]]
    assert limited(logits, 0, 0.5).isinf().tolist() == [[False, True, True, True]]
    assert limited(logits, 0, 0.7).isinf().tolist() == [[False, False, True, True]]
