"""IFEval: each of its instructions as a constraint, an answer that follows it, and one that does not."""

import json
import logging

import pytest

from r1lab.data import ifeval
from r1lab.errors import UserError
from r1lab.rewards import instruction_reward

SIX = "one two three four five six"
# Of each instruction: its arguments, an answer that follows it, one that does not.
INSTRUCTIONS = {
    "keywords:existence": ({"keywords": ["sea", "salt"]}, "The sea has salt.", "The sea."),
    "keywords:frequency": ({"keyword": "sea", "frequency": 2, "relation": "at least"}, "Sea, sea.", "Sea."),
    "keywords:forbidden_words": ({"forbidden_words": ["sea"]}, "A lake.", "A sea."),
    "keywords:letter_frequency": (
        {"letter": "z", "let_frequency": 2, "let_relation": "less than"},
        "A zoo.",
        "Zig zag.",
    ),
    "language:response_language": ({"language": "ko"}, "안녕하세요", "Hello"),
    "length_constraints:number_words": ({"num_words": 6, "relation": "at least"}, SIX, "one two"),
    "length_constraints:number_sentences": (
        {"num_sentences": 2, "relation": "less than"},
        "It is so.",
        "It is so. It was so.",
    ),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "One.\n***\nTwo.", "One."),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "so"},
        "One.\n\nSo two.",
        "So one.\n\nTwo.",
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] of [place]", "[name]"),
    "detectable_content:postscript": ({"postscript_marker": "P.P.S"}, "So.\n\nP.P.S Bye.", "So."),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* one\n* two", "* one\n* two\n* three"),
    "detectable_format:constrained_response": ({}, "My answer is maybe.", "Maybe."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 1}, "A *point*.", "A point."),
    "detectable_format:multiple_sections": (
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\nOne.\nSECTION 2\nTwo.",
        "SECTION 1\nOne.",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "a: 1"),
    "detectable_format:title": ({}, "<<Of tea>>\nTea.", "Of tea"),
    "combination:two_responses": ({}, "Yes.\n******\nNo.", "Yes. No."),
    "combination:repeat_prompt": ({"prompt_to_repeat": "What is tea?"}, "What is tea? A drink.", "A drink."),
    "startend:end_checker": ({"end_phrase": "Is that all?"}, "Tea. Is that all?", "Tea."),
    "startend:quotation": ({}, '"Tea."', "Tea."),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        "VERY GOOD tea",
        "VERY good tea",
    ),
    "change_case:english_capital": ({}, "TEA.", "Tea."),
    "change_case:english_lowercase": ({}, "tea.", "Tea."),
    "punctuation:no_comma": ({}, "Tea and milk", "Tea, milk"),
}
# As the Hub's table has them: every argument in every row.
NONES = {name: None for kwargs, _, _ in INSTRUCTIONS.values() for name in kwargs}


def write(path, *asked):
    rows = [
        {
            "key": number,
            "prompt": "Write.",
            "instruction_id_list": [name for name, _ in instructions],
            "kwargs": [NONES | kwargs for _, kwargs in instructions],
        }
        for number, instructions in enumerate(asked)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_each_instruction(tmp_path, name):
    kwargs, right, wrong = INSTRUCTIONS[name]
    (row,) = ifeval(path=write(tmp_path / "set.jsonl", [(name, kwargs)]))
    assert (row["prompt"], row["answer"], row["task"], row["id"]) == ("Write.", None, "ifeval", 0)
    constraints = [row["constraints"]] * 2
    assert instruction_reward([right, wrong], constraints=constraints, mode="all") == [1.0, 0.0]


def test_both_relations_and_numbers_of_json(tmp_path):
    asked = [("length_constraints:number_words", {"num_words": 6.0, "relation": r}) for r in ("at least", "less than")]
    (row,) = ifeval(path=write(tmp_path / "set.jsonl", asked))
    assert row["constraints"] == [{"kind": "num_words", "at_least": 6}, {"kind": "num_words", "at_most": 5}]


def test_what_has_no_counterpart_is_left_out_and_counted(tmp_path, caplog):
    fine, russian = ("punctuation:no_comma", {}), ("language:response_language", {"language": "ru"})
    path = write(tmp_path / "set.jsonl", [fine], [fine, russian], [russian], [("new:kind", {})])
    with caplog.at_level(logging.WARNING):
        assert [row["id"] for row in ifeval(path=path)] == [0]
    assert "left out 3 of 4 problems, which have an instruction without a counterpart" in caplog.text
    assert "(language:response_language 2, new:kind 1)" in caplog.text


def test_wrong_rows_are_named(tmp_path):
    path = write(tmp_path / "set.jsonl", [("keywords:existence", {})])
    with pytest.raises(UserError, match="set.jsonl:1: no `keywords`"):
        ifeval(path=path)
