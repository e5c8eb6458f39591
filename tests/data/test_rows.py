"""Rows from files and folders, and what is said of those that are wrong."""

import json

import pytest

from r1lab.data import rows
from r1lab.errors import UserError

ROWS = [{"prompt": f"{i}+1?", "answer": str(i + 1), "level": i} for i in range(6)]


def jsonl(path, found=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return str(path)


def problems(path, **settings):
    with pytest.raises(UserError) as caught:
        rows(path=str(path), **settings)
    assert caught.value.status == 2
    return caught.value.problems


def test_each_kind_of_file_gives_all_rows_with_all_columns(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    jsonl(tmp_path / "rows.jsonl")
    for kind in ("json", "jsonl", "parquet"):
        assert rows(path=str(tmp_path / f"rows.{kind}")) == ROWS


def test_answer_is_none_by_default_and_a_prompt_may_be_messages(tmp_path):
    chat = [{"role": "user", "content": "2+2?"}]
    path = jsonl(
        tmp_path / "rows.jsonl", [{"prompt": chat}, {"prompt": "?", "answer": None}, {"prompt": "?", "answer": 4}]
    )
    assert [row["answer"] for row in rows(path=path)] == [None, None, 4]
    assert rows(path=path)[0]["prompt"] == chat


def test_line_separators_inside_a_string_and_a_byte_order_mark(tmp_path):
    odd = [{"prompt": "a\u2028b\u0085c\u000bd", "answer": "\r"}]
    path = jsonl(tmp_path / "rows.jsonl", odd)
    assert rows(path=path) == odd
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"prompt": "a"}\r\n\r\n{"prompt": "b"}')
    assert [row["prompt"] for row in rows(path=str(tmp_path / "bom.jsonl"))] == ["a", "b"]


def test_size_draws_by_seed(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl")
    one = rows(path=path, size=3, seed=1)
    assert one == rows(path=path, size=3, seed=1) and len({row["prompt"] for row in one}) == 3
    assert any(one != rows(path=path, size=3, seed=seed) for seed in range(2, 6))
    assert len(rows(path=path, size=200)) == 6
    assert "should be at least 1" in problems(path, size=0)[0]


def test_a_folder_is_read_whole_or_by_its_splits(tmp_path):
    jsonl(tmp_path / "samples" / "a.jsonl", ROWS[:2])
    jsonl(tmp_path / "samples" / "b.jsonl", ROWS[2:])
    assert rows(path=str(tmp_path / "samples")) == ROWS
    jsonl(tmp_path / "sets" / "train.jsonl", ROWS[:4])
    jsonl(tmp_path / "sets" / "test.jsonl", ROWS[4:])
    assert rows(path=str(tmp_path / "sets")) == ROWS[:4]
    assert rows(path=str(tmp_path / "sets"), split="test") == ROWS[4:]
    (tmp_path / "sets" / "test.jsonl").unlink()
    assert problems(tmp_path / "sets", split="test") == [
        f"{tmp_path}/sets: no test.jsonl in this folder, which has train.jsonl"
    ]


def test_bad_rows_are_all_named_with_their_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = ['{"prompt": "a"}', "", '{"question": "b"}', '["c"]', '{"prompt": ""}', '{"prompt": "d"', '{"prompt": 7}']
    path.write_text("\n".join(lines))
    assert problems(path) == [
        f"{path}:3: no `prompt` in this row, which has question",
        f"{path}:4: a row should be an object with a `prompt`, not a list",
        f"{path}:5: the `prompt` of this row is empty: ''",
        f"{path}:6: not JSON: Expecting ',' delimiter, column 15",
        f"{path}:7: prompt: should be text, or messages with `role` and `content`",
    ]
    path.write_text('{"prompt": "a"}\n' + "{}\n" * 99)
    assert problems(path)[-1] == "94 more of 100 rows are like these" and len(problems(path)) == 6


def test_columns_of_a_file_are_read_under_the_names_that_a_recipe_gives_them(tmp_path):
    given = [{"question": "2+2?", "answer": "Two and two are 4.", "final": "4"}, {"question": "?", "answer": "long"}]
    found = rows(path=jsonl(tmp_path / "rows.jsonl", given), columns={"prompt": "question", "answer": "final"})
    assert [(row["prompt"], row["answer"]) for row in found] == [("2+2?", "4"), ("?", None)]
    assert found[0]["question"] == "2+2?" and found[0]["final"] == "4"  # rewards may ask for these as well


def test_columns_read_values_inside_of_a_column_and_names_with_dots(tmp_path):
    given = [{"prompt": "?", "reward_model": {"ground_truth": "4"}, "meta.level": 3}]
    path = jsonl(tmp_path / "rows.jsonl", given)
    found = rows(path=path, columns={"answer": "reward_model.ground_truth", "level": "meta.level"})
    assert found[0]["answer"] == "4" and found[0]["level"] == 3


def test_a_column_that_no_row_has_is_an_error_and_a_row_without_its_prompt_is_named(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [{"question": "?", "final": "4"}, {"final": "5"}])
    assert problems(path, columns={"prompt": "question", "answer": "finel"}) == [
        f"{path}: columns: no row has a column `finel` (did you mean `final`?)"
    ]
    assert problems(path, columns={"prompt": "question"}) == [f"{path}:2: the `prompt` of this row is empty: None"]


def test_where_no_row_has_a_prompt_the_line_to_write_is_shown(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [{"problem": "2+2?", "target": "4"}] * 100)
    assert problems(path) == [
        f"{path}: no column `prompt`; there are: problem, target: "
        "write `columns: {prompt: problem, answer: target}` next to `path`"
    ]
    path = jsonl(tmp_path / "odd.jsonl", [{"a": "2+2?", "b": "4"}])
    assert problems(path)[0].endswith("there are: a, b: write `columns: {prompt: NAME}` next to `path`")
    assert "no column `prompt`; there are: a, b, answer: write" in problems(path, columns={"answer": "b"})[0]


def test_bad_rows_of_a_folder_name_their_file(tmp_path):
    jsonl(tmp_path / "a.jsonl")
    jsonl(tmp_path / "b.jsonl", [ROWS[0], {"text": "x"}])
    assert problems(tmp_path) == [f"{tmp_path}/b.jsonl:2: no `prompt` in this row, which has text"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.json", b'{"prompt": "a"}', "should be a list of rows, not an object; one row per line is .jsonl"),
        ("rows.json", b'{"prompt": "a"}\n{"prompt": "b"}', "not JSON: Extra data at line 2, column 1"),
        ("rows.parquet", b"PAR1 not", "not a parquet file that can be read"),
        ("rows.jsonl", b'{"prompt": "\xff"}', "not UTF-8 text: invalid start byte at byte 12"),
        ("rows.csv", b"prompt\na", "not a file of rows: .jsonl, .json, .parquet"),
    ],
)
def test_files_that_are_not_rows(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    (problem,) = problems(tmp_path / name)
    assert problem.startswith(f"{tmp_path}/{name}: {said}")


def test_places_that_are_not_there(tmp_path):
    assert problems(tmp_path / "no.jsonl") == [f"{tmp_path}/no.jsonl: no such file or folder"]
    assert problems("no.parquet") == ["no.parquet: no such file or folder"]
    assert problems("./no") == ["no: no such file or folder"]
    (tmp_path / "empty").mkdir()
    assert problems(tmp_path / "empty") == [f"{tmp_path}/empty: no .jsonl or .parquet file in this folder"]


def test_a_data_set_of_the_hub(tmp_path, monkeypatch):
    import datasets

    asked = []

    def load_dataset(name, *config, split):
        asked.append((name, *config, split))
        return datasets.Dataset.from_list(ROWS if name == "some/puzzles" else [{"question": "?", "answer": "!"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert rows(path="some/puzzles", split="test") == ROWS
    assert asked == [("some/puzzles", "test")]
    (problem,) = problems("some/other")
    assert problem.endswith("there are: question, answer: write `columns: {prompt: question}` next to `path`")
    assert rows(path="some/other", config="main", columns={"prompt": "question"})[0]["prompt"] == "?"
    assert asked[-1] == ("some/other", "main", "train")

    def missing(name, split):
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", missing)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text("")
    (problem,) = problems("mime")
    assert problem.startswith("mime: neither a local file nor a dataset on the Hub (did you mean `mine.jsonl`?): ")
    (problem,) = problems("some/none")
    assert problem.startswith("some/none: neither a local file nor a dataset on the Hub: Dataset 'some/none' ")


def test_a_row_with_an_empty_list_as_its_prompt_is_named(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [*ROWS, {"prompt": [], "answer": "1"}])
    assert problems(path) == [f"{path}:7: the `prompt` of this row is empty: []"]


def test_a_key_that_stands_twice_in_a_row_is_an_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "?", "answer": "1"}\n{"prompt": "?", "answer": "1", "answer": "2"}\n')
    assert problems(path) == [f"{path}:2: the key `answer` occurs 2 times in one object: keep one"]


def test_a_misspelled_file_is_named_with_the_one_beside_it(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "1 + 1", "answer": "2"}\n')
    (line,) = problems(tmp_path / "trian.jsonl")
    assert line.endswith(f"trian.jsonl: no such file or folder (did you mean `{tmp_path}/train.jsonl`?)")
