"""Reflection words: whole words in any case, quickly, and by step of a run."""

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.evaluation.reflection import LOGIC_RL_WORDS, R1_WORDS, WORDS, counts, per_completion, words_by_step
from tests.work import calls


def slowly(text):
    """The same by one expression that takes the longest word at each place."""
    every = re.compile(r"\b(?:" + "|".join(sorted(map(re.escape, WORDS), key=len, reverse=True)) + r")\b")
    found = every.findall(text.lower().replace("’", "'"))
    return {word: found.count(word) for word in WORDS}


def test_the_published_lists():
    assert len(R1_WORDS) == 10 and {"wait", "mistake", "verify"} <= set(R1_WORDS)
    assert {"re-evaluate", "recheck", "yet"} <= set(LOGIC_RL_WORDS)
    assert len(set(WORDS)) == len(WORDS) == len(set(R1_WORDS) | set(LOGIC_RL_WORDS))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Wait, wait. WAIT! Waiting awaits", {"wait": 3}),
        ("re-evaluate, evaluate, re-evaluated, Re-Evaluate", {"re-evaluate": 2, "evaluate": 1}),
        ("recheck, check, double-check, checks", {"recheck": 1, "check": 2}),
        ("But butter—but rebut", {"but": 2}),
        ("Let's see; let’s see; lets", {"let's": 2}),
        ("yet\nyet", {"yet": 2}),
        ("", {}),
    ],
)
def test_whole_words(text, expected):
    assert {word: count for word, count in counts(text).items() if count} == expected


@given(st.lists(st.sampled_from([*WORDS, "Wait", "s", "re", "-", " ", ".", "_", "é", "’"]), max_size=40).map("".join))
def test_as_one_expression_counts_them(text):
    assert counts(text) == slowly(text)


def test_a_long_completion_is_searched_once_for_each_word():
    rng = random.Random(0)
    said = "if Zoey is a knight then Luke must be a knave , so what Ava says contradicts it . Assume he lies".split()
    texts = [" ".join(rng.choices([*said, *said, "Wait", "but", "check"], k=1800)) for _ in range(256)]
    assert calls(per_completion, texts) < 256 * 4 * len(WORDS)  # a search a word, however long the text
    means = per_completion(texts)
    assert means["wait"] == sum(text.count("Wait") for text in texts) / 256 > 10


def test_means_are_over_completions():
    assert per_completion(["wait wait", "Yet", "", ""])["wait"] == 0.5
    assert set(per_completion([""]).values()) == {0.0}
    with pytest.raises(ValueError, match="no completions"):
        per_completion([])


def test_by_step_reads_all_ranks_in_the_order_of_steps(tmp_path):
    def write(name, *samples):
        records = [{"completion": text, "right": right, **more} for text, right, more in samples]
        (tmp_path / "samples").mkdir(exist_ok=True)
        (tmp_path / "samples" / name).write_text("".join(json.dumps(record) + "\n" for record in records))

    write("step_000010.jsonl", ("Wait, no.", True, {}))
    write("step_000002.jsonl", ("but a b", True, {"tokens": 3}), ("wait", False, {"tokens": 1}))
    write("step_000002.rank1.jsonl", ("a b c d e", True, {"tokens": 9}))
    write("failed.jsonl", ("wait", True, {}))
    first, second = words_by_step(tmp_path)
    assert (first["step"], first["completions"], second["step"]) == (2, 3, 10)
    assert first["words"]["but"] == first["words"]["wait"] == pytest.approx(1 / 3)
    assert first["right"] == {"completions": 2, "characters": 8.0, "words": 4.0, "tokens": 6.0}
    assert first["wrong"] == {"completions": 1, "characters": 4.0, "words": 1.0, "tokens": 1.0}
    assert second["wrong"] is None and "tokens" not in second["right"]
    with pytest.raises(UserError, match=r"no samples/step_\*\.jsonl in it"):
        words_by_step(tmp_path / "samples")
