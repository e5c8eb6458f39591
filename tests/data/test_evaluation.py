"""SVAMP, OlympiadBench and MMLU: the sets as published, gold answers in full, and what is wrong with a file."""

import json
import logging
from collections import Counter
from pathlib import Path

import pytest

from r1lab.data import gpqa, humaneval, ifeval, livecodebench, mmlu, olympiadbench, svamp
from r1lab.errors import UserError
from r1lab.rewards import accuracy_reward, choice_reward

SETS = Path(__file__).parents[3] / "shared" / "data" / "math_eval"
needs_data = pytest.mark.skipif(not SETS.is_dir(), reason="needs ../shared/data/math_eval")


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_they_are_not_for_training():
    for builder in (svamp, olympiadbench, mmlu, humaneval, livecodebench, ifeval, gpqa):
        with pytest.raises(UserError, match="split: 'train': this is an evaluation set, with test only") as caught:
            builder(split="train")
        assert len(caught.value.problems) == 1


def test_what_the_hub_is_asked_for(monkeypatch):
    import datasets

    asked = []

    def load_dataset(*name, split):
        asked.append((*name, split))
        return datasets.Dataset.from_list([])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for builder in (svamp, olympiadbench, mmlu, humaneval, livecodebench, ifeval):
        assert builder() == []
    assert asked == [
        ("ChilleD/SVAMP", "test"),
        ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train"),
        ("cais/mmlu", "all", "test"),
        ("openai/openai_humaneval", "test"),
        ("lighteval/code_generation_lite", "v6", "test"),
        ("google/IFEval", "train"),
    ]


@needs_data
def test_svamp():
    rows = svamp(path=str(SETS / "svamp.jsonl"))
    assert len(rows) == 1000 and all(row["answer"] == str(int(row["answer"])) for row in rows)
    assert rows[0]["prompt"].endswith("are organized into 93 groups. How big is each group of bananas?")
    some = rows[::25]
    turns = [f"It is \\boxed{{{row['answer']}}}." for row in some]
    assert accuracy_reward(turns, answer=[row["answer"] for row in some]) == [1.0] * len(some)
    assert svamp(path=str(SETS / "svamp.jsonl"), size=9, seed=1) == svamp(
        path=str(SETS / "svamp.jsonl"), size=9, seed=1
    )


@needs_data
def test_olympiadbench(caplog):
    with caplog.at_level(logging.WARNING):
        rows = olympiadbench(path=str(SETS / "olympiadbench.jsonl"))
    assert "left out 1 of 675 problems, which are correct within a tolerance" in caplog.text
    assert Counter(row["task"] for row in rows) == {
        "olympiadbench/algebra": 263,
        "olympiadbench/combinatorics": 154,
        "olympiadbench/geometry": 129,
        "olympiadbench/number_theory": 128,
    }
    assert all(row["prompt"] and row["answer"] and row["solution"] for row in rows)
    some = rows[::20]
    turns = [f"<think> Hm. </think> <answer> {row['answer']} </answer>" for row in some]
    assert accuracy_reward(turns, answer=[row["answer"] for row in some]) == [1.0] * len(some)


def test_several_answers_count_in_any_order(tmp_path):
    given = {
        "question": "x^2 = 4?",
        "context": "Over the reals.",
        "final_answer": ["$2$,$-2$"],
        "is_multiple_answer": True,
    }
    (row,) = olympiadbench(path=jsonl(tmp_path / "set.jsonl", [given]))
    assert (row["prompt"], row["task"]) == ("Over the reals.\n\nx^2 = 4?", "olympiadbench")
    turns = [r"\boxed{-2, 2}", r"\boxed{2, -2}", r"\boxed{2}"]
    assert accuracy_reward(turns, answer=[row["answer"]] * 3) == [1.0, 1.0, 0.0]


def test_mmlu(tmp_path):
    given = [
        {"question": "2+2? ", "subject": "elementary_mathematics", "choices": ["3", "4", "5", "6"], "answer": 1},
        {
            "question": "Capital of France?",
            "subject": "geography",
            "choices": ["Rome", "Oslo", "Bern", "Paris"],
            "answer": 3,
        },
    ]
    path = jsonl(tmp_path / "mmlu.jsonl", given)
    rows = mmlu(path=path)
    assert rows[1]["prompt"] == (
        "Capital of France?\n\nA) Rome\nB) Oslo\nC) Bern\nD) Paris\n\nAnswer with the letter of the right option."
    )
    columns = {name: [row[name] for row in rows] for name in ("answer", "choices")}
    assert choice_reward([f"<answer> {row['answer']} </answer>" for row in rows], **columns) == [1.0, 1.0]
    assert choice_reward(["It is **4**.", "**Oslo**"], **columns) == [1.0, 0.0]
    assert [row["task"] for row in mmlu(path=path, subjects=["geography"])] == ["mmlu/geography"]
    with pytest.raises(UserError, match="mmlu: subjects: 'geografy' .did you mean `geography`"):
        mmlu(path=path, subjects=["geografy"])
    with pytest.raises(UserError, match="answer: 4 is not the number of an option"):
        mmlu(path=jsonl(tmp_path / "wrong.jsonl", [given[0] | {"answer": 4}]))
