"""Why a stage failed, in one line."""

from collections import namedtuple

from r1lab.run import children


def test_a_full_disk_is_named_where_the_log_had_no_room_to_say_so(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 0)
    monkeypatch.setattr(children.shutil, "disk_usage", lambda path: usage)
    (line,) = children.failure(1, tmp_path / "error.txt", tmp_path / "log.txt", 0)
    assert line.startswith(f"the disk of {tmp_path} is full: ")


def test_what_a_stage_says_itself_comes_before_anything_else(tmp_path):
    (tmp_path / "error.txt").write_text("data.path: gone.jsonl: no such file\n")
    assert children.failure(2, tmp_path / "error.txt", tmp_path / "log.txt", 0) == [
        "data.path: gone.jsonl: no such file"
    ]
