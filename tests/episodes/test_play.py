"""Episodes are played to each of their ends, their tokens are only appended, and no turn waits for another's."""

import math
import random
from collections import deque

import pytest
import torch

from r1lab.engines import Completion, Sampling
from r1lab.engines.transformers import TransformersEngine
from r1lab.environments.base import Reply, Turn
from r1lab.environments.host import LocalHost
from r1lab.environments.toolset import Session
from r1lab.episodes.play import Job, Limits, Player
from r1lab.episodes.record import counts
from r1lab.episodes.template import TurnTemplate
from r1lab.models import loading

LIMITS = Limits(turns=4, turn_tokens=30, own_tokens=90, all_tokens=400)


@pytest.fixture(scope="module")
def tokenizer():
    return loading.load_tokenizer("embedded:tiny-qwen2")


class Scripted:
    """A stream of given texts: for each episode one after another, with an end token."""

    waits = False

    def __init__(self, tokenizer, texts: dict[int, list[str]]):
        self.tokenizer, self.texts = tokenizer, {key: deque(lines) for key, lines in texts.items()}
        self.added: dict[int, list[tuple[list[int], int]]] = {}
        self.queue: deque[int] = deque()

    @property
    def running(self):
        return len(self.queue)

    def add(self, key, ids, max_tokens, seed=None):
        self.added.setdefault(key, []).append((list(ids), max_tokens))
        self.queue.append(key)

    def step(self):
        key = self.queue.popleft()
        text = self.texts[key].popleft()
        ids = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        most = self.added[key][-1][1]
        cut, ids = len(ids) > most, ids[:most]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return [(key, Completion(text, ids, cut, [-1.0] * len(ids)))]

    def close(self): ...


class Guess:
    """Says whether the number is higher or lower."""

    def reset(self, *, seed: int, answer: int):
        self.seed, self.answer, self.done = seed, answer, False
        return f"(seed {seed})" if answer == 0 else None

    def step(self, turn: Turn):
        if turn.text == "give up":
            return None
        if turn.text == "crash":
            raise RuntimeError("broken")
        try:
            said = int(turn.text)
        except ValueError:
            return Reply("A number, please.", role="user", error="not a number")
        self.done = said == self.answer
        return Reply("right" if self.done else "higher" if said < self.answer else "lower", role="user")

    def get_reward(self):
        return float(self.done)


def played(tokenizer, texts, answers, *, make=None, limits=LIMITS, **given):
    """The episodes, and the stream that played them."""
    stream = Scripted(tokenizer, dict(enumerate(texts)))
    host = LocalHost(make or (lambda: Session(Guess())))
    player = Player(
        stream, host, limits, TurnTemplate(tokenizer, template="chat"),
        lambda row, said: tokenizer(f"guess {said or ''}")["input_ids"], **given,
    )  # fmt: skip
    episodes = player.play([Job({"answer": answer}, seed=11) for answer in answers])
    assert not host.sessions
    return episodes, stream


def test_the_ends_of_an_episode(tokenizer):
    texts = [["1", "9", "5"], ["1", "2", "give up"], ["1", "2", "3", "4"], ["1", "crash"], ["0"]]
    episodes, stream = played(tokenizer, texts, [5, 5, 9, 5, 0])
    assert [e.end for e in episodes] == ["done", "answered", "turns", "env_error", "done"]
    assert [e.reward for e in episodes] == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert [e.counted for e in episodes] == [True, True, True, False, True]
    assert "broken" in episodes[3].info["problem"]
    assert [s.text for s in episodes[0].segments] == ["1", "higher", "9", "lower", "5", "right"]
    assert episodes[0].text == "5" and [e.cut for e in episodes] == [False, False, True, False, False]
    assert "seed 11" in tokenizer.decode(stream.added[4][0][0])


