"""Mixtures: shares, parts that have too few, and settings of their own."""

import json
import logging
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.data import arithmetic, mix
from r1lab.data.mix import _shares
from r1lab.errors import UserError


def heads(rows):
    return dict(Counter(row["task"].partition("/")[0] for row in rows))


def jsonl(path, count, task="few"):
    path.write_text("".join(json.dumps({"prompt": f"{i}?", "task": task}) + "\n" for i in range(count)))
    return str(path)


def test_rows_in_proportion_and_shuffled():
    parts = [{"builder": "arithmetic", "weight": 2, "digits": 3}, {"builder": "countdown", "weight": 1.0}]
    rows = mix(parts=parts, size=60)
    assert heads(rows) == {"arithmetic": 40, "countdown": 20}
    assert rows == mix(parts=parts, size=60) and rows != mix(parts=parts, size=60, seed=1)
    assert heads(rows[:20]) != {"arithmetic": 20}


def test_a_part_that_has_too_few_gives_all_and_the_others_fill_up(tmp_path, caplog):
    parts = [
        {"path": jsonl(tmp_path / "a.jsonl", 5)},
        {"builder": "arithmetic"},
        {"builder": "countdown", "weight": 2},
    ]
    with caplog.at_level(logging.WARNING):
        rows = mix(parts=parts, size=80)
    assert heads(rows) == {"few": 5, "arithmetic": 25, "countdown": 50}
    assert "mix: parts[0]: rows has only 5 of 20 rows" in caplog.text
    few = [{"path": jsonl(tmp_path / "a.jsonl", 5)}, {"path": jsonl(tmp_path / "b.jsonl", 3, "fewer")}]
    assert heads(mix(parts=few, size=80)) == {"few": 5, "fewer": 3}


def test_all_rows_of_all_parts_without_a_size(tmp_path):
    parts = [{"path": jsonl(tmp_path / "a.jsonl", 5), "weight": 9}, {"builder": "arithmetic", "size": 7}]
    assert heads(mix(parts=parts)) == {"few": 5, "arithmetic": 7}


def test_a_parts_own_split_seed_and_size_win():
    own = {"builder": "arithmetic", "split": "test", "seed": 5, "size": 10}
    rows = mix(parts=[own, {"builder": "countdown"}], size=40)
    assert heads(rows) == {"arithmetic": 10, "countdown": 30}
    ours = [row for row in rows if row["task"].startswith("arithmetic")]
    theirs = arithmetic(split="test", seed=5, size=10)
    assert sorted(map(str, ours)) == sorted(map(str, theirs))


def test_a_builder_that_takes_no_size_or_seed(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def build(*, count=9):\n    return [{'prompt': str(i), 'task': 'mine'} for i in range(count)]\n")
    parts = [{"builder": f"{file}:build"}, {"builder": "arithmetic"}]
    assert heads(mix(parts=parts, size=10)) == {"mine": 5, "arithmetic": 5}
    assert heads(mix(parts=[{"builder": f"{file}:build", "count": 3}])) == {"mine": 3}


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(0, 1000))
def test_shares_add_up_and_are_near_to_the_weights(weights, size):
    shares = _shares(dict(enumerate(weights)), size)
    assert sum(shares.values()) == size
    for i, weight in enumerate(weights):
        assert abs(shares[i] - size * weight / sum(weights)) <= 1.001


def test_bad_parts():
    with pytest.raises(UserError, match="mix: parts: none"):
        mix(parts=[])
    with pytest.raises(UserError, match="not all of them 0"):
        mix(parts=[{"builder": "arithmetic", "weight": 0}])
    with pytest.raises(UserError, match="weight: .'3'.: should be numbers"):
        mix(parts=[{"builder": "arithmetic", "weight": "3"}])
    with pytest.raises(UserError, match="aritmetic: no such builder"):
        mix(parts=[{"builder": "aritmetic"}], size=4)
