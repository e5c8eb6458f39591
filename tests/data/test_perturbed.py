"""Perturbed twins: another puzzle with one solution, or the same puzzle in other words."""

import ast
import json
import random
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.data import knights_knaves, logic_rl
from r1lab.data.knights_knaves import NAMES, generate, solve, split_of
from r1lab.data.perturbed import ROLES, UNCOMMON_NAMES, Kind, changed, knights_knaves_perturbed
from r1lab.errors import UserError
from r1lab.rewards import exact_match_reward, knights_knaves_reward
from r1lab.rewards.knights_knaves import gold_of

SHARED = Path(__file__).parents[3] / "shared" / "data"
LOGIC_RL, MEM_KK = SHARED / "logic_rl_kk" / "instruct", SHARED / "mem_kk_logic"
KINDS = get_args(Kind)
SETTINGS = {"people": [3, 5], "size": 40, "seed": 1}


def pairs(kind, **given):
    """Originals and their twins, matched by the prompt."""
    source = logic_rl if "path" in given else knights_knaves
    originals = {row["prompt"]: row for row in source(**given)}
    return [(originals[twin["original"]], twin) for twin in knights_knaves_perturbed(kind=kind, **given)]


def leaves(statement):
    return [statement] if isinstance(statement[1], int) else [x for part in statement[1:] for x in leaves(part)]


