"""The puzzle generator: unique solutions, disjoint splits, exact wording, worked solutions that end right."""

import ast
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.data import knights_knaves
from r1lab.data.kk_solutions import attempt, claim, deduction, evaluation, holds
from r1lab.data.knights_knaves import answer_text, canonical, complete, generate, quiz, solve, split_of
from r1lab.errors import UserError

LOGIC_RL = Path(__file__).parents[3] / "shared" / "data" / "logic_rl_kk" / "instruct"


def brute_force(statements):
    """Solutions by trying every world, without bit masks."""
    worlds = itertools.product([False, True], repeat=len(statements))
    return sorted(w for w in worlds if all(holds(s, w) == w[i] for i, s in enumerate(statements)))


def leaf(n):
    return st.tuples(st.sampled_from(["telling-truth", "lying"]), st.integers(0, n - 1))


def statement(n):
    negated = st.tuples(st.just("not"), leaf(n))
    joined = st.tuples(st.sampled_from(["and", "or", "->", "<=>"]), leaf(n), leaf(n))
    return st.one_of(leaf(n), negated, joined)


puzzles = st.integers(2, 6).flatmap(lambda n: st.tuples(*[statement(n)] * n))


@given(puzzles)
def test_solve_finds_what_trying_every_world_finds(statements):
    assert solve(statements) == brute_force(statements)


def renamed(statements, order):
    """The same puzzle with person `order[i]` in place `i`."""
    place = {person: i for i, person in enumerate(order)}

    def move(s):
        return (s[0], place[s[1]]) if isinstance(s[1], int) else (s[0], *(move(part) for part in s[1:]))

    return tuple(move(statements[person]) for person in order)


@given(puzzles, st.randoms(use_true_random=False))
def test_canonical_form_and_split_ignore_the_names_and_the_order_of_people(statements, rng):
    order = list(range(len(statements)))
    rng.shuffle(order)
    other = renamed(statements, order)
    assert canonical(other) == canonical(statements)
    assert split_of(other) == split_of(statements)


@settings(deadline=None)
@given(st.integers(2, 4).flatmap(lambda n: st.tuples(st.tuples(*[statement(n)] * n), st.tuples(*[statement(n)] * n))))
def test_equal_canonical_forms_are_renamings(pair):
    a, b = pair
    flat = [tuple(_meaning(s) for s in renamed(a, order)) for order in itertools.permutations(range(len(a)))]
    assert (canonical(a) == canonical(b)) == (tuple(_meaning(s) for s in b) in flat)


def _meaning(s):
    """A statement with `not` folded in and the order of symmetric joiners dropped."""
    kind = s[0]
    if kind == "not":
        return ("lying" if s[1][0] == "telling-truth" else "telling-truth", s[1][1])
    if kind in ("and", "or", "<=>"):
        return (kind, *sorted(s[1:]))
    return s


@pytest.mark.parametrize("n", [2, 3, 5, 7, 8, 10])
def test_every_puzzle_has_exactly_its_solution(n):
    for statements, solution in generate(n, 40, split="train", rng=random.Random(n)):
        assert solve(statements) == [solution]
        if n <= 8:
            assert brute_force(statements) == [solution]


def test_same_seed_same_puzzles_other_seed_others():
    one = knights_knaves(people=3, size=30, seed=1)
    assert one == knights_knaves(people=3, size=30, seed=1)
    assert not {r["prompt"] for r in one} & {r["prompt"] for r in knights_knaves(people=3, size=30, seed=2)}


def test_train_and_test_share_no_canonical_form():
    forms = {}
    for split in ("train", "test"):
        rows = knights_knaves(people=[2, 3, 4], size=240, seed=split == "test", split=split)
        forms[split] = {canonical(ast.literal_eval(row["statements"])) for row in rows}
    assert forms["train"] and forms["test"] and not forms["train"] & forms["test"]


def test_statements_come_back_only_as_often_as_copies_allow():
    rows = knights_knaves(people=2, size=120, copies=1)
    assert len({row["statements"] for row in rows}) == 120
    rows = knights_knaves(people=2, size=900, copies=3)
    assert len({row["prompt"] for row in rows}) == 900


def test_asking_for_more_than_the_grammar_has_is_a_clear_error():
    with pytest.raises(UserError, match=r"2 people, test: 5000 puzzles asked for, but the grammar gives only \d+"):
        knights_knaves(people=2, size=5000, split="test")


def test_people_as_shares():
    rows = knights_knaves(people={2: 1, 3: 3}, size=40)
    assert sum(row["task"] == "knights_knaves/2ppl" for row in rows) == 10 and len(rows) == 40
    with pytest.raises(UserError, match="positive"):
        knights_knaves(people={2: 0}, size=4)


@pytest.mark.parametrize("bad", [{"people": 1}, {"split": "valid"}, {"solution": "guess"}])
def test_bad_parameters(bad):
    with pytest.raises(UserError):
        knights_knaves(size=2, **bad)


@pytest.mark.parametrize("style", ["deduction", "evaluation"])
def test_a_worked_solution_ends_with_the_answer_that_the_last_assumptions_make(style):
    for row in knights_knaves(people=[2, 3, 4], size=60, solution=style):
        thinking = row["completion"].removeprefix("<think> ").partition(" </think>")[0]
        kinds = [line.rpartition(" is a ")[2] == "knight" for line in row["answer"].splitlines()]
        if style == "evaluation":
            world = thinking.splitlines()[-1].partition(":")[0]
            assert world == ", ".join(f"{n} {'knight' if k else 'knave'}" for n, k in zip(row["names"], kinds))
            assert "clash" not in thinking.splitlines()[-1]
        else:
            assumed = {}
            for line in thinking.splitlines():
                if line.startswith("Assume") and "contradiction" not in line:
                    name, _, kind = line.removeprefix("Assume ").rstrip(".").partition(" is a ")
                    assumed[name] = kind == "knight"
            assert [assumed[name] for name in row["names"]] == kinds


def test_attempts_with_mistakes_go_wrong_and_without_do_not():
    puzzles = list(generate(3, 60, split="train", rng=random.Random(0)))
    names = ["Zoey", "Luke", "Mia"]
    assert all(attempt(s, names)[1] == solution for s, solution in puzzles)
    rng = random.Random(1)
    wrong = sum(attempt(s, names, mistake=0.3, rng=rng)[1] != solution for s, solution in puzzles)
    assert wrong > 10


def test_many_people_have_many_names():
    names = knights_knaves(people=4, size=1)[0]["names"]
    assert len(set(names)) == 4


@pytest.mark.skipif(not LOGIC_RL.is_dir(), reason="needs ../shared/data/logic_rl_kk")
@pytest.mark.parametrize("n", [3, 4, 5, 6, 7])
def test_logic_rl_puzzles_are_solved_and_worded_alike(n):
    import pyarrow.parquet as pq

    for row in pq.read_table(LOGIC_RL / f"{n}ppl" / "test.parquet").to_pylist():
        statements, names = ast.literal_eval(row["statements"]), list(row["names"])
        assert solve(statements) == [tuple(row["solution"])]
        assert answer_text(row["solution"], names) == row["solution_text_format"]
        for statement in statements:
            assert claim(statement, names) in row["quiz"]
        ours = quiz(statements, names, random.Random(0))
        opening = row["quiz"].partition(" inhabitants: ")[0]
        assert ours.startswith(opening) and ours.endswith(row["quiz"][-39:])
        assert complete(deduction(statements, names), row["solution_text_format"]).startswith("<think> Assume")
        last = evaluation(statements, names).splitlines()[-1]
        assert "clash" not in last
