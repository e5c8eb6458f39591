"""Countdown, arithmetic and instructions: solvable, the same for a seed, and no puzzle in both splits."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.data import arithmetic, countdown, instructions
from r1lab.data.countdown import PROMPT
from r1lab.data.instructions_text import KINDS, topic_of
from r1lab.data.instructions_tiny import TINY, WORDS
from r1lab.errors import UserError
from r1lab.rewards import accuracy_reward, countdown_reward, exact_match_reward, format_reward, instruction_reward
from r1lab.rewards.constraints import KINDS as CONSTRAINTS

BUILDERS = {
    "countdown": lambda **given: countdown(solution=True, **given),
    "arithmetic": lambda **given: arithmetic(solution=True, terms=[2, 3], operations=["+", "-", "*"], **given),
    "instructions": lambda **given: instructions(solution=True, **given),
    "tiny instructions": lambda **given: instructions(solution=True, tiny=True, **given),
}


def canonical(name, row):
    if name == "countdown":
        return tuple(sorted(row["numbers"])), row["target"]
    if name == "arithmetic":
        expression = row["prompt"].removeprefix("What is ").rstrip("?")
        terms = expression.replace(" - ", " + -").split(" + ")
        return tuple(sorted("*".join(sorted(term.split(" * "))) for term in terms))
    topic = () if "tiny" in name else topic_of(row["prompt"])
    return topic, tuple(sorted(map(repr, row["constraints"])))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_seed_gives_its_rows_and_a_smaller_size_the_first_of_them(name):
    build = BUILDERS[name]
    rows = build(size=60, seed=3)
    assert rows == build(size=60, seed=3) and rows[:20] == build(size=20, seed=3)
    assert len({row["prompt"] for row in rows}) == 60
    assert not {row["prompt"] for row in rows} <= {row["prompt"] for row in build(size=60, seed=4)}


@pytest.mark.parametrize("name", BUILDERS)
def test_train_and_test_share_no_puzzle_whatever_the_seeds(name):
    build = BUILDERS[name]
    train = {canonical(name, row) for seed in range(4) for row in build(size=400, seed=seed)}
    test = {canonical(name, row) for seed in range(4) for row in build(size=100, seed=seed, split="test")}
    assert len(train) > 800 and len(test) > 100 and not train & test


@pytest.mark.parametrize("name", BUILDERS)
def test_bad_parameters(name):
    with pytest.raises(UserError, match="split: 'valid' is not train or test"):
        BUILDERS[name](split="valid")
    with pytest.raises(UserError, match="size: 0: should be at least 1"):
        BUILDERS[name](size=0)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(5, 99))
def test_every_countdown_puzzle_has_its_solution_by_all_its_numbers(seed, numbers, highest):
    rows = countdown(size=5, seed=seed, numbers=numbers, highest=highest, solution=True)
    turns = [row["completion"] for row in rows]
    have, targets = [row["numbers"] for row in rows], [row["target"] for row in rows]
    assert countdown_reward(turns, numbers=have, target=targets, use_all=True) == [1.0] * 5
    assert format_reward(turns) == [1.0] * 5
    for row in rows:
        assert row["prompt"] == PROMPT.format(numbers=row["numbers"], target=row["target"])
        assert len(row["numbers"]) == numbers and max(row["numbers"]) <= highest and 10 <= row["target"] <= 100


def test_countdown_counts_and_targets():
    rows = countdown(size=20, numbers=[3, 4], targets=[5, 9])
    assert [len(row["numbers"]) for row in rows] == [3, 4] * 10
    assert {row["task"] for row in rows} == {"countdown/3numbers", "countdown/4numbers"}
    assert all(5 <= row["target"] <= 9 for row in rows) and "completion" not in rows[0]
    with pytest.raises(UserError, match=r"train: 50 rows asked for, but only \d+ were found; raise highest"):
        countdown(size=50, numbers=2, highest=3)
    for wrong in ({"numbers": 1}, {"numbers": []}, {"targets": [9, 5]}, {"highest": 0}):
        with pytest.raises(UserError, match="countdown: "):
            countdown(size=1, **wrong)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 6))
def test_arithmetic_answers_are_those_of_python(seed, digits, terms):
    rows = arithmetic(size=5, seed=seed, digits=digits, terms=terms, operations=["+", "-", "*"], solution=True)
    for row in rows:
        tree = ast.parse(row["prompt"].removeprefix("What is ").rstrip("?"), mode="eval")
        assert row["answer"] == str(eval(compile(tree, "", "eval")))
        *steps, last = (
            row["completion"].partition("</think>")[0].removeprefix("<think> ").strip().rstrip(".").split(". ")
        )
        for step in (*steps, last):
            left, _, right = step.partition(" = ")
            assert eval(left) == int(right)
        assert last.endswith(f" = {row['answer']}")
    turns, gold = [row["completion"] for row in rows], [row["answer"] for row in rows]
    assert exact_match_reward(turns, answer=gold) == [1.0] * 5 == format_reward(turns)


def test_arithmetic_is_graded_as_mathematics_and_its_parameters_are_checked():
    rows = arithmetic(size=8, operations=["-"], solution=True)
    assert accuracy_reward([row["completion"] for row in rows], answer=[row["answer"] for row in rows]) == [1.0] * 8
    assert any(row["answer"].startswith("-") for row in rows)
    assert {row["task"] for row in arithmetic(size=6, terms=[2, 4])} == {"arithmetic/2terms", "arithmetic/4terms"}
    with pytest.raises(UserError, match=r"operations: \['/'\]: should be a list"):
        arithmetic(size=1, operations=["/"])
    with pytest.raises(UserError, match="raise digits or terms"):
        arithmetic(size=200, digits=1, operations=["+"])


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from(["train", "test"]))
def test_every_completion_follows_all_its_instructions(seed, tiny, split):
    rows = instructions(size=40, seed=seed, tiny=tiny, split=split, constraints=[1, 2, 3, 4], solution=True)
    turns = [row["completion"] for row in rows]
    assert instruction_reward(turns, constraints=[row["constraints"] for row in rows], mode="all") == [1.0] * 40
    assert format_reward(turns) == [1.0] * 40
    assert [len(row["constraints"]) for row in rows] == [1, 2, 3, 4] * 10


@pytest.mark.parametrize(("tiny", "kind"), [(False, kind) for kind in KINDS] + [(True, kind) for kind in TINY])
def test_each_kind_can_be_asked_for_alone_and_pays_only_who_follows(tiny, kind):
    rows = instructions(size=4, kinds=[kind], constraints=1, tiny=tiny, solution=True)
    assert all([constraint["kind"] for constraint in row["constraints"]] == [kind] for row in rows)
    asked = [row["constraints"] for row in rows]
    if kind not in ("forbidden_words", "no_commas", "script", "letter_count", "num_words"):
        other = "<think> Hm, that is hard. </think> <answer> well, I do not know what to say to that today </answer>"
        scores = instruction_reward([other] * 4, constraints=asked)
        assert min(scores) == 0.0, [score.reason for score in scores]


def test_all_kinds_of_constraint_are_there():
    assert set(KINDS) == set(CONSTRAINTS) and set(TINY) < set(CONSTRAINTS)
    asked = {constraint["kind"] for row in instructions(size=600) for constraint in row["constraints"]}
    assert asked == set(KINDS)


def test_tiny_requests_are_short_and_of_few_words():
    rows = instructions(size=2000, tiny=True, solution=True)
    assert max(len(row["prompt"].split()) for row in rows) < 25
    assert max(len(row["completion"].split()) for row in rows) <= 40
    used = {word.strip(".,") for row in rows for word in row["prompt"].split()} - set(WORDS)
    assert len(used) < 50, used


def test_instructions_as_columns_of_a_data_set():
    from datasets import Dataset

    rows = instructions(size=30, solution=True)
    back = Dataset.from_list(rows).to_list()  # which fills the gaps of unequal constraints with None
    turns = [row["completion"] for row in back]
    assert instruction_reward(turns, constraints=[row["constraints"] for row in back]) == [1.0] * 30


def test_instructions_parameters():
    with pytest.raises(UserError, match=r"kinds: num_word: no such kind \(did you mean `num_words`\?\)"):
        instructions(size=1, kinds=["num_word"])
    with pytest.raises(UserError, match="kinds: quoted: no such kind of tiny requests"):
        instructions(size=1, kinds=["quoted"], tiny=True)
    with pytest.raises(UserError, match="constraints: 3 of 2 kinds"):
        instructions(size=1, kinds=["quoted", "title"], constraints=3)
    with pytest.raises(UserError, match="only 0 were found; list more kinds"):
        instructions(size=1, kinds=["lower_case", "upper_case"], constraints=2)