def joiner(statement):
    """A statement without what its leaves say."""
    return () if isinstance(statement[1], int) else (statement[0], *map(joiner, statement[1:]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_twin_has_the_answer_that_its_statements_have(kind):
    found = pairs(kind, **SETTINGS)
    assert len(found) == 40 or kind == "leaf" and 20 < len(found) < 40
    for original, twin in found:
        assert twin.keys() == original.keys() | {"original"}
        assert twin["prompt"] != original["prompt"] == twin["original"]
        assert twin["task"] == f"knights_knaves_{kind}/{len(twin['names'])}ppl"
        (solution,) = solve(ast.literal_eval(twin["statements"]))
        lines = [line.split() for line in twin["answer"].splitlines()]
        assert [line[1] for line in lines] == twin["names"]
        said = [line[-1] for line in lines]
        assert all((said[i] == said[j]) == (solution[i] == solution[j]) for i in range(3) for j in range(3))


@given(st.integers(2, 6), st.sampled_from(["statement", "leaf"]), st.integers(0, 10**6))
@settings(deadline=None)
def test_a_changed_puzzle_differs_in_one_place_and_has_one_other_solution(n, kind, seed):
    rng = random.Random(seed)
    ((puzzle, solution),) = generate(n, 1, split="train", rng=rng)
    other = changed(puzzle, kind, rng)
    if other is None:
        assert kind == "leaf"  # about 1 in 100 puzzles of five people has no such twin, and 1 in 300 of six
        return
    (solved,) = solve(other)
    assert solved != solution and len(other) == n
    ((before, after),) = [pair for pair in zip(puzzle, other) if pair[0] != pair[1]]
    if kind == "leaf":
        assert joiner(before) == joiner(after)
        assert sum(a != b for a, b in zip(leaves(before), leaves(after))) == 1
    else:
        assert len(set(leaves(after))) == len(leaves(after))  # as the generator has it


def test_a_puzzle_without_a_twin_and_one_that_is_none():
    puzzle = (("not", ("telling-truth", 1)), ("<=>", ("telling-truth", 1), ("lying", 0)))
    every = {changed(puzzle, "leaf", random.Random(seed)) for seed in range(20)}
    assert None not in every and len(every) > 1
    assert changed(puzzle, "leaf", random.Random(0), lambda other: False) is None
    with pytest.raises(ValueError, match="one solution, not 2"):
        changed((("telling-truth", 1), ("telling-truth", 0)), "leaf", random.Random(0))


@pytest.mark.parametrize("kind", ["statement", "leaf"])
def test_what_is_changed_is_in_the_text_and_no_training_has_seen_it(kind):
    for split in ("train", "test"):
        for original, twin in pairs(kind, split=split, **SETTINGS):
            assert split_of(ast.literal_eval(twin["statements"])) == "test"
            assert gold_of(twin["answer"]) != gold_of(original["answer"])
            assert twin["names"] == original["names"]
            before, after = original["prompt"].split(), twin["prompt"].split()
            same = sum((Counter(before) & Counter(after)).values())
            assert len(before) - same <= 10 and before[:20] == after[:20]  # of one statement, without its wording
    loose = knights_knaves_perturbed(kind="leaf", people=2, size=50, copies=5, held_out=False)
    strict = knights_knaves_perturbed(kind="leaf", people=2, size=50, copies=5)
    assert len(strict) < len(loose) and {split_of(ast.literal_eval(row["statements"])) for row in loose} > {"test"}


def test_the_logic_of_the_other_kinds_is_that_of_the_original():
    for kind in ("reorder_statement", "flip_role", "uncommon_name", "random_pair"):
        for original, twin in pairs(kind, **SETTINGS):
            assert twin["statements"] == original["statements"]
    for original, twin in pairs("reorder_statement", **SETTINGS):
        assert twin["answer"] == original["answer"] and twin["names"] == original["names"]
        assert sorted(twin["prompt"]) == sorted(original["prompt"])
    for original, twin in pairs("flip_role", **SETTINGS):
        assert "Knaves always tell the truth, and knights always lie." in twin["prompt"]
        flip = {"knight": "knave", "knave": "knight"}
        assert gold_of(twin["answer"]) == {name: flip[kind] for name, kind in gold_of(original["answer"]).items()}
        assert twin["prompt"].count("knight") == original["prompt"].count("knave")
    for original, twin in pairs("uncommon_name", **SETTINGS):
        assert list(gold_of(twin["answer"]).values()) == list(gold_of(original["answer"]).values())
        assert not any(name in twin["prompt"] for name in original["names"])
    for _, twin in pairs("random_pair", **SETTINGS):
        assert "knight" not in twin["prompt"].lower() and "knave" not in (twin["prompt"] + twin["answer"]).lower()
        assert sum(f"who is {knight} and who is {knave}?" in twin["prompt"] for knight, knave in ROLES) == 1
    assert len(set(UNCOMMON_NAMES)) == len(UNCOMMON_NAMES) >= 16 and not set(UNCOMMON_NAMES) & set(NAMES)


@pytest.mark.parametrize("kind", KINDS)
def test_gold_scores_full_marks_and_the_originals_gold_does_not(kind):
    found = pairs(kind, **SETTINGS)
    reward = exact_match_reward if kind == "random_pair" else knights_knaves_reward
    think = "<think> If one lied, the other would not. </think>"
    turns = [f"{think} <answer> {twin['answer']} </answer>" for _, twin in found]
    assert set(reward(turns, answer=[twin["answer"] for _, twin in found])) == {1.0}
    old = [f"{think} <answer> {original['answer']} </answer>" for original, _ in found]
    right = {1.0} if kind == "reorder_statement" else {0.0}
    assert set(reward(old, answer=[twin["answer"] for _, twin in found])) == right


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_twins_whatever_the_size(kind):
    few = knights_knaves_perturbed(kind=kind, people=4, size=10, seed=2)
    many = knights_knaves_perturbed(kind=kind, people=4, size=30, seed=2)
    assert few == knights_knaves_perturbed(kind=kind, people=4, size=10, seed=2)
    assert all(twin in many for twin in few)
    others = knights_knaves_perturbed(kind=kind, people=4, size=10, seed=3)
    assert not {row["original"] for row in few} & {row["original"] for row in others}


@pytest.mark.skipif(not LOGIC_RL.is_dir(), reason="needs ../shared/data/logic_rl_kk")
@pytest.mark.parametrize("kind", KINDS)
def test_twins_of_logic_rls_own_puzzles(kind):
    given = {"path": str(LOGIC_RL), "people": [3, 7], "size": 60, "seed": 5, "split": "test"}
    found = pairs(kind, **given)
    assert len(found) == 60 or kind == "leaf" and len(found) > 40
    if kind in ("statement", "leaf"):
        files = {row["statements"] for split in ("train", "test") for row in logic_rl(path=given["path"], split=split)}
        assert not files & {twin["statements"] for _, twin in found}


@pytest.mark.skipif(not LOGIC_RL.is_dir(), reason="needs ../shared/data/logic_rl_kk")
def test_all_of_logic_rls_puzzles_are_worded_as_they_are_read():
    for split, count in (("train", 4500), ("test", 500)):
        assert len(knights_knaves_perturbed(kind="flip_role", path=str(LOGIC_RL), split=split)) == count


@pytest.mark.skipif(not MEM_KK.is_dir(), reason="needs ../shared/data/mem_kk_logic")
@pytest.mark.parametrize("kind", ["statement", "leaf"])
@pytest.mark.parametrize("people", [2, 10])
def test_published_twins_are_of_the_same_kind_as_ours(kind, people):
    """The published ones, read from their files, have every property that ours have, and the same text around."""
    clean, published = (
        [json.loads(line) for line in next((MEM_KK / "test" / folder).glob(f"people{people}_*")).open()]
        for folder in ("clean", f"perturbed_{kind}")
    )
    ours = knights_knaves_perturbed(kind=kind, split="test", people=people, path=str(MEM_KK), held_out=False)
    ours = {twin["original"]: twin for twin in ours}
    by_index = {row["index"]: row for row in published}
    both = [(row, by_index[row["index"]], ours[row["quiz"]]) for row in clean if row["index"] in by_index]
    both = [row for row in both if row[0]["quiz"] in ours]
    assert len(both) >= 7
    for original, theirs, twin in both:
        assert theirs["names"] == twin["names"] == original["names"]
        old = ast.literal_eval(original["statements"])
        for row in (theirs, twin):
            new = ast.literal_eval(row["statements"])
            assert sum(a != b for a, b in zip(old, new)) == 1
            if kind == "leaf":
                ((a, b),) = [pair for pair in zip(old, new) if pair[0] != pair[1]]
                assert joiner(a) == joiner(b) and sum(x != y for x, y in zip(leaves(a), leaves(b))) == 1
            (solution,) = solve(new)
            assert solution != tuple(original["solution"])
        answer = gold_of(twin["answer"])
        assert answer.keys() == gold_of(theirs["solution_text_format"]).keys()
        start, end = twin["prompt"].index(" inhabitants: "), len(twin["prompt"]) - 40
        assert twin["prompt"][:start] == theirs["quiz"][:start] and theirs["quiz"].endswith(twin["prompt"][end:])


@pytest.mark.skipif(not MEM_KK.is_dir(), reason="needs ../shared/data/mem_kk_logic")
def test_the_originals_of_mem_kk_logic_from_its_folder_or_a_file():
    twins = knights_knaves_perturbed(kind="reorder_statement", split="train", path=str(MEM_KK))
    assert len(twins) == 40 and {len(twin["names"]) for twin in twins} == {2, 10}
    file = MEM_KK / "test" / "clean" / "people10_num10.jsonl"
    assert len(knights_knaves_perturbed(kind="statement", path=str(file))) == 10
    with pytest.raises(UserError, match="no puzzles of 3 people"):
        knights_knaves_perturbed(kind="leaf", people=3, path=str(file))


def test_wrong_parameters_and_files(tmp_path):
    with pytest.raises(UserError, match="kind: 'twin' is not one of statement, leaf, reorder_statement"):
        knights_knaves_perturbed(kind="twin")
    with pytest.raises(UserError, match="no such folder"):
        knights_knaves_perturbed(path=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nothing.jsonl: no such file"):
        knights_knaves_perturbed(path=str(tmp_path / "nothing.jsonl"))
    file = tmp_path / "mine.jsonl"
    file.write_text('{"quiz": "Who?"}\n')
    with pytest.raises(UserError, match="mine.jsonl:1: not a puzzle of mem-kk-logic: KeyError: 'solution_"):
        knights_knaves_perturbed(path=str(file))
    row = {"quiz": "Who?", "solution_text_format": "(1) A is a knight", "names": ["A"], "statements": "()"}
    file.write_text(json.dumps(row))
    with pytest.raises(UserError, match="a puzzle is not worded as Logic-RL's are: Who?"):
        knights_knaves_perturbed(kind="flip_role", path=str(file))
