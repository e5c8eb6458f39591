"""Reasoning traces in each form that the open sets have, and rows that have none."""

import json
import logging
from pathlib import Path

import pytest

from r1lab.data import traces
from r1lab.errors import UserError
from r1lab.rewards import format_reward
from r1lab.rewards.format import substance

MARCO = Path(__file__).parents[3] / "shared" / "data" / "marco_o1_cot" / "CoT_demo.json"
THINK = "<think>\nTwo pairs.\n</think>\n\nIt is 4."
SKY = (
    "<|begin_of_thought|>\n\nTwo pairs.\n\n<|end_of_thought|>\n\n"
    "<|begin_of_solution|>\n\nIt is 4.\n\n<|end_of_solution|>"
)
FORMS = {
    "bespoke-stratos": {
        "system": "Your role as an assistant ...",
        "conversations": [{"from": "user", "value": "2+2?"}, {"from": "assistant", "value": SKY}],
    },
    "openthoughts": {
        "conversations": [
            {"from": "system", "value": "Think in <|begin_of_thought|>."},
            {"from": "human", "value": "2+2?"},
            {"from": "gpt", "value": THINK},
        ]
    },
    "mixture-of-thoughts": {
        "messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": THINK}],
        "num_tokens": 9,
        "source": "math",
    },
    "openr1-math": {
        "problem": "2+2?",
        "answer": "4",
        "generations": [THINK],
        "messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": THINK}],
    },
    "marco-o1": {
        "instruction": "2+2?",
        "response": "<Thought>\nTwo pairs.\n</Thought>\n<Output>\nIt is 4.\n</Output>",
    },
    "without the last tag": {"instruction": "2+2?", "response": "<Thought>Two pairs.</Thought> <Output>It is 4."},
    "one's own": {"prompt": "2+2?", "completion": "<think> Two pairs. </think> It is 4."},
    "prefilled": {"prompt": "2+2?", "completion": " Two pairs. </think> It is 4."},
    "completion as messages": {"prompt": "2+2?", "completion": [{"role": "assistant", "content": THINK}]},
}


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_row(tmp_path, form):
    path = jsonl(tmp_path / "rows.jsonl", [FORMS[form]])
    answer = FORMS[form].get("answer")
    assert traces(path=path) == [{"prompt": "2+2?", "completion": THINK, "answer": answer, "task": "traces"}]
    (row,) = traces(path=path, answer_tags=True)
    assert row["completion"] == "<think>\nTwo pairs.\n</think>\n\n<answer>\nIt is 4.\n</answer>"


def test_answer_tags_are_not_put_on_twice(tmp_path):
    completion = "<think> Two pairs. </think>\n<answer> 4 </answer>"
    path = jsonl(tmp_path / "rows.jsonl", [{"prompt": "?", "completion": completion}])
    (row,) = traces(path=path, answer_tags=True)
    assert row["completion"].count("<answer>") == 1 and format_reward([row["completion"]]) == [1.0]
    assert traces(path=path)[0]["completion"].endswith("\n\n<answer> 4 </answer>")


def test_forms_may_be_mixed_and_several_turns_stay_messages(tmp_path):
    turns = [("user", "2+2?"), ("assistant", "4."), ("user", "Why?"), ("assistant", THINK)]
    messages = [{"role": role, "content": content} for role, content in turns]
    path = jsonl(tmp_path / "rows.jsonl", [*FORMS.values(), {"messages": messages}])
    rows = traces(path=path)
    assert [row["completion"] for row in rows] == [THINK] * (len(FORMS) + 1)
    assert rows[-1]["prompt"] == messages[:3]


def test_generations_that_the_set_marks_as_wrong_or_cut_off(tmp_path, caplog):
    row = {
        "problem": "2+2?",
        "answer": "4",
        "generations": [f"<think>{i}</think>{i}" for i in range(5)] + ["<think> and so"],
        "correctness_math_verify": [True, False, False, True, None, False],
        "correctness_llama": [None, True, None, False, None, None],
        "is_reasoning_complete": [True] * 5 + [False],
    }
    path = jsonl(tmp_path / "rows.jsonl", [row])
    with caplog.at_level(logging.WARNING):
        kept = traces(path=path)
    assert [row["completion"][-1] for row in kept] == ["0", "1", "3", "4"]
    assert "left out 1 wrong, 1 truncated; 4 traces are kept" in caplog.text
    assert [row["completion"][-1] for row in traces(path=path, right_only=False)] == list("01234")
    assert [row["completion"][-1] for row in traces(path=path, per_prompt=2)] == ["0", "1"]
    samples = [{"prompt": "?", "completion": THINK, "right": right} for right in (True, False)]
    assert len(traces(path=jsonl(tmp_path / "samples.jsonl", samples))) == 1


def test_rows_of_no_known_form_are_named(tmp_path, caplog):
    bad = [
        {"prompt": "?", "completion": "It is 4."},
        {"prompt": "?", "completion": "<think> and so on"},
        {"prompt": "?", "completion": "<think> </think> 4"},
        {"text": THINK},
        {"messages": [{"role": "user", "content": "?"}]},
        {"messages": [{"role": "user"}]},
        {"instruction": "?", "response": "4"},
        {"prompt": "?", "completion": "Well. <think> a </think> b"},
        {"prompt": "?", "completion": "<think> a </think> b </think> c"},
        {"messages": ["?", "!"]},
        {"problem": "?", "generations": [THINK, THINK], "correctness_math_verify": [True]},
    ]
    path = jsonl(tmp_path / "rows.jsonl", [FORMS["marco-o1"], *bad])
    with pytest.raises(UserError) as caught:
        traces(path=path)
    problems = caught.value.problems
    assert problems[0] == f"{path}:2: no thinking and final text in any of the known tags: 'It is 4.'"
    assert problems[3] == f"{path}:5: no `messages` or `conversations` or `completion` in this row, which has text"
    assert problems[4] == f"{path}:6: messages: should alternate between user and assistant, not user"
    assert len(bad) == 11 and problems[5:] == ["6 more of 12 rows are like these"]
    with caplog.at_level(logging.WARNING):
        assert len(traces(path=path, on_unknown="skip")) == 1
    assert "left out 11 of an unknown form; 1 traces are kept" in caplog.text
    with pytest.raises(UserError, match="on_unknown: 'drop' is not fail or skip"):
        traces(path=path, on_unknown="drop")


def test_parquet_files_of_a_hub_folder_by_their_split(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "data").mkdir()
    for split, count in (("train", 3), ("test", 1)):
        table = pyarrow.Table.from_pylist([FORMS["mixture-of-thoughts"]] * count)
        pyarrow.parquet.write_table(table, tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    assert len(traces(path=str(tmp_path))) == 3 and len(traces(path=str(tmp_path), split="test")) == 1


def test_a_configuration_of_a_set_of_the_hub(monkeypatch):
    import datasets

    def load_dataset(name, config, split):
        assert (name, config, split) == ("open-r1/Mixture-of-Thoughts", "math", "train")
        return datasets.Dataset.from_list([FORMS["mixture-of-thoughts"]])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert traces(path="open-r1/Mixture-of-Thoughts", config="math")[0]["completion"] == THINK


@pytest.mark.skipif(not MARCO.is_file(), reason="needs ../shared/data/marco_o1_cot")
def test_marco_o1():
    rows = traces(path=str(MARCO), answer_tags=True)
    assert len(rows) == 125 and not any("Thought>" in row["completion"] for row in rows)
    well_formed = format_reward([row["completion"] for row in rows])
    assert sum(well_formed) >= 124 and all(substance(row["prompt"]) for row in rows)
