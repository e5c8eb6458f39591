"""What is done to rows: duplicates, contamination, length, pass rates, order."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1lab.data import countdown, knights_knaves, logic_rl, math
from r1lab.data.operations import (
    by_length,
    by_pass_rate,
    decontaminate,
    deduplicate,
    ordered,
    prompt_text,
    with_budgets,
)
from r1lab.errors import UserError

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")

TEXTS = st.lists(st.text("ab +*.?", min_size=1, max_size=6), max_size=12)


def rows_of(*prompts):
    return [{"prompt": prompt} for prompt in prompts]


def prompts(rows):
    return [row["prompt"] for row in rows]


@given(TEXTS)
def test_deduplicating_is_idempotent_and_keeps_first_ones_in_order(texts):
    rows = rows_of(*texts)
    once = deduplicate(rows)
    assert deduplicate(once) == once
    assert [row for row in rows if any(row is kept for kept in once)] == once
    loud = rows_of(*(f"  {text.upper()} " for text in texts))
    assert len(deduplicate(rows + loud)) == len(once)


def test_what_counts_as_the_same():
    assert len(deduplicate(rows_of("Is it 3.5?", "is it  3.5", "Is it 35?", "“Is it 3.5?”"))) == 2
    assert len(deduplicate(rows_of("What is 2+2?", "What is 2 * 2?", "What is 2 - 2?", "What is 2 + 2?"))) == 3
    assert len(deduplicate(rows_of("1 2", "12", "5!", "5", "f'(x)", "f(x)"))) == 6
    same = {"prompt": "?", "completion": "a"}
    assert len(deduplicate([same, {**same, "completion": "b"}, dict(same)])) == 2
    chat = [{"role": "user", "content": "2+2?"}]
    assert len(deduplicate(rows_of(chat, "2 + 2?"))) == 1


def jaccard(a, b):
    a, b = ({tuple(t.split()[i : i + 5]) for i in range(len(t.split()) - 4)} for t in (a, b))
    return len(a & b) / len(a | b)


@given(st.integers(0, 10**6), st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]))
def test_near_duplicates_are_those_of_plain_comparison(seed, near):
    rng = random.Random(seed)
    texts = []
    for _ in range(12):
        words = rng.choice(texts).split() if texts and rng.random() < 0.7 else rng.choices("abcdefgh", k=14)
        words[rng.randrange(14)] = rng.choice("abcdefgh")
        texts.append(" ".join(words))
    texts = list(dict.fromkeys(texts))
    kept = []
    for text in texts:
        if all(jaccard(text, other) < near for other in kept):
            kept.append(text)
    assert prompts(deduplicate(rows_of(*texts), near=near)) == kept


def test_near_is_checked():
    with pytest.raises(UserError, match="near: 0"):
        deduplicate([], near=0)


@given(st.integers(0, 10**6))
def test_a_leaked_prompt_is_found_whatever_stands_around_it(seed):
    rng = random.Random(seed)
    draw = lambda: " ".join(rng.choices([f"w{i}" for i in range(1000)], k=rng.randint(1, 30)))  # noqa: E731
    against = rows_of(*(draw() for _ in range(20)))
    leaks = rows_of(*(f"Hello,\n {row['prompt'].upper()}  thanks." for row in against))
    kept, report = decontaminate(leaks, against)
    assert not kept and len(report) == 20
    assert all(entry["ngram"] in " ".join(entry["matched"].split()) for entry in report)


def test_short_prompts_match_as_wholes_only():
    against = rows_of("What is 2 + 2?", "How many legs do 3 cats and 2 birds have together?")
    ours = rows_of("Tell me: what is 2 + 2?", "What is 2 + 2? and more", "what is 2 + 3?", "3 cats and 2", "cats")
    kept, report = decontaminate(ours, against)
    assert prompts(kept) == ["what is 2 + 3?"] and report[0]["ngram"] == "what is 2 + 2?"
    assert decontaminate([], against) == ([], []) and decontaminate(ours, []) == (ours, [])


def test_messages_are_compared_by_what_the_user_says():
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}]
    assert prompt_text({"prompt": chat}) == "What is 2 + 2?"
    kept, report = decontaminate(rows_of(chat), rows_of("what is 2 + 2?"))
    assert not kept and report == [{"prompt": chat, "matched": "what is 2 + 2?", "ngram": "what is 2 + 2?"}]


def test_set_phrases_of_puzzles_count_for_nothing():
    train, test = countdown(size=500), countdown(size=100, split="test")
    assert len(decontaminate(train, test, common=1.0)[0]) == 0
    assert len(decontaminate(train, test)[0]) > 490
    assert len(decontaminate(test, test)[0]) == 0
    train, test = knights_knaves(people=3, size=300), knights_knaves(people=3, size=100, split="test")
    assert len(decontaminate(train, test, n=30)[0]) > 290


@needs_data
def test_math_against_math500():
    train = math(path=str(DATA / "rllm_math" / "train_math.json"))
    test = math(path=str(DATA / "math500" / "test.jsonl"), split="test")
    kept, report = decontaminate(train, test)
    assert len(kept) + len(report) == 7470 and 500 < len(report) < 750
    assert all(entry["ngram"] in " ".join(entry["prompt"].lower().split()) for entry in report)
    assert len(decontaminate(train, test, n=30)[1]) < 20
    assert decontaminate(test, test)[0] == [] and len(decontaminate(train + test, test)[0]) == len(kept)


@needs_data
def test_logic_rl_train_against_its_test():
    folder = str(DATA / "logic_rl_kk" / "instruct")
    train, test = logic_rl(path=folder), logic_rl(path=folder, split="test")
    assert len(decontaminate(train, test, n=30)[0]) > 4480
    assert decontaminate(test, test, n=30)[0] == []


def test_by_length():
    rows = [{"prompt": "a b", "completion": "c"}, {"prompt": "a"}, {"prompt": "a b c d"}]
    count = lambda row: len(f"{row['prompt']} {row.get('completion', '')}".split())  # noqa: E731
    assert by_length(rows, count, max_tokens=3) == (rows[:2], 1)


def test_by_pass_rate():
    chat = [{"role": "user", "content": "c"}]
    samples = [{"prompt": p, "right": r} for p, r in (("a", True), ("a", False), ("b", False), (chat, True))]
    rows = rows_of("a", "b", chat, "never sampled")
    kept, unsampled = by_pass_rate(rows, samples)
    assert [row["pass_rate"] for row in kept] == [0.5, 0.0, 1.0] and unsampled == 1
    assert prompts(by_pass_rate(rows, samples, lowest=0.1, highest=0.9)[0]) == ["a"]
    assert "pass_rate" not in rows[0]
    with pytest.raises(UserError, match="samples without `right`"):
        by_pass_rate(rows, [{"prompt": "a"}])
    with pytest.raises(UserError, match="the lowest first"):
        by_pass_rate(rows, samples, lowest=0.9, highest=0.1)


@given(st.lists(st.tuples(st.integers(2, 12), st.floats(0, 1), st.text(max_size=5)), max_size=20))
def test_ordered_is_stable_and_easy_first(found):
    rows = [
        {"prompt": text, "task": f"knights_knaves/{people}ppl", "pass_rate": rate, "place": i}
        for i, (people, rate, text) in enumerate(found)
    ]
    keys = {
        "people": lambda row: int(row["task"].partition("/")[2].removesuffix("ppl")),
        "pass_rate": lambda row: -row["pass_rate"],
        "length": lambda row: len(row["prompt"]),
    }
    for by, key in keys.items():
        done = ordered(rows, by=by)
        assert [(key(row), row["place"]) for row in done] == sorted((key(row), row["place"]) for row in rows)


def test_ordered_needs_what_it_orders_by():
    rows = [{"prompt": "?", "task": "math/level3"}, {"prompt": "?", "task": "math"}]
    assert ordered(rows[:1], by="level") == rows[:1]
    for by, said in (
        ("level", "a row of task math does not have it"),
        ("people", "does not have it"),
        ("pass_rate", "no pass rate"),
    ):
        with pytest.raises(UserError, match=said):
            ordered(rows, by=by)
    with pytest.raises(UserError, match="'size' is not people, level, pass_rate, length"):
        ordered(rows, by="size")


def test_budgets_are_in_the_prompt_and_in_a_column_and_depend_on_the_prompt_alone():
    rows = [{"prompt": f"{i} + {i}?"} for i in range(50)]
    made = with_budgets(rows, lowest=10, highest=20, seed=0)
    assert {row["budget"] for row in made} == set(range(10, 21))
    assert made[3]["prompt"] == f"3 + 3? Think for {made[3]['budget']} tokens."
    assert with_budgets(rows[3:4], lowest=10, highest=20, seed=0) == made[3:4]
    assert with_budgets(rows, lowest=10, highest=20, seed=1) != made
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    (row,) = with_budgets([{"prompt": said}], lowest=5, mode="at_most", seed=0)
    assert row["prompt"] == [said[0], {"role": "user", "content": "2+2? Think for maximum 5 tokens."}]
    assert row["question"] == said


@pytest.mark.parametrize("given", [{"lowest": 5, "highest": 4}, {"lowest": 5, "text": "Be brief."}])
def test_budgets_that_make_no_sense_are_refused(given):
    with pytest.raises(UserError, match="^data: budget: "):
        with_budgets([{"prompt": "?"}], **given, seed=0)
