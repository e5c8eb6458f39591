"""BFCL: the set as published, its schemas as JSON schemas, and what is wrong with a folder."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from r1lab.data import bfcl
from r1lab.data.bfcl import Category
from r1lab.errors import UserError
from r1lab.lookup import folder
from r1lab.rewards.tool_calls import example, expected_calls, tool_calls_reward

SET = Path(__file__).parents[3] / "shared" / "data" / "bfcl"
TINY = folder("data") / "tiny" / "bfcl.jsonl"
SIZES = {"simple_python": 400, "multiple": 200, "parallel": 200, "parallel_multiple": 200, "irrelevance": 240}
needs_data = pytest.mark.skipif(not SET.is_dir(), reason="needs ../shared/data/bfcl")


def types(schema):
    yield schema["type"]
    for inner in [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]:
        yield from types(inner)


@needs_data
@pytest.mark.parametrize("category", SIZES)
def test_the_set_as_published(category):
    rows = bfcl(path=str(SET), category=category)
    assert len(rows) == SIZES[category] and {row["task"] for row in rows} == {f"bfcl/{category}"}
    assert all(row["id"].startswith(f"{category}_") and isinstance(row["prompt"], str) for row in rows)
    found = Counter(kind for row in rows for tool in row["tools"] for kind in types(tool["function"]["parameters"]))
    assert found.keys() <= {"object", "array", "string", "integer", "number", "boolean"}
    assert not any("." in tool["function"]["name"] for row in rows for tool in row["tools"])
    assert bfcl(path=str(SET), category=category, size=9, seed=1) == bfcl(
        path=str(SET), category=category, size=9, seed=1
    )


@needs_data
def test_a_folder_without_the_answers_is_one_error(tmp_path):
    shutil.copy(SET / "BFCL_v4_multiple.json", tmp_path)
    with pytest.raises(UserError, match="possible_answer/BFCL_v4_multiple.json: no such file.*pip download") as caught:
        bfcl(path=str(tmp_path), category="multiple")
    assert len(caught.value.problems) == 1


def published(tmp_path, version, names):
    """A folder with the files of the leaderboard, made of r1lab's own rows."""
    rows = [json.loads(line) for line in TINY.read_text().splitlines()]
    (tmp_path / "possible_answer").mkdir()
    for name, category in names.items():
        some = [row for row in rows if row["id"].rpartition("_")[0] == category]
        questions = [{key: row[key] for key in ("id", "question", "function")} for row in some]
        answers = [{"id": row["id"], "ground_truth": row.get("ground_truth")} for row in reversed(some)]
        for place, listed in ((tmp_path, questions), (tmp_path / "possible_answer", answers)):
            text = "".join(json.dumps(row) + "\n" for row in listed)
            (place / f"BFCL_{version}_{name}.json").write_text(text)
    return str(tmp_path)


def test_the_file_of_a_category_is_not_that_of_another_one_that_ends_in_its_name(tmp_path):
    names = {"parallel_multiple": "parallel_multiple", "live_multiple": "parallel", "multiple": "multiple"}
    path = published(tmp_path, "v4", names)
    assert bfcl(path=path, category="multiple") == bfcl(path=str(TINY), category="multiple")


def test_version_3_has_another_name_for_the_first_category(tmp_path):
    path = published(tmp_path, "v3", {"simple": "simple_python"})
    assert bfcl(path=path) == bfcl(path=str(TINY))


def test_a_category_that_a_folder_lacks_is_one_error(tmp_path):
    path = published(tmp_path, "v4", {"multiple": "multiple"})
    with pytest.raises(UserError, match="no BFCL_v4_parallel.json in this folder: get the files with") as caught:
        bfcl(path=path, category="parallel")
    assert len(caught.value.problems) == 1


def test_own_rows_have_gold_calls_that_are_right():
    for category in SIZES:
        rows = bfcl(path=str(TINY), category=category)
        assert len(rows) == 2
        columns = {name: [row[name] for row in rows] for name in ("answer", "tools")}
        from r1lab.environments.calls import written

        gold = [[example(one, row["tools"]) for one in expected_calls(row["answer"])] for row in rows]
        turns = ["\n".join(written(call) for call in calls) or "None fits." for calls in gold]
        assert tool_calls_reward(turns, **columns) == [1.0, 1.0]
    with pytest.raises(UserError, match="no row of the category live_simple: set another category"):
        bfcl(path=str(TINY), category="live_simple")


def write(tmp_path, **changes):
    row = json.loads(TINY.read_text().splitlines()[0]) | changes
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({key: value for key, value in row.items() if value is not None}))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ground_truth": None}, "no `ground_truth` in this row"),
        ({"ground_truth": [{"people.age": {"person": "Mia"}}]}, "answer: not a call with its arguments"),
        ({"question": [[{"role": "user", "content": "?"}]] * 2}, "a conversation of 2 turns"),
        ({"function": None}, "no `function` in this row"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path, changes, why):
    with pytest.raises(UserError, match=rf"rows.jsonl:1: .*{why}"):
        bfcl(path=write(tmp_path, **changes))


def test_where_any_call_is_right_there_is_no_list(tmp_path):
    path = write(tmp_path, id="live_relevance_0", ground_truth=None)
    assert bfcl(path=path, category="live_relevance")[0]["answer"] == "any"


def test_messages_stay_messages(tmp_path):
    listed = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "?"}]
    assert bfcl(path=write(tmp_path, question=[listed]))[0]["prompt"] == listed


def test_what_is_neither_here_nor_on_the_hub_is_one_error(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="nobody/nothing: neither a local folder nor a dataset on the Hub") as caught:
        bfcl(path="nobody/nothing")
    assert len(caught.value.problems) == 1


def test_it_is_not_for_training():
    with pytest.raises(UserError, match="split: 'train': this is an evaluation set, with test only"):
        bfcl(split="train")
    assert len(get_args(Category)) == 11
