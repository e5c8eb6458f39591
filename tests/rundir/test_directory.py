"""Run directories: refused, resumed, emptied, and files that survive a crash."""

import errno
import json
import subprocess
import sys

import numpy as np
import pytest

from r1lab import listing
from r1lab.errors import UserError
from r1lab.report.read import read
from r1lab.rundir import directory, storage
from r1lab.rundir import manifest as rundir_manifest
from r1lab.rundir.manifest import FORMAT

CONFIG = {"stage": "grpo", "name": "zero", "seed": 3, "train": {"learning_rate": 1e-6, "eval_strategy": "no"}}


def prepared(path, **flags):
    return directory.prepare(
        "stage: grpo  # as written\n", CONFIG, path, **{"resume": False, "overwrite": False} | flags
    )


def test_recipe_is_kept_as_written_and_config_reads_back_the_same(tmp_path):
    path = prepared(tmp_path / "runs" / "zero")
    assert (path / "recipe.yaml").read_text() == "stage: grpo  # as written\n"
    assert storage.read_yaml(path / "config.yaml") == CONFIG
    assert list(storage.read_yaml(path / "config.yaml")) == list(CONFIG)
    assert directory.result(path) is None


def test_a_used_directory_is_refused_and_untouched(tmp_path):
    path = prepared(tmp_path / "zero")
    (path / "config.yaml").write_text("old")
    with pytest.raises(UserError, match="--resume.*--overwrite.*--name") as refusal:
        prepared(path)
    assert len(refusal.value.problems) == 1
    assert (path / "config.yaml").read_text() == "old"


def test_resume_keeps_and_overwrite_empties(tmp_path):
    path = prepared(tmp_path / "zero")
    (path / "model").mkdir()
    (path / "model" / "weights").write_text("w")
    prepared(path, resume=True)
    assert (path / "model" / "weights").is_file()
    prepared(path, overwrite=True)
    assert sorted(child.name for child in path.iterdir()) == ["config.yaml", "recipe.yaml"]
    with pytest.raises(UserError, match="give only one"):
        prepared(path, resume=True, overwrite=True)


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_of_something_else_is_never_deleted(tmp_path, flags):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="has files but no run"):
        prepared(tmp_path, **flags)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "zero").write_text("")
    with pytest.raises(UserError, match="this is a file"):
        prepared(tmp_path / "zero", overwrite=True)


def test_overwrite_follows_no_links_out_of_the_directory(tmp_path):
    path = prepared(tmp_path / "zero")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("p")
    (path / "model").symlink_to(tmp_path / "elsewhere")
    prepared(path, overwrite=True)
    assert (tmp_path / "elsewhere" / "precious").is_file()


def test_rows_come_back_and_a_torn_last_line_is_left_out_then_dropped(tmp_path):
    path = tmp_path / "samples" / "metrics.jsonl"
    storage.append_jsonl(path, {"step": 1, "text": "Köln\n"})
    with path.open("a") as file:
        file.write('{"step": 2, "rew')
    assert storage.read_jsonl(path) == [{"step": 1, "text": "Köln\n"}]
    storage.append_jsonl(path, {"step": 2})
    assert [row["step"] for row in storage.read_jsonl(path)] == [1, 2]
    assert storage.read_jsonl(tmp_path / "none.jsonl") == []


def test_a_growing_file_is_followed_and_a_new_one_noticed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    storage.append_jsonl(path, {"step": 1})
    rows, offset = storage.follow_jsonl(path, 0)
    assert [row["step"] for row in rows] == [1]
    assert storage.follow_jsonl(path, offset) == ([], offset)
    storage.append_jsonl(path, {"step": 2})
    assert storage.follow_jsonl(path, offset)[0] == [{"step": 2}]
    path.write_text('{"s": 0}\n')
    assert storage.follow_jsonl(path, offset)[0] == [{"s": 0}]


