"""Episodes on rollout servers: tokens in and out, other servers for other turns, and the version of each token."""

import pytest

from r1lab.engines import EpisodeEngine, Sampling
from r1lab.engines.fleet import Fleet, NoServer
from r1lab.environments.base import Reply, Turn
from r1lab.environments.host import LocalHost
from r1lab.environments.toolset import Session
from r1lab.episodes.background import Background
from r1lab.episodes.play import Job, Limits, Player
from r1lab.episodes.template import TurnTemplate
from r1lab.models import loading
from tests.engines.fake_vllm import LOGPROB, FakeVLLM

pytest.importorskip("vllm")


class Talk:
    """Calls `heard` at each turn."""

    heard = staticmethod(lambda turn: None)

    def reset(self, *, n: int):
        self.n = n

    def step(self, turn: Turn):
        Talk.heard(turn)
        return Reply("and then? " * (1 + self.n % 3), role="user") if turn.number < 3 else None


@pytest.fixture(scope="module")
def tokenizer():
    return loading.load_tokenizer("embedded:tiny-qwen2")


@pytest.fixture
def fakes():
    made = [FakeVLLM(), FakeVLLM()]
    for fake in made:
        fake.version = 1
    yield made
    for fake in made:
        fake.close()


@pytest.fixture
def player(fakes, tokenizer, monkeypatch):
    from r1lab.engines.served import FleetEngine

    monkeypatch.setattr(Talk, "heard", staticmethod(lambda turn: None))
    fleet = Fleet([fake.url for fake in fakes], timeout=30)
    fleet.synced(1)
    engine, template = FleetEngine(fleet, tokenizer, max_length=400), TurnTemplate(tokenizer, template="r1-zero")
    assert isinstance(engine, EpisodeEngine) and engine.context == 400
    yield Player(
        engine.open(Sampling(temperature=0.7, logprobs=True), [template.end]), LocalHost(lambda: Session(Talk())),
        Limits(4, 12, 40, 400), template, lambda row, said: [7] * (1 + row["n"]),
    )  # fmt: skip
    fleet.close()


JOBS = [Job({"n": n}, seed=0, sampling_seed=n) for n in range(12)]


def test_each_turn_continues_the_tokens_so_far_on_any_server(player, fakes):
    episodes = player.play(JOBS)
    asked = {tuple(body["prompt"]): (body, fake) for fake in fakes for body in fake.requests}
    servers = set()
    for n, episode in enumerate(episodes):
        assert episode.prompt_ids == [7] * (1 + n) and len(episode.turns) > 1
        ids, of_episode = list(episode.prompt_ids), set()
        for segment in episode.trained:
            if segment.own:
                body, fake = asked[tuple(ids)]
                of_episode.add(fakes.index(fake))
                assert body["temperature"] == 0.7 and body["max_tokens"] <= 12 and body["n"] == 1
                assert segment.versions == [1] * len(segment.ids)
            ids += segment.ids
        servers |= {frozenset(of_episode)}
        own = [value for value, mask in zip(episode.logprobs, episode.mask) if mask]
        assert own == [LOGPROB] * episode.own_tokens and episode.own_tokens <= 40
        assert episode.versions == [1 if mask else None for mask in episode.mask]
    assert frozenset({0, 1}) in servers  # an episode whose turns went to both
    assert [one.completion_ids for one in player.play(JOBS)] == [one.completion_ids for one in episodes]


def test_a_sync_between_turns_is_seen_in_the_versions(player, fakes, monkeypatch):
    def synced(turn: Turn) -> None:
        if turn.number == 1 and fakes[0].version == 1:
            with player.turns.engine.fleet.paused():
                for fake in fakes:
                    fake.version = 2
                player.turns.engine.fleet.synced(2)

    monkeypatch.setattr(Talk, "heard", staticmethod(synced))
    (episode,) = player.play([Job({"n": 5}, seed=0, sampling_seed=1)])
    assert [set(turn.versions) for turn in episode.turns][:2] == [{1}, {2}]
    found = [version for version in episode.versions if version is not None]
    assert found == sorted(found) and len(found) == episode.own_tokens


def test_groups_are_played_in_the_background_each_until_its_last_episode(player, fakes):
    background = Background(player)
    player.window = 5
    futures = [background.submit(JOBS[:4]), background.submit(JOBS[4:])]
    found = [future.result(60) for future in futures]
    assert [len(group) for group in found] == [4, 8]
    assert [len(one.prompt_ids) for group in found for one in group] == list(range(1, 13))
    assert background.submit(JOBS[:2]).result(60)[0].completion_ids == found[0][0].completion_ids


def test_an_error_in_the_background_ends_all_groups_also_later_ones(player, fakes):
    background = Background(player)
    for fake in fakes:
        fake.version = 9
    futures = [background.submit(JOBS[:4]), background.submit(JOBS[4:])]
    assert all(future.exception(60) for future in futures)
    for future in [*futures, background.submit(JOBS)]:
        with pytest.raises(NoServer, match="its weights have the version 9 in place of 1"):
            future.result(60)
