"""Rows for r1lab's own environments: seeded, and nothing of the test split is in the training split."""

import ast
import json

import pytest

from r1lab import lookup
from r1lab.data import desk, knights_knaves_ask, number_guess
from r1lab.data.knights_knaves import canonical, solve
from r1lab.errors import UserError

SAME = {
    "number_guess": lambda row: (row["low"], row["high"]),
    "desk": lambda row: (sorted(row["people"]), sorted(row["start"]), row["hops"]),
    "knights_knaves_ask": lambda row: canonical(ast.literal_eval(row["statements"])),
}


@pytest.mark.parametrize("name", lookup.names("environments"))
def test_the_same_seed_gives_the_same_rows_and_the_splits_are_disjoint(name):
    builder, of = lookup.function("data", name), SAME[name]
    train = builder(size=60, seed=1)
    assert train == builder(size=60, seed=1) and train[:20] == builder(size=20, seed=1)
    assert train != builder(size=60, seed=2)
    assert json.loads(json.dumps(train)) == train
    tested = {str(of(row)) for row in builder(split="test", size=40, seed=1)}
    assert len(tested) == 40 and not tested & {str(of(row)) for seed in (1, 2, 3) for row in builder(seed=seed)}


@pytest.mark.parametrize("name", lookup.names("environments"))
def test_rows_have_what_an_episode_starts_with(name):
    from r1lab.recipe.environments import columns

    row = lookup.function("data", name)(size=1)[0]
    assert set(columns(lookup.function("environments", name))) <= row.keys()
    assert row["answer"] is None and row["task"].startswith(f"{name}/")


def test_bounds_have_the_width_that_was_asked_for():
    rows = number_guess(size=40, numbers=[5, 9], highest=50)
    assert {row["high"] - row["low"] + 1 for row in rows} == {5, 9}
    assert all(1 <= row["low"] < row["high"] <= 50 for row in rows)


def test_questions_follow_friends_and_add_ages():
    rows = desk(size=40, hops=[0, 2], terms=[1, 2], people=4)
    assert {row["task"] for row in rows} == {"desk/0hops", "desk/2hops", "desk/0hops+", "desk/2hops+"}
    for row in rows:
        assert row["prompt"].count("the friend of ") == row["hops"] * len(row["start"])
        assert set(row["start"]) <= set(row["people"]) and len(set(row["people"])) == 4


def test_puzzles_have_several_worlds_that_questions_distinguish():
    for row in knights_knaves_ask(size=60, people=[2, 3, 4]):
        worlds = [list(world) for world in solve(ast.literal_eval(row["statements"]))]
        assert row["worlds"] == worlds and len(worlds) >= 2 and row["needed"] >= 1
        assert not any([not knight for knight in world] in worlds for world in worlds)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: number_guess(numbers=20, highest=10), "highest: 10: should be at least 20"),
        (lambda: number_guess(numbers=9, highest=12, size=50), "only"),
        (lambda: desk(people=1), "people: 1: should be at least 2"),
        (lambda: desk(terms=7), "people: 5: should be at least 7"),
        (lambda: knights_knaves_ask(people=1), "at least 2"),
    ],
)
def test_what_cannot_be_built_is_one_line(build, said):
    with pytest.raises(UserError, match=said):
        build()
