"""Paired comparisons of two evaluations, with the gain in format and in reasoning apart."""

from r1lab.evaluation import comparison
from r1lab.rundir import storage


def evaluated(folder, **scores):
    """Writes an evaluation of four questions with one answer each."""
    rows = [
        {"task": "t", "index": i, "prompt": "?", **{name: [values[i]] for name, values in scores.items()}}
        for i in range(4)
    ]
    (folder / "samples").mkdir(parents=True)
    storage.write_jsonl(folder / "samples" / "questions.jsonl", rows)
    storage.write_json_atomic(folder / "result.json", {"tasks": {"t": {"avg": 0.5}}})
    return folder


def differences(before, after):
    rows = comparison.compare("before", "after", {"before": before, "after": after})
    return {row["metric"]: row["diff"] for row in rows}


def test_what_lenient_gains_is_reasoning_and_what_strict_gains_beyond_it_is_format(tmp_path):
    before = evaluated(tmp_path / "a", scores=[1, 0, 0, 0], strict=[0, 0, 0, 0], lenient=[1, 1, 0, 0])
    after = evaluated(tmp_path / "b", scores=[1, 1, 1, 0], strict=[1, 1, 1, 0], lenient=[1, 1, 1, 0])
    assert differences(before, after) == {"avg": 0.5, "strict": 0.75, "lenient": 0.25}


def test_forms_that_make_no_difference_are_left_out(tmp_path):
    before = evaluated(tmp_path / "a", scores=[1, 0, 0, 0], strict=[1, 0, 0, 0], lenient=[1, 0, 0, 0])
    after = evaluated(tmp_path / "b", scores=[1, 1, 0, 0], strict=[1, 1, 0, 0], lenient=[1, 1, 0, 0])
    assert differences(before, after) == {"avg": 0.25}
    old = evaluated(tmp_path / "c", scores=[1, 1, 0, 0])  # without these columns
    assert differences(before, old) == {"avg": 0.25}
