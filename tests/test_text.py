"""Suggestions for what is misspelled."""

import os
from pathlib import Path

import pytest

from r1lab.text import did_you_mean_path


def is_rows(path: Path) -> bool:
    return path.suffix in (".jsonl", ".parquet")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with files of rows, and the folder of a model in a run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("data/train.jsonl", "data/train.parquet", "data/puzzles.jsonl", "mydata.jsonl"):
        (tmp_path / name).write_text("")
    for name in ("runs/quickstart/01-sft", "runs/quickstart/02-zero/model", "runs/quick", "models/Qwen2.5-7B"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("data/trian.jsonl", "data/train.jsonl"),
        ("data/trian.parquet", "data/train.parquet"),
        ("data/train.json", "data/train.jsonl"),  # another suffix
        ("dta/puzzle.jsonl", "data/puzzles.jsonl"),  # two names are misspelled
        ("mydata", "mydata.jsonl"),
        ("./mydat.jsonl", "mydata.jsonl"),
        ("data/nothing.jsonl", None),  # its suffix alone is not similar
        ("nowhere/train.jsonl", None),
        ("data", None),  # exists
        ("", None),
    ],
)
def test_the_nearest_file(path, nearest):
    assert did_you_mean_path(path, is_rows) == (f" (did you mean `{nearest}`?)" if nearest else "")


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("runs/quickstrat/02-zero/model", "runs/quickstart/02-zero/model"),
        ("runs/quick/02-zero/model", None),  # that run has no such folder
        ("runs/quicks/02-zero/modle", "runs/quickstart/02-zero/model"),  # the most similar that has such a folder
        ("runs/quickstart/2-zero/model/", "runs/quickstart/02-zero/model"),
        ("models/Qwen2.5-7", "models/Qwen2.5-7B"),
        ("models/Qwen2.9-0.5B-Instruct", None),  # what follows a dot in the name of a folder is no suffix
        ("data/puzzle", None),  # only a file is similar
    ],
)
def test_the_nearest_folder(path, nearest):
    assert did_you_mean_path(path) == (f" (did you mean `{nearest}`?)" if nearest else "")


def test_an_absolute_path_and_a_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    hint = f" (did you mean `{folder}/data/train.jsonl`?)"
    assert did_you_mean_path(folder / "data" / "trian.jsonl", is_rows) == hint
    assert did_you_mean_path("~/data/trian.jsonl", is_rows) == hint


def test_a_link_to_nothing_is_not_suggested(folder):
    os.symlink(folder / "gone.jsonl", folder / "linked.jsonl")
    assert did_you_mean_path("linked.jsonl", is_rows) == did_you_mean_path("link.jsonl", is_rows) == ""
