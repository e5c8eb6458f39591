"""GSM8K, MATH, AIME and AMC: on the sets as they are published, and on what is wrong with a file."""

import json
import logging
from collections import Counter
from pathlib import Path

import pytest

from r1lab.data import aime, amc, gpqa, gsm8k, math
from r1lab.errors import UserError
from r1lab.rewards import accuracy_reward, choice_reward

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@needs_data
def test_gsm8k():
    train, test = gsm8k(path=str(DATA / "gsm8k")), gsm8k(path=str(DATA / "gsm8k"), split="test")
    assert (len(train), len(test)) == (7473, 1319)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}
    for row in train + test:
        assert str(int(row["answer"])) == row["answer"]
        assert "<<" not in row["solution"] and "####" not in row["solution"] and row["solution"]
    turns = [f"{row['solution']}\n#### {row['answer']}" for row in test[:40]]
    assert accuracy_reward(turns, answer=[row["answer"] for row in test[:40]]) == [1.0] * 40


@needs_data
def test_math_train_and_test(caplog):
    with caplog.at_level(logging.WARNING):
        train = math(path=str(DATA / "rllm_math" / "train_math.json"))
    assert "left out 4 of 7474 problems, which have no answer" in caplog.text
    test = math(path=str(DATA / "math500" / "test.jsonl"), split="test")
    assert (len(train), len(test)) == (7470, 500)
    assert Counter(row["task"] for row in test) == {
        f"math/level{n}": c for n, c in enumerate((43, 90, 105, 128, 134), 1)
    }
    assert Counter(row["level"] for row in train)[None] == 2  # MATH's "Level ?"
    assert all(isinstance(row["answer"], str) and row["answer"] for row in train + test)


@needs_data
def test_math_by_level_and_subject():
    path = str(DATA / "rllm_math" / "train_math.json")
    rows = math(path=path, levels=[1, 2], subjects=["Number Theory"], size=50, seed=1)
    assert len(rows) == 50 and {row["subject"] for row in rows} == {"Number Theory"}
    assert {row["task"] for row in rows} == {"math/level1", "math/level2"}
    assert rows == math(path=path, levels=[1, 2], subjects=["Number Theory"], size=50, seed=1)
    with pytest.raises(UserError, match="'Numbers'.*there are: Algebra"):
        math(path=path, subjects=["Numbers"])
    with pytest.raises(UserError, match=r"levels: \[0\]"):
        math(path=path, levels=[0])


@needs_data
def test_math_leaves_out_a_held_out_set(tmp_path):
    test = math(path=str(DATA / "math500" / "test.jsonl"), split="test")
    leaked = [{"problem": f"  {row['prompt']} ", "answer": row["answer"]} for row in test[:3]]
    path = jsonl(tmp_path / "train.jsonl", [{"problem": "1+1?", "solution": r"So \boxed{2}."}, *leaked])
    assert len(math(path=path)) == 4
    (row,) = math(path=path, without=str(DATA / "math500" / "test.jsonl"))
    assert (row["prompt"], row["answer"], row["task"], row["level"]) == ("1+1?", "2", "math", None)


def test_math_of_the_hub(monkeypatch):
    import datasets

    sets = {
        "DigitalLearningGmbH/MATH-lighteval": [
            {"problem": "a", "level": "Level 5", "type": "Algebra", "solution": r"\boxed{\frac{1}{2}}"},
            {"problem": "b", "level": "Level ?", "type": "Geometry", "solution": r"\boxed 5"},
        ],
        "HuggingFaceH4/MATH-500": [{"problem": "b", "answer": "5", "level": 2, "subject": "Geometry", "solution": ""}],
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: datasets.Dataset.from_list(sets[name]))
    assert [(row["prompt"], row["answer"], row["level"]) for row in math()] == [("a", r"\frac{1}{2}", 5)]
    assert [(row["prompt"], row["answer"], row["level"]) for row in math(split="test")] == [("b", "5", 2)]


@needs_data
def test_aime(caplog):
    assert [row["task"] for row in aime(path=str(DATA / "math_eval" / "aime24.jsonl"))] == ["aime/2024"] * 30
    assert [row["year"] for row in aime(path=str(DATA / "math_eval" / "aime25.jsonl"))] == [2025] * 30
    assert len(aime(path=str(DATA / "math_eval"))) == 60
    path = str(DATA / "logic_rl_math_eval" / "aime_2021_2024.jsonl")
    with caplog.at_level(logging.WARNING):
        rows = aime(path=path)
    assert "left out 1 of 103 problems, which do not have a single whole number" in caplog.text and len(rows) == 102
    assert {row["year"] for row in aime(path=path, years=[2021, 2023])} == {2021, 2023}
    everything = rows + aime(path=str(DATA / "math_eval"))
    assert all(row["answer"] == str(int(row["answer"])) and 0 <= int(row["answer"]) <= 999 for row in everything)


