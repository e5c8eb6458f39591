"""Episodes behind the interface of an engine: grouped by prompt, seeded by row, and skipped where they are done."""

from dataclasses import replace

import pytest

from r1lab.engines import Sampling, generate
from r1lab.engines.transformers import TransformersEngine
from r1lab.environments.base import Reply, Turn
from r1lab.environments.host import LocalHost
from r1lab.environments.toolset import Session
from r1lab.episodes.engine import Episodes, Setting
from r1lab.episodes.play import Limits
from r1lab.episodes.template import TurnTemplate
from r1lab.models import loading


class Secret:
    seeds: list = []

    def reset(self, *, seed: int, n: int):
        self.seeds.append((n, seed))

    def step(self, turn: Turn):
        return Reply("again", role="user") if turn.number < 3 else None


@pytest.fixture(scope="module")
def episodes(random_model):
    tokenizer = loading.load_tokenizer(random_model)
    engine = TransformersEngine(loading.load_model(random_model, dtype="float32"), tokenizer, batch_size=8)
    setting = Setting(
        LocalHost(lambda: Session(Secret())), Limits(4, 8, 40, 200), TurnTemplate(tokenizer, template="chat"),
        lambda row, said: [5, 6, 7][: 1 + row["n"] % 3],
    )  # fmt: skip
    return Episodes(engine, setting, [{"n": n} for n in range(6)])


def test_groups_of_episodes_are_completions(episodes):
    Secret.seeds = []
    groups = generate(episodes, ["p"] * 6, Sampling(n=3, max_tokens=40, seed=1, logprobs=True))
    assert [len(group) for group in groups] == [3] * 6
    for group in groups:
        for one in group:
            assert one.token_ids == one.episode.completion_ids and one.text == one.episode.text
            assert one.truncated == one.episode.cut and len(one.logprobs) == len(one.token_ids)
    seeds = {n: {seed for m, seed in Secret.seeds if m == n} for n in range(6)}
    assert all(len(found) == 1 for found in seeds.values()) and len(set(map(tuple, seeds.values()))) == 6
    assert len({tuple(one.token_ids) for one in groups[0]}) > 1  # the samples of a prompt differ


def test_what_is_done_is_skipped_and_changes_nothing_else(episodes):
    whole = dict(episodes.stream(["p"] * 6, Sampling(n=2, max_tokens=40, seed=1)))
    part = dict(episodes.stream(["p"] * 6, Sampling(n=2, max_tokens=40, seed=1), done={0, 2, 5}))
    assert set(part) == {1, 3, 4}
    assert all([c.token_ids for c in part[i]] == [c.token_ids for c in whole[i]] for i in part)


def test_an_episode_whose_environment_fails_is_played_once_more(episodes):
    class Fails:
        tried: dict = {}

        def reset(self, *, n: int):
            Fails.tried[n] = Fails.tried.get(n, 0) + 1
            if n == 2 or (n == 1 and Fails.tried[n] == 1):
                raise RuntimeError("no connection")

        def step(self, turn: Turn): ...

    played = Episodes(
        episodes.engine, replace(episodes.setting, host=LocalHost(lambda: Session(Fails()))), episodes.rows
    )
    ends = {i: group[0].episode.end for i, group in played.stream(["p"] * 3, Sampling(max_tokens=8, seed=1))}
    assert ends[0] != "env_error" and ends[1] != "env_error" and ends[2] == "env_error"
    assert Fails.tried == {0: 1, 1: 2, 2: 2}
