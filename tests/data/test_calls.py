"""A user's builder may return anything, or raise: rows are had, or one line says what it did."""

import json

import pytest

from r1lab.check import check
from r1lab.data import calls
from r1lab.data.calls import rows_of
from r1lab.errors import UserError

BUILDERS = """
import itertools
import sys

import datasets
import pandas

def nothing():
    pass

def a_dict():
    return {"prompt": ["2+2?"]}

def frame():
    return pandas.DataFrame([{"prompt": "2+2?"}])

def splits():
    return datasets.DatasetDict(train=datasets.Dataset.from_list([{"prompt": "2+2?"}]))

def text():
    return "2+2?"

def pairs():
    return [("2+2?", "4")]

def raises():
    return [{}["prompt"]]

def raises_later():
    yield {"prompt": "2+2?"}
    raise RuntimeError("the disk\\nis gone")

def leaves():
    sys.exit("no data")

def no_prompt():
    return [{"question": "2+2?"}]

def endless(size: int | None = None):
    return ({"prompt": f"{i}+2?"} for i in itertools.count())

def listed():
    return datasets.Dataset.from_list([{"prompt": "2+2?"}])
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(BUILDERS, encoding="utf-8")


SAID = {
    "nothing": "returned None: it should return a list of rows, each a dict",
    "a_dict": "returned a dict: it should return a list of rows, each a dict",
    "frame": "returned a DataFrame: it should return a list of rows, each a dict (return frame.to_dict('records'))",
    "splits": "returned a DatasetDict: it should return a list of rows, each a dict (return one of its splits)",
    "text": "returned a str: it should return a list of rows, each a dict",
    "pairs": "row 1 that it returned is a tuple: it should return a list of rows, each a dict",
    "raises": "raises KeyError: 'prompt' (",
    "raises_later": "raises RuntimeError: the disk is gone (",
    "leaves": "raises SystemExit: no data (",
    "no_prompt": "row 1 that it returned has no `prompt`; it has question",
}


@pytest.mark.parametrize(("name", "said"), SAID.items())
def test_what_is_no_list_of_rows_is_one_line(mine, name, said):
    with pytest.raises(UserError) as refused:
        rows_of(f"./mine.py:{name}", {}, {})
    (line,) = refused.value.problems
    assert line.startswith(f"data: ./mine.py:{name}: {said}")


@pytest.mark.parametrize("name", ["nothing", "raises_later", "leaves", "no_prompt"])
def test_check_reports_it_at_its_key(mine, name):
    recipe = {
        "stage": "sample",
        "model": {"path": "embedded:tiny-qwen2"},
        "data": {"builder": f"./mine.py:{name}"},
        "rewards": [{"name": "format"}],
    }
    with open("r.yaml", "w") as file:
        json.dump(recipe, file)
    errors = [line for line in check.lines(["r.yaml"]) if line.startswith("error")]
    assert len(errors) == 1 and f"mine.py:{name}: {SAID[name]}" in errors[0], errors


def test_a_generator_is_cut_at_its_size(mine):
    assert len(rows_of("./mine.py:endless", {}, {"size": 3, "seed": 0})) == 3
    assert len(rows_of("mix", {"parts": [{"builder": "./mine.py:endless"}]}, {"size": 3})) == 3


def test_a_generator_without_a_size_is_taken_for_endless(mine, monkeypatch):
    monkeypatch.setattr(calls, "MOST", 100)
    with pytest.raises(UserError, match="its generator gives more than 100 rows and may never end"):
        rows_of("./mine.py:endless", {}, {})


def test_a_data_set_is_a_list_of_rows(mine):
    assert rows_of("./mine.py:listed", {}, {}) == [{"prompt": "2+2?"}]
