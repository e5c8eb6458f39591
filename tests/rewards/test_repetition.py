"""The repetition penalty: the share of n-grams said before."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.rewards.repetition import repetition_reward


def score(ids, **given):
    return repetition_reward([""], completion_ids=[ids], **given)[0]


@pytest.mark.parametrize(
    "ids",
    [[], [1], [1, 1], [1, 1, 1], [1, 2, 3], [1, 1, 2], [1, 2, 1, 2], list(range(1000)), [1, 2, 3, 1, 2], [5, 5, 5, 4]]
    + [[1, 2, 3, 2, 1, 3, 1, 2]],
)
def test_nothing_is_said_twice(ids):
    assert score(ids) == 0 and score(ids).reason == "no_repetition"


@pytest.mark.parametrize(
    ("ids", "value"),
    [
        ([1] * 4, -1 / 2),
        ([1] * 5, -2 / 3),
        ([1, 2, 3, 1, 2, 3], -1 / 4),
        ([1, 2] * 4, -4 / 6),
        ([1, 2, 3] * 100, -295 / 298),
        ([1] * 1002, -0.999),
        (list(range(10)) * 2, -8 / 18),
        ([9, *[1] * 5, 9], -2 / 5),
        ([1] * 4 + list(range(2, 100)), -1 / 100),
        ([1] * 100_000, -99_997 / 99_998),
    ],
)
def test_the_share_of_what_is_said_again(ids, value):
    assert score(ids) == pytest.approx(value)
    assert score(ids, max_penalty=-0.5) == pytest.approx(value / 2)
    assert score(ids, max_penalty=0) == 0


def test_the_size_of_an_n_gram():
    assert score([1, 2, 1, 3], ngram_size=1) == -0.25 and score([1, 2, 1, 3], ngram_size=2) == 0
    assert score([1] * 50, ngram_size=51) == 0 and score([1] * 5, ngram_size=2).reason == "repeated: 0.75"


def test_it_is_trls():
    from trl.rewards import get_repetition_penalty_reward

    rows = [[], [1, 2], [1, 2, 3] * 5, [4] * 9]
    assert repetition_reward([""] * 4, completion_ids=rows) == get_repetition_penalty_reward()(rows)


@pytest.mark.parametrize(
    "given",
    [{"ngram_size": 0}, {"ngram_size": 2.0}, {"ngram_size": True}, {"ngram_size": "3"}, {"max_penalty": 0.1}]
    + [{"max_penalty": float("nan")}, {"max_penalty": float("-inf")}, {"max_penalty": "-1"}],
)
def test_settings(given):
    (name,) = given
    with pytest.raises(UserError, match=f"^rewards: repetition: {name}: .* is not a "):
        score([], **given)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=30), max_size=6), st.integers(1, 5))
def test_any_tokens(rows, ngram_size):
    scores = repetition_reward([""] * len(rows), completion_ids=rows, ngram_size=ngram_size)
    assert all(-1 < value <= 0 for value in scores)
    assert scores == [score(ids, ngram_size=ngram_size) for ids in rows]


def test_a_long_completion_takes_no_time():
    started = time.process_time()
    score(list(range(500)) * 500)
    assert time.process_time() - started < 5
