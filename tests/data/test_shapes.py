"""The shapes in which rows come, and the line that names a row which has another."""

import datetime
import decimal
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1lab.data import rows, shapes, traces
from r1lab.errors import UserError

QUESTION = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [QUESTION, ANSWER]},
        {"messages": [{"role": "user", "content": parts("2+", "2?")}, {"role": "assistant", "content": parts("4")}]},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        {"prompt": [QUESTION], "completion": [ANSWER]},
        {"prompt": [{"role": "user", "content": ["2+2?"], "name": None}], "completion": "4"},
    ],
)
def test_messages_become_prompt_and_completion(row):
    made = shapes.shaped(row)
    assert made["prompt"] == [QUESTION] and made["completion"] == "4"


def test_messages_that_end_with_a_question_are_a_prompt_alone():
    made = shapes.shaped({"messages": [QUESTION, ANSWER, {"role": "user", "content": "Sure?"}]})
    assert len(made["prompt"]) == 3 and "completion" not in made


def test_pairs_of_conversations_give_the_prompt_that_they_share():
    pair = {"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, {"role": "assistant", "content": "5"}]}
    assert shapes.shaped(pair) == {"chosen": "4", "rejected": "5", "prompt": [QUESTION]}
    assert shapes.shaped(pair | {"prompt": "2+2?"})["chosen"] == "4"
    with pytest.raises(ValueError, match="chosen: starts with other messages than `prompt`"):
        shapes.shaped(pair | {"prompt": "3+3?"})
    with pytest.raises(ValueError, match="chosen: continues another conversation than `rejected`"):
        shapes.shaped(pair | {"rejected": [{"role": "user", "content": "1+1?"}, ANSWER]})


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thinking_in_a_field_of_its_own_is_put_into_tags(key):
    whole = "<think>\nTwo pairs.\n</think>\n\n4"
    assert shapes.shaped({"messages": [QUESTION, ANSWER | {key: "Two pairs."}]})["completion"] == whole
    assert shapes.shaped({"prompt": "2+2?", "completion": "4", "thinking": ["Two pairs."]})["completion"] == whole
    assert shapes.shaped({"prompt": "2+2?", "completion": whole, "thinking": "Two pairs."})["completion"] == whole


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": [{"role": "user", "content": None}]}, r"prompt: message 1 \(user\): its content is null"),
        ({"prompt": [{"role": "user", "content": {"text": "a"}}]}, "its content is not text"),
        ({"prompt": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a part of type image_url"),
        (
            {"prompt": [{"role": "user", "content": [*parts("a"), {"type": "text", "text": None}]}]},
            "part of type text",
        ),
        ({"prompt": [QUESTION, ANSWER]}, "prompt: its last message is from the assistant"),
        ({"prompt": [{"role": "user", "content": " "}]}, "prompt: its last message, from the user, is empty"),
        ({"prompt": [{"role": "user"}]}, "messages with `role` and `content`"),
        ({"messages": [ANSWER]}, "messages: only the assistant speaks"),
        ({"prompt": "a", "completion": [QUESTION]}, "completion: its last message is from the user"),
        ({"prompt": "a", "completion": 4}, "completion: should be text"),
        ({"prompt": "a \ud83d"}, r"prompt: has half of a character \(\\ud83d, at place 3\)"),
        ({"prompt": "a", "meta": {"note": ["\udc00"]}}, "meta: has half of a character"),
        ({"prompt": "a", "kinds": {1, 2}}, "kinds: a value of the type set, which JSON lacks"),
    ],
)
def test_other_shapes_are_refused_in_a_line(row, said):
    with pytest.raises(ValueError, match=said):
        shapes.shaped(row)


def test_a_bad_row_is_named_with_its_file_and_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    bad = {"prompt": [{"role": "user", "content": [{"type": "image"}]}]}
    path.write_text(json.dumps({"prompt": "a"}) + '\n{"prompt": "\\ud83d"}\n' + json.dumps(bad), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        rows(path=str(path))
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [f"{path}:2", f"{path}:3"]


def test_columns_of_types_that_json_lacks_can_be_read_and_written(tmp_path):
    import pyarrow
    import pyarrow.parquet

    row = {
        "prompt": "a",
        "answer": decimal.Decimal("1.50"),
        "day": datetime.date(2024, 1, 2),
        "at": datetime.datetime(2024, 1, 2, 3, 4, 5, 678901),
        "took": datetime.timedelta(seconds=3),
        "text": "ü".encode(),
        "picture": {"bytes": b"\xff\x00", "path": None},
    }
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "rows.parquet")
    (found,) = rows(path=str(tmp_path / "rows.parquet"))
    assert json.loads(json.dumps(found)) == found
    assert (found["answer"], found["day"], found["at"]) == ("1.50", "2024-01-02", "2024-01-02T03:04:05.678901")
    assert (found["took"], found["text"], found["picture"]["bytes"]) == ("0:00:03", "ü", "/wA=")


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)


@given(json_like)
def test_what_json_has_stays_as_it_is(value):
    assert shapes.json_values(value) == value