@needs_data
def test_amc():
    for path, count in (("math_eval/amc23.jsonl", 40), ("logic_rl_math_eval/amc.jsonl", 83)):
        rows = amc(path=str(DATA / path))
        assert len(rows) == count and all(row["answer"] == str(int(row["answer"])) for row in rows)
    assert Counter(row["task"] for row in rows) == {"amc/2022": 43, "amc/2023": 40}


def test_aime_by_year_asks_the_hub_for_the_right_sets(monkeypatch):
    import datasets

    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        rows = [{"problem": "?", "answer": "025", "url": f"x/{year}_AIME_I_Problems/1"} for year in (2022, 2023)]
        return datasets.Dataset.from_list([{"problem": "?", "answer": 70}] if name == "math-ai/aime25" else rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = aime(years=[2023, 2025])
    assert [(row["answer"], row["year"]) for row in rows] == [("25", 2023), ("70", 2025)]
    assert asked == [("AI-MO/aimo-validation-aime", "train"), ("math-ai/aime25", "test")]
    with pytest.raises(UserError, match="no set known for 1999; there are 2022, 2023, 2024, 2025"):
        aime(years=1999)


def test_evaluation_sets_are_not_for_training(tmp_path):
    for builder in (aime, amc, gpqa):
        with pytest.raises(UserError, match="this is an evaluation set, with test only") as caught:
            builder(split="train")
        assert len(caught.value.problems) == 1
    with pytest.raises(UserError, match=r"no aime\*.jsonl in this folder"):
        aime(path=str(tmp_path))
    path = jsonl(tmp_path / "mine.jsonl", [{"problem": "?", "answer": 1}])
    with pytest.raises(UserError, match="does not say the year of its problems"):
        aime(path=path, years=[2024])


def test_rows_that_do_not_fit_are_named(tmp_path):
    path = jsonl(
        tmp_path / "rows.jsonl", [{"question": "?", "answer": "7"}, {"q": "?"}, {"question": "?", "answer": "#### 7"}]
    )
    with pytest.raises(UserError) as caught:
        gsm8k(path=path)
    assert caught.value.problems == [
        f"{path}:1: answer: no #### before the number",
        f"{path}:2: no `answer` in this row, which has q",
    ]
    path = jsonl(tmp_path / "many.jsonl", [{}] * 9)
    with pytest.raises(UserError) as caught:
        amc(path=path)
    assert len(caught.value.problems) == 6 and caught.value.problems[-1] == "4 more of 9 rows are like these"


GPQA = [
    {
        "Question": f"What is {n}?\nSay it.",
        "Correct Answer": f"right {n}\n",
        **{f"Incorrect Answer {i}": f"wrong, {n}.{i}" for i in (1, 2, 3)},
        "High-level domain": "Physics",
    }
    for n in range(40)
]


def test_gpqa_from_csv_and_jsonl(tmp_path):
    import csv

    with open(tmp_path / "gpqa.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, GPQA[0].keys())
        writer.writeheader()
        writer.writerows(GPQA)
    rows = gpqa(path=str(tmp_path / "gpqa.csv"))
    assert rows == gpqa(path=jsonl(tmp_path / "gpqa.jsonl", GPQA))
    assert rows != gpqa(path=str(tmp_path / "gpqa.csv"), seed=1)
    assert {row["answer"] for row in rows} == set("ABCD")
    for n, row in enumerate(rows):
        assert row["choices"]["ABCD".index(row["answer"])] == f"right {n}"
        assert f"\n{row['answer']}) right {n}\n" in row["prompt"] and row["subject"] == "Physics"
    turns = [f"<think> Hm. </think> The answer is ({row['answer']})." for row in rows]
    columns = {key: [row[key] for row in rows] for key in ("answer", "choices")}
    assert choice_reward(turns, **columns) == [1.0] * 40
    assert sum(choice_reward(["<think> Hm. </think> (A)"] * 40, **columns)) < 25


def test_gpqa_that_is_gated_or_wrong(monkeypatch, tmp_path):
    import datasets

    def gated(name, config, split):
        assert (name, config, split) == ("Idavidrein/gpqa", "gpqa_main", "train")
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' is a gated dataset on the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", gated)
    with pytest.raises(
        UserError, match="accept its terms at https://huggingface.co/datasets/Idavidrein/gpqa, then type: hf"
    ):
        gpqa(subset="main")
    path = tmp_path / "gpqa.csv"
    path.write_text("Question,Correct Answer\nWhy?,So\n")
    with pytest.raises(UserError, match="gpqa.csv:1: no `Incorrect Answer 1` in this row"):
        gpqa(path=str(path))
