"""HumanEval: its asserts as calls that the code reward makes, and what has no such form."""

import json
import logging

import pytest

from r1lab.data import humaneval
from r1lab.errors import UserError
from r1lab.rewards import code_reward


def write(path, *checks, body="    return sorted(x)\n"):
    rows = [
        {
            "task_id": f"HumanEval/{number}",
            "prompt": 'def f(x):\n    """Sort."""\n',
            "canonical_solution": body,
            "entry_point": "f",
            "test": "METADATA = {'author': 'x'}\n\ndef check(candidate):\n"
            + "".join(f"    {line}\n" for line in check),
        }
        for number, check in enumerate(checks)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def calls(path):
    (row,) = humaneval(path=path)
    return [(test["args"], test["output"]) for test in json.loads(row["tests"])]


def test_the_gold_program_scores_in_full_and_others_do_not(tmp_path):
    path = write(tmp_path / "set.jsonl", ["assert candidate([2, 1]) == [1, 2]", "assert candidate([1]) == [1], 'one'"])
    (row,) = humaneval(path=path)
    turns = [f"<think> So. </think>\n```python\n{row['answer']}```", "```python\ndef f(x):\n    return x\n```"]
    assert code_reward(turns, tests=[row["tests"]] * 2) == [1.0, 0.5]
    assert (row["task"], row["id"]) == ("humaneval", "HumanEval/0")
    assert row["prompt"].endswith('```python\ndef f(x):\n    """Sort."""\n```')


def test_forms_of_asserts(tmp_path):
    lines = {
        "assert candidate((1, 2), 'a' + 'b') == 3 * 5 + 1, 'remark'": ([[1, 2], "ab"], 16),
        "assert candidate([]) is None": ([[]], None),
        "assert not candidate(-1)": ([-1], False),
        "assert candidate({'a': 1.5})": ([{"a": 1.5}], True),
        "assert abs(candidate(1.0) - 2.0 / 4.0) < 1e-6": ([1.0], 0.5),
        "assert tuple(candidate([3])) == tuple([3])": ([[3]], [3]),
    }
    assert calls(write(tmp_path / "set.jsonl", [*lines, "assert True, 'all is well'"])) == list(lines.values())


@pytest.mark.parametrize(
    "line",
    [
        "assert candidate(9 ** 9 ** 9) == 1",
        "assert candidate('a' * 10 ** 9) == 1",
        "assert candidate(1 / 0) == 1",
        "assert candidate({1: 'a'}) == 1",
        "assert candidate(open('/etc/passwd')) == 1",
        "assert candidate(1) == other(1)",
        "assert candidate(1) < 2",
        "assert candidate(x=1) == 2",
        "assert 1 < candidate(1) == 2",
        "for x in range(3): assert candidate(x) == x",
    ],
)
def test_what_has_no_form_is_left_out_and_counted(tmp_path, caplog, line):
    path = write(tmp_path / "set.jsonl", ["assert candidate(1) == 1", line], [line])
    with caplog.at_level(logging.WARNING):
        assert calls(path) == [([1], 1)]
    assert "left out 1 asserts of 1 problems that are not a plain call and value" in caplog.text
    assert "left out 1 of 2 problems, which have no assert of a plain call and value" in caplog.text


def test_a_test_that_is_no_python_is_named(tmp_path):
    path = write(tmp_path / "set.jsonl", ["assert candidate(1 == 2"])
    with pytest.raises(UserError, match="set.jsonl:1: test: not Python: '\\(' was never closed, line 4"):
        humaneval(path=path)
