"""Which runs are seeds of one, and that runs in folders of the same name stay apart."""

import json

import pytest

from r1lab import report
from r1lab.report import groups, read
from r1lab.rundir import storage


def test_seeds_make_a_group_and_settings_do_not(make_run, tmp_path):
    runs = [read.read(make_run(tmp_path / name, steps=1, **more)) for name, more in (
        ("a-seed0", {}), ("a-seed1", {"seed": 1}), ("b", {"rate": 1.0}))]  # fmt: skip
    found = groups.groups(runs)
    assert [(group.label, len(group.runs)) for group in found] == [("a (2 runs)", 2), ("b", 1)]


def test_runs_of_the_same_name_get_names_of_their_own(make_run, tmp_path):
    places = [tmp_path / place for place in ("a/x/run", "b/x/run", "c/run", "c/other")]
    runs = [read.read(make_run(place, steps=1, rate=rate)) for rate, place in enumerate(places)]
    assert [run.name for run in groups.named(runs)] == ["x/run", "x/run-2", "c/run", "other"]


def test_groups_of_the_same_label_stay_apart(make_run, tmp_path):
    runs = [read.read(make_run(tmp_path / f"a-seed{i}", steps=1, seed=i % 2, rate=i // 2)) for i in range(4)]
    assert [group.label for group in groups.groups(runs)] == ["a-seed0 and 1 more", "a-seed2 and 1 more"]


@pytest.mark.parametrize("format", ["html", "md"])
def test_two_recipes_in_folders_of_one_name_are_two_columns_and_two_lines(make_run, tmp_path, format):
    runs = [make_run(tmp_path / place / "same", steps=12, rate=rate) for place, rate in (("a", 1.0), ("b", 2.0))]
    (file,) = report.write(runs, format=format)
    text = file.read_text(encoding="utf-8")
    assert "a/same" in text and "b/same" in text
    if format == "html":
        assert "All 352 completions are in this file." in text
        assert "; b/same: from" in text and '<th scope="col">b/same</th>' in text
    else:
        assert "| task | a/same | b/same | mean of the runs |" in text


def stage_of(folder, seed, rows):
    """The folder of the second stage of a pipeline, which takes its model from the first."""
    (folder / "02-zero").mkdir(parents=True)
    cold = {"name": "cold", "stage": "sft", "seed": seed, "data": {"size": rows}}
    zero = {"name": "zero", "stage": "grpo", "seed": seed, "model": {"path": f"{folder}/01-cold/model"}}
    storage.write_yaml(folder / "02-zero" / "config.yaml", zero)
    storage.write_yaml(folder / "config.yaml", {"name": folder.name, "stages": [cold, {"name": "zero"}, {"a": rows}]})
    row = {"phase": "train", "step": 1, "total": 1, "reward": 0.5, "rewards": {"kk": 0.5}}
    (folder / "02-zero" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return folder / "02-zero"


def test_stage_folders_are_joined_by_recipe_though_their_models_lie_elsewhere(tmp_path):
    folders = [stage_of(tmp_path / name / "ds", seed, rows) for name, seed, rows in (
        ("A", 0, 10), ("B", 1, 10), ("C", 2, 99))]  # fmt: skip
    found = groups.groups(groups.named([read.read(folder) for folder in folders]))
    names = [[run.name for run in group.runs] for group in found]
    assert names == [["ds/02-zero", "ds/02-zero-2"], ["ds/02-zero-3"]]  # the third has learned from other rows
    (file,) = report.write(folders[:2], out=tmp_path / "two.html")
    assert "kk: mean of 2 runs from" in file.read_text(encoding="utf-8")