def test_tokens_are_only_appended_and_each_has_its_origin(tokenizer):
    episodes, stream = played(tokenizer, [["1", "nine", "5"], ["7", "5"]], [5, 5])
    for key, episode in enumerate(episodes):
        own = [s.ids for s in episode.turns]
        for (before, _), (after, _), sampled in zip(stream.added[key], stream.added[key][1:], own):
            assert after[: len(before) + len(sampled)] == before + sampled and len(after) > len(before) + len(sampled)
        assert stream.added[key][-1][0] + own[-1] == episode.prompt_ids + episode.completion_ids
        assert len(episode.mask) == len(episode.completion_ids) == len(episode.logprobs)
        assert sum(episode.mask) == episode.own_tokens == sum(map(len, own))
        assert [math.isnan(p) for p in episode.logprobs] == [m == 0 for m in episode.mask]
        assert episode.completion_ids[-1] == tokenizer.eos_token_id  # the last reply has no part in the row
    assert episodes[0].segments[3].error == "not a number"


@pytest.mark.slow
def test_ten_thousand_turns_are_only_appended(tokenizer):
    draw = random.Random(0)
    said = ["<think> é", "nine", "give", "ß </think>", "<|im_end|>", "7 8", "\n", "<tool_call>{", "日本", ""]
    texts = [[" ".join(draw.choices(said, k=draw.randint(0, 5))) for _ in range(4)] for _ in range(2500)]
    episodes, stream = played(tokenizer, texts, range(2500), limits=Limits(4, 60, 240, 1000))
    turns = 0
    for key, episode in enumerate(episodes):
        ids = list(episode.prompt_ids)
        requests = iter(stream.added[key])
        for segment in episode.segments:
            if segment.own:
                turns += 1
                assert next(requests)[0] == ids
            ids += segment.ids
    assert turns >= 10_000


def test_the_budget_is_that_of_the_own_tokens(tokenizer):
    long = "1" * 200
    limits = Limits(turns=9, turn_tokens=20, own_tokens=50, all_tokens=400)
    (episode,), stream = played(tokenizer, [[long] * 9], [5], limits=limits)
    assert episode.end == "length" and episode.own_tokens == 50
    assert [most for _, most in stream.added[0]] == [20, 20, 10]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    replied = [s.ids for s in episode.segments if not s.own and s.ids]
    assert all(ids[0] == end for ids in replied)  # a truncated turn is ended by force


def test_a_reply_that_leaves_no_room_ends_the_episode_before_it_is_appended(tokenizer):
    limits = Limits(turns=9, turn_tokens=20, own_tokens=50, all_tokens=20)
    (episode,), _ = played(tokenizer, [["1", "2", "3"]], [5], limits=limits)
    assert episode.end == "length" and len(episode.prompt_ids + episode.completion_ids) <= 20
    assert episode.segments[-1].text == "higher" and not episode.segments[-1].ids


def test_a_prompt_that_leaves_no_room_has_no_turn(tokenizer):
    (episode,), _ = played(tokenizer, [["1"]], [5], limits=Limits(4, 20, 50, 2))
    assert episode.end == "length" and episode.turns == [] and episode.completion_ids == [] and episode.text == ""


CALL = '<tool_call>{"name": "age", "arguments": {"person": "%s"}}</tool_call>'


def age(person: str) -> int:
    """
    The age of a person.

    Args:
        person: The name.
    """
    return {"Mia": 7}[person]


@pytest.mark.parametrize(
    ("policy", "ends"),
    [("tell", ["answered"] * 3), ("end", ["answered", "tool_error"]), ("skip", ["answered", "env_error"])],
)
def test_tools_are_called_until_a_turn_without_a_call(tokenizer, policy, ends):
    texts = [[CALL % "Mia", "She is 7."], [CALL % "Bob", "I do not know."], ["<tool_call>age(Mia)</tool_call>", "7"]]
    limits = Limits(4, 200, 500, 2000)
    made = lambda: Session(tools=[age])  # noqa: E731
    episodes, _ = played(tokenizer, texts, [0, 0, 0], make=made, limits=limits, on_error=policy)
    assert [e.end for e in episodes][: len(ends)] == ends and episodes[2].end == "answered"
    assert [s.text for s in episodes[0].segments][1:] == ["7", "She is 7."]
    assert episodes[0].segments[0].calls == [{"name": "age", "arguments": {"person": "Mia"}}]
    assert "KeyError" in episodes[1].segments[1].error
    assert "not valid JSON" in episodes[2].segments[0].error
    assert all(e.reward is None for e in episodes)