SETS = {
    "s1k": (
        {"question": "2+2?", "solution": "4", "thinking_trajectories": ["Two pairs."], "attempt": "It is 4."},
        "{prompt: question, answer: solution, completion: attempt, thinking: thinking_trajectories}",
    ),
    "limo": (
        {"question": "2+2?", "solution": "Two pairs. It is 4.", "answer": "4"},
        "{prompt: question, completion: solution}",
    ),
    "alpaca": (
        {"instruction": "Add.", "input": "2+2", "output": "4"},
        "{prompt: [instruction, input], completion: output}",
    ),
    "instruction": ({"instruction": "2+2?", "response": "4"}, "{prompt: instruction, completion: response}"),
}


@pytest.mark.parametrize("name", SETS)
def test_the_line_that_is_suggested_for_a_well_known_set_reads_it(tmp_path, name):
    import yaml

    from r1lab.data.rows import numbered_rows

    row, columns = SETS[name]
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        numbered_rows(str(path), "train", needed=("answer", "completion"))
    (problem,) = caught.value.problems
    suggested = yaml.safe_load(problem.partition("columns: ")[2].partition("`")[0])
    assert suggested == yaml.safe_load(columns)
    (found,) = rows(path=str(path), columns=suggested)
    assert found["prompt"] in ("2+2?", "Add.\n\n2+2") and found["completion"]
    if name == "s1k":
        assert found["completion"] == "<think>\nTwo pairs.\n</think>\n\nIt is 4."


def test_pairs_without_a_prompt_are_told_where_to_put_it(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"chosen": "4", "rejected": "5"}), encoding="utf-8")
    with pytest.raises(UserError, match="give the question that both answer in `prompt`, or as messages"):
        rows(path=str(path))
    path.write_text(json.dumps({"question": "2+2?", "chosen": "4", "rejected": "5"}), encoding="utf-8")
    with pytest.raises(UserError, match="write `columns: {prompt: question}` next to `path`"):
        rows(path=str(path))


def test_traces_read_s1k_and_thinking_apart(tmp_path):
    found = [
        SETS["s1k"][0],
        {"question": "2+2?", "deepseek_thinking_trajectory": "Two pairs.", "deepseek_attempt": "It is 4."},
        {"messages": [QUESTION, {"role": "assistant", "content": "It is 4.", "reasoning_content": "Two pairs."}]},
        {"messages": [QUESTION, {"role": "assistant", "content": parts("<think>Two pairs.</think>It is 4.")}]},
    ]
    path = tmp_path / "traces.jsonl"
    path.write_text("\n".join(map(json.dumps, found)), encoding="utf-8")
    made = traces(path=str(path))
    assert {row["completion"] for row in made} == {"<think>\nTwo pairs.\n</think>\n\nIt is 4."}
    assert {row["prompt"] for row in made} == {"2+2?"}


def test_rows_of_a_users_builder_are_put_into_shape_and_named(tmp_path, monkeypatch):
    from r1lab.recipe.sections import Data
    from r1lab.stages.rows import build_rows

    monkeypatch.chdir(tmp_path)
    code = """
import datetime

def build(bad: bool = False):
    parts = [{"type": "text", "text": "2+2?"}]
    good = {"prompt": [{"role": "user", "content": parts}], "answer": "4", "on": datetime.date(2024, 1, 2)}
    return [good, {"prompt": "a \\ud83d"}] if bad else [good]
"""
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    for data in (Data(builder="./mine.py:build"), Data(builder="mix", parts=[{"builder": "./mine.py:build"}])):
        (row,) = build_rows(data, seed=0)
        assert row["prompt"] == [QUESTION] and row["on"] == "2024-01-02"
    with pytest.raises(UserError, match="data: row 2 of ./mine.py:build: prompt: has half of a character"):
        build_rows(Data(builder="./mine.py:build", bad=True), seed=0)


def test_columns_may_call_messages_the_prompt(tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"prompt": "2+", "messages": [QUESTION, ANSWER]}), encoding="utf-8")
    (row,) = rows(path=str(path), columns={"prompt": "messages"})
    assert row["prompt"] == [QUESTION] and row["completion"] == "4"


@pytest.mark.parametrize("key", ["role", "from"])
def test_roles_of_sharegpt_are_read_and_unknown_ones_are_named(key):
    text = "content" if key == "role" else "value"
    listed = [{key: "human", text: "2+2?"}, {key: "gpt", text: "4"}]
    assert shapes.shaped({"messages": listed})["prompt"] == [QUESTION]
    assert shapes.shaped({"prompt": listed[:1]})["prompt"] == [QUESTION]
    with pytest.raises(ValueError, match="prompt: message 1 has an unknown role, 'asker'; the known ones are system"):
        shapes.shaped({"prompt": [{key: "asker", text: "2+2?"}]})


def test_a_prompt_without_a_question_is_refused():
    with pytest.raises(ValueError, match="prompt: has no user message, only messages from the system"):
        shapes.shaped({"prompt": [{"role": "system", "content": "Be brief."}]})
    assert shapes.shaped({"prompt": []}) == {"prompt": []}  # `rows` names the row


def test_nan_is_a_missing_value():
    assert shapes.shaped({"prompt": "?", "answer": float("nan")})["answer"] is None
