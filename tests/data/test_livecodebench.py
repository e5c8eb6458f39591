"""LiveCodeBench: tests of both kinds as the code reward takes them, hidden ones unpacked without running a pickle."""

import base64
import json
import os
import pickle
import zlib

import pytest

from r1lab.data import livecodebench
from r1lab.errors import UserError
from r1lab.rewards import code_reward


def packed(content, protocol=None):
    return base64.b64encode(zlib.compress(pickle.dumps(content, protocol))).decode()


def row(**columns):
    public = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
    hidden = [{"input": "-1 1", "output": "0", "testtype": "stdin"}]
    return {
        "question_title": "Sum",
        "question_content": "Add two numbers.",
        "question_id": "abc1_a",
        "platform": "atcoder",
        "contest_date": "2025-01-04T00:00:00",
        "difficulty": "easy",
        "starter_code": "",
        "public_test_cases": json.dumps(public),
        "private_test_cases": packed(json.dumps(hidden)),
        "metadata": "{}",
    } | columns


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_program_that_reads_and_prints(tmp_path):
    (made,) = livecodebench(path=write(tmp_path / "test.jsonl", row()))
    assert json.loads(made["tests"]) == [{"input": "1 2\n", "output": "3\n"}, {"input": "-1 1", "output": "0"}]
    assert made["prompt"].startswith("Add two numbers.\n\nWrite a Python program that reads the input")
    assert (made["answer"], made["task"], made["date"], made["id"]) == (
        None,
        "livecodebench/easy",
        "2025-01-04",
        "abc1_a",
    )
    turns = ["```python\nprint(sum(map(int, input().split())))\n```", "```python\nprint(3)\n```"]
    assert code_reward(turns, tests=[made["tests"]] * 2, mode="all") == [1.0, 0.0]


def test_a_function(tmp_path):
    case = {"input": '[3, 1]\n"down"', "output": "[3, 1]", "testtype": "functional"}
    starter = "class Solution:\n    def order(self, nums: List[int], way: str) -> List[int]:\n        "
    given = row(
        starter_code=starter,
        public_test_cases=json.dumps([case]),
        private_test_cases=json.dumps([case | {"input": '[1, 2]\n"up"', "output": "[1, 2]"}]),
        metadata='{"func_name": "order"}',
    )
    (made,) = livecodebench(path=write(tmp_path / "test.jsonl", given))
    assert json.loads(made["tests"])[0] == {"function": "order", "args": [[3, 1], "down"], "output": [3, 1]}
    assert "with the imports that it needs" in made["prompt"] and starter in made["prompt"]
    body = "return sorted(nums, reverse=way == 'down')"
    for imports in ("", "from typing import List\n"):  # the set's own harness imports it
        assert code_reward([f"```python\n{imports}{starter}{body}\n```"], tests=[made["tests"]]) == [1.0]
    with pytest.raises(UserError, match="test.jsonl: abc1_a: metadata: no func_name"):
        livecodebench(path=write(tmp_path / "test.jsonl", given | {"metadata": "{}"}))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("output", ["0", "é\n" * 100_000])
def test_hidden_tests_of_any_protocol(tmp_path, protocol, output):
    hidden = packed(json.dumps([{"input": "", "output": output, "testtype": "stdin"}], ensure_ascii=False), protocol)
    (made,) = livecodebench(path=write(tmp_path / "test.jsonl", row(private_test_cases=hidden)))
    assert json.loads(made["tests"])[1]["output"] == output


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_something_else_is_refused_and_does_nothing(tmp_path, protocol):
    for content in (Harmful(str(tmp_path / "done")), ["a", "b"], 3, b"[]"):
        path = write(tmp_path / "test.jsonl", row(private_test_cases=packed(content, protocol)))
        with pytest.raises(UserError, match="abc1_a: private_test_cases: a pickle of something other than text"):
            livecodebench(path=path)
    assert not (tmp_path / "done").exists()


def test_what_cannot_be_unpacked_is_named(tmp_path):
    cut = base64.b64encode(zlib.compress(pickle.dumps("[]")[:-3])).decode()
    for hidden in ("?", "AAAA", base64.b64encode(zlib.compress(b"")).decode(), cut):
        with pytest.raises(UserError, match="test.jsonl: abc1_a: ") as caught:
            livecodebench(path=write(tmp_path / "test.jsonl", row(private_test_cases=hidden)))
        assert len(caught.value.problems) == 1


def test_by_date_and_difficulty(tmp_path):
    days = ("2024-07-31", "2024-08-01", "2025-02-01")
    rows = [row(contest_date=f"{day}T00:00:00", question_id=day) for day in days]
    rows.append(row(difficulty="hard", question_id="hard"))
    # Not wanted, so not unpacked.
    rows.append(row(contest_date="2020-01-01", private_test_cases="?"))
    path = write(tmp_path / "test.jsonl", *rows)
    ids = [made["id"] for made in livecodebench(path=path, since="2024-08-01", before="2025-02-01")]
    assert ids == ["2024-08-01", "hard"]
    assert [made["id"] for made in livecodebench(path=path, difficulties=["hard"])] == ["hard"]
    with pytest.raises(UserError, match="livecodebench: since: 'August' is not a day such as 2024-08-01"):
        livecodebench(path=path, since="August")
    with pytest.raises(UserError, match="difficulties: 'Hard': there are easy, medium, hard"):
        livecodebench(path=path, difficulties=["Hard"])
