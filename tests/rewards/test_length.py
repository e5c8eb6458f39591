"""The length rewards: Kimi's within a group, the cosine, DAPO's soft punishment."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.rewards.length import cosine_length_reward, length_reward, soft_overlong_reward


def ids(*lengths):
    return [[7] * length for length in lengths]


def kimi(lengths, right, groups=None):
    groups = groups or [0] * len(lengths)
    return length_reward([""] * len(lengths), groups=groups, completion_ids=ids(*lengths), right=right)


def cosine(length, right, **given):
    return cosine_length_reward([""], completion_ids=ids(length), right=[right], **{"max_len": 100} | given)[0]


def overlong(length, **given):
    given = {"max_completion_length": 100, "cache": 20} | given
    return soft_overlong_reward([""], completion_ids=ids(length), **given)[0]


def test_kimi_right_ones_from_a_half_to_minus_a_half():
    assert kimi([10, 15, 20], [True] * 3) == [0.5, 0.0, -0.5]
    assert [score.reason for score in kimi([10, 20], [True, False])] == ["right: 10", "wrong: 20"]


def test_kimi_wrong_ones_never_gain():
    assert kimi([10, 12, 15, 20], [False] * 4) == [0.0, 0.0, 0.0, -0.5]
    assert kimi([0, 10], [False, True]) == [0.0, -0.5]  # the empty completion does not pay


def test_kimi_all_equally_long():
    assert kimi([10, 10, 10], [True, False, True]) == [0.0] * 3
    assert kimi([10], [True]) == [0.0] and kimi([0], [False]) == [0.0] and kimi([], []) == []


def test_kimi_groups_are_apart():
    assert kimi([10, 100, 20, 200], [True] * 4, [0, 1, 0, 1]) == [0.5, 0.5, -0.5, -0.5]


ROWS = st.lists(st.tuples(st.integers(0, 60), st.booleans(), st.integers(0, 2)), max_size=12)


@settings(max_examples=200, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_kimi_any_group_in_any_order(rows, rng):
    def scores(rows):
        return kimi([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])

    before = dict(zip(rows, scores(rows)))
    assert all(-0.5 <= score <= 0.5 for score in before.values())
    shuffled = rng.sample(rows, len(rows))
    assert dict(zip(shuffled, scores(shuffled))) == before
    others = [*rows, (99, True, 9), (1, False, 9)]
    assert scores(others)[: len(rows)] == scores(rows)


@pytest.mark.parametrize(("right", "short", "middle", "long"), [(True, 1, 0.75, 0.5), (False, -1, -0.75, -0.5)])
def test_cosine(right, short, middle, long):
    assert cosine(0, right) == short and cosine(50, right) == pytest.approx(middle)
    for length in (100, 101, 150, 200, 300, 100_000):
        assert cosine(length, right) == long


def test_cosine_other_values():
    values = {"min_value_wrong": 0, "max_value_wrong": 0.25, "min_value_correct": 2, "max_value_correct": 4}
    assert [cosine(length, True, **values) for length in (0, 50, 100)] == pytest.approx([4, 3, 2])
    assert [cosine(length, False, **values) for length in (0, 100)] == [0, 0.25]
    assert cosine(50, True).reason == "right: 50" and cosine(50, False).reason == "wrong: 50"


def test_cosine_is_trls():
    from trl.rewards import get_cosine_scaled_reward

    lengths = [0, 1, 17, 50, 99, 100, 250] * 2
    right = [True] * 7 + [False] * 7
    turns = [[{"content": rf"\boxed{{{5 if good else 6}}}"}] for good in right]
    theirs = get_cosine_scaled_reward(max_len=100)(turns, ["$5$"] * 14, ids(*lengths))
    assert [cosine(length, good) for length, good in zip(lengths, right)] == pytest.approx(theirs)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=10), st.integers(1, 300))
def test_cosine_any_length(rows, max_len):
    lengths, right = [row[0] for row in rows], [row[1] for row in rows]
    scores = cosine_length_reward([""] * len(rows), completion_ids=ids(*lengths), right=right, max_len=max_len)
    assert all(0.5 <= score <= 1 if good else -1 <= score <= -0.5 for score, good in zip(scores, right))
    assert scores == [cosine(length, good, max_len=max_len) for length, good in rows]


def test_soft_overlong():
    for length in (0, 1, 40, 79, 80):
        assert overlong(length) == 0 and overlong(length).reason == "within"
    assert [overlong(length) for length in (81, 85, 90, 95, 99)] == [-0.05, -0.25, -0.5, -0.75, -0.95]
    for length in (100, 101, 150, 10_000):
        assert overlong(length) == -1 and overlong(length).reason == f"overlong: {length}"


def test_soft_overlong_without_cache():
    assert overlong(100, cache=0) == 0 and overlong(101, cache=0) == -1
    assert overlong(50, cache=100) == -0.5


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=10), st.integers(1, 200), st.data())
def test_soft_overlong_any_length(lengths, limit, data):
    given = {"max_completion_length": limit, "cache": data.draw(st.integers(0, limit))}
    scores = soft_overlong_reward([""] * len(lengths), completion_ids=ids(*lengths), **given)
    assert all(-1 <= score <= 0 for score in scores) and scores == [overlong(length, **given) for length in lengths]
    assert [scores[i] for i in sorted(range(len(lengths)), key=lengths.__getitem__)] == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        (cosine, {"max_len": None}, "cosine_length: max_len: is not set; type a number of tokens, `max_len: 1024`"),
        (cosine, {"max_len": 0}, "cosine_length: max_len: 0 is not a whole number of at least 1"),
        (cosine, {"max_len": [100]}, "cosine_length: max_len: "),
        (cosine, {"min_value_wrong": math.nan}, "cosine_length: the four values must be numbers"),
        (cosine, {"max_value_correct": "1"}, "cosine_length: the four values must be numbers"),
        (overlong, {"max_completion_length": None}, "soft_overlong: max_completion_length: is not set"),
        (overlong, {"cache": None}, "soft_overlong: cache: is not set"),
        (overlong, {"cache": -1}, "soft_overlong: cache: -1 is not a whole number of at least 0"),
        (overlong, {"cache": 101}, "soft_overlong: cache: 101 is more than max_completion_length"),
    ],
)
def test_settings(function, given, message):
    arguments = (50, True) if function is cosine else (50,)
    with pytest.raises(UserError, match=f"^rewards: {message}"):
        function(*arguments, **given)


def test_a_large_batch():
    rng = random.Random(0)
    lengths = [rng.randrange(2000) for _ in range(2000)]
    scores = kimi(lengths, [True] * 2000, [i // 8 for i in range(2000)])
    for start in range(0, 2000, 8):
        assert max(scores[start : start + 8]) == 0.5 and min(scores[start : start + 8]) == -0.5