def test_an_episode_knows_that_there_were_tools(tokenizer):
    """Only then one without a call is worth a look; one whose tool does not exist is another kind."""
    texts = [["She is 7."], [CALL.replace("age", "ages") % "Mia", "I do not know."]]
    limits = Limits(4, 200, 500, 2000)
    made = lambda: Session(tools=[age])  # noqa: E731
    silent, invented = played(tokenizer, texts, [0, 0], make=made, limits=limits, tools=True)[0]
    assert silent.summary()["no_call"] and "no_call" not in invented.summary()
    assert counts(invented.summary()["turns"])["invented"] == 1
    assert "no_call" not in played(tokenizer, texts[:1], [0], make=made, limits=limits)[0][0].summary()


@pytest.mark.parametrize("window", [1, 2, 99])
def test_episodes_are_yielded_as_they_end(tokenizer, window):
    texts = [["1", "2", "5"], ["5"], ["4", "5"]]
    stream = Scripted(tokenizer, dict(enumerate(texts)))
    player = Player(
        stream, LocalHost(lambda: Session(Guess())), LIMITS, TurnTemplate(tokenizer, template="chat"),
        lambda row, said: [5], window=window,
    )  # fmt: skip
    order = [key for key, episode in player.stream(Job({"answer": 5}, seed=0) for _ in texts) if episode.reward == 1]
    assert order == {1: [0, 1, 2], 2: [1, 0, 2], 99: [1, 2, 0]}[window]


def test_a_caller_that_stops_early_ends_the_turns(tokenizer):
    class Closed(Scripted):
        closed = False

        def close(self):
            self.closed = True

    stream = Closed(tokenizer, {0: ["5"], 1: ["1", "5"]})
    player = Player(
        stream, LocalHost(lambda: Session(Guess())), LIMITS, TurnTemplate(tokenizer, template="chat"),
        lambda row, said: [5],
    )  # fmt: skip
    episodes = player.stream([Job({"answer": 5}, seed=0)] * 2)
    next(episodes)
    episodes.close()
    assert stream.closed


def test_episodes_of_a_real_engine_have_the_log_probabilities_of_one_pass(tokenizer, random_model):
    """10,000 turns would be the same loop: the tokens of a request are checked against those of the one before."""
    engine = TransformersEngine(loading.load_model(random_model, dtype="float32"), tokenizer, batch_size=8)
    stream = engine.open(Sampling(logprobs=True))
    player = Player(
        stream, LocalHost(lambda: Session(Guess())), Limits(4, 8, 30, 300), TurnTemplate(tokenizer, template="chat"),
        lambda row, said: tokenizer("guess a number" * (1 + row["answer"] % 3))["input_ids"],
    )  # fmt: skip
    jobs = [Job({"answer": n}, seed=0, sampling_seed=n) for n in range(12)]
    episodes = player.play(jobs)
    for episode in episodes:
        ids, start = episode.prompt_ids + episode.completion_ids, len(episode.prompt_ids)
        with torch.inference_mode():
            again = engine.model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        again = again.gather(-1, torch.tensor(ids[1:])[:, None])[start - 1 :, 0]
        own = torch.tensor(episode.mask).bool()
        assert torch.allclose(again[own], torch.tensor(episode.logprobs)[own], atol=1e-4)
    assert max(len(e.turns) for e in episodes) > 1
    assert [e.completion_ids for e in player.play(jobs)] == [e.completion_ids for e in episodes]  # seeded