def test_numbers_of_numpy_and_what_json_lacks_are_written_as_json(tmp_path):
    row = {"a": np.float32(0.5), "b": np.arange(2), "c": float("nan"), "d": [float("inf")], "e": tmp_path, 1: True}
    storage.write_json_atomic(tmp_path / "r.json", row)
    read = json.loads((tmp_path / "r.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert read == {"a": 0.5, "b": [0, 1], "c": None, "d": [None], "e": str(tmp_path), "1": True}


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    storage.write_json_atomic(tmp_path / "result.json", {"ok": 1})
    with pytest.raises(TypeError):
        storage.write_json_atomic(tmp_path / "result.json", {"ok": object()})
    with pytest.raises(Exception, match="cannot represent"):
        storage.write_yaml(tmp_path / "result.json", {"ok": object()})
    assert directory.result(tmp_path) == {"ok": 1}
    assert [child.name for child in tmp_path.iterdir()] == ["result.json"]


def test_two_runs_cannot_hold_one_directory(tmp_path):
    script = (
        "import pathlib, sys; from r1lab.rundir import directory as d\nwith d.locked(pathlib.Path(sys.argv[1])): pass"
    )
    with directory.locked(tmp_path):
        done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "another r1lab runs in it" in done.stderr
    assert subprocess.run([sys.executable, "-c", script, tmp_path], check=False).returncode == 0


def test_manifest_says_what_ran_and_keeps_the_first_when_resumed(tmp_path, monkeypatch):
    repository = tmp_path / "work"
    repository.mkdir()
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (repository / "reward.py").write_text("a\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    (repository / "reward.py").write_text("b\n")
    (repository / "new.py").write_text("")
    monkeypatch.chdir(repository)
    launch = {"gpus": 2, "nodes": 2, "strategy": "ddp"}
    pipeline = {"seed": 1, "stages": [{"name": "base", "seed": 1}, {"name": "zero", "seed": 2, "launch": launch}]}
    manifest = rundir_manifest.write_manifest(tmp_path, pipeline)
    assert manifest["seeds"] == {"recipe": 1, "base": 1, "zero": 2}
    assert manifest["launch"] == {"base": {"ranks": 1}, "zero": {"ranks": 4, "strategy": "ddp"}}
    assert len(manifest["git"]["commit"]) == 40
    assert "+b" in manifest["git"]["diff"] and manifest["git"]["untracked"] == ["new.py"]
    assert manifest["format"] == FORMAT
    assert manifest["versions"]["python"].startswith("3.")
    assert manifest["hardware"]["cores"] >= 1 and manifest["hardware"]["memory_gib"] > 0
    rundir_manifest.write_manifest(tmp_path, pipeline | {"seed": 9})
    kept = json.loads((tmp_path / "manifest.json").read_text())
    assert kept["seeds"]["recipe"] == 1 and kept["resumed"][0]["seeds"]["recipe"] == 9


@pytest.mark.parametrize(
    ("manifest", "is_newer"),
    [
        ({}, False),  # from before there were formats
        ({"format": FORMAT}, False),
        ({"format": FORMAT + 1}, True),
        ({"format": FORMAT, "resumed": [{}, {"format": FORMAT + 1}]}, True),
        ({"resumed": [{"format": FORMAT}]}, False),
        ({"format": "of a damaged file"}, False),
    ],
)
def test_a_run_of_a_newer_format_is_neither_resumed_nor_read(tmp_path, manifest, is_newer):
    path = prepared(tmp_path / "zero")
    storage.write_json_atomic(path / "manifest.json", manifest)
    (path / "01-stage").mkdir()
    assert bool(directory.newer(path)) == bool(directory.newer(path / "01-stage")) == is_newer
    if not is_newer:
        prepared(path, resume=True)
        assert read(path).name == "zero"
        return
    (path / "config.yaml").write_text("name: newer")
    for refuse in (lambda: prepared(path, resume=True), lambda: read(path), lambda: read(path / "01-stage")):
        with pytest.raises(UserError, match=f"written by a newer r1lab .format {FORMAT + 1}.*update") as refusal:
            refuse()
        assert len(refusal.value.problems) == 1 and str(path) in refusal.value.problems[0]
    assert (path / "config.yaml").read_text() == "name: newer"
    assert [row[:2] for row in listing.runs(tmp_path)] == [("zero", "unreadable")]
    assert "newer r1lab" in listing.runs(tmp_path)[0][3]
    prepared(path, overwrite=True)


def test_no_git_checkout_no_git_state(tmp_path):
    assert rundir_manifest.git_state(tmp_path) is None


def test_samples_by_step_is_in_the_order_of_the_steps_with_a_file_per_rank(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    names = ["step_000002.jsonl", "step_000002.rank1.jsonl", "step_1000000.jsonl", "step_000010.jsonl"]
    for name in [*names, "step_x.jsonl", "step_000003 (copy).jsonl", "questions.jsonl"]:
        (folder / name).touch()
    found = {step: [file.name for file in files] for step, files in directory.samples_by_step(tmp_path).items()}
    assert found == {2: names[:2], 10: [names[3]], 1_000_000: [names[2]]}


def test_a_file_system_that_cannot_lock_is_reported(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(directory.fcntl, "flock", refuse)
    with directory.locked(tmp_path):
        pass
    assert "cannot lock" in caplog.text and "No locks available" in caplog.text
