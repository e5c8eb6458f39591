"""Calls of tools are read in every format, and the reason why a text is none is in words that a model can use."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1lab.environments import calls
from r1lab.environments.base import Call

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.from_regex(r"[a-z_][a-z_.0-9]{0,12}", fullmatch=True)
MARKS = [
    "<tool_call>",
    "</tool_call>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "</think>",
    "<|python_tag|>",
    "```",
]


@pytest.mark.parametrize("style", calls.STYLES)
@given(st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=3)), min_size=1, max_size=3))
def test_what_is_written_is_read(style, made):
    wanted = [Call(name, arguments) for name, arguments in made]
    joined = (";" if style == "llama" else "\n").join(calls.written(call, style) for call in wanted)
    if any(mark in joined for mark in MARKS[4:]) and style != "deepseek":
        return
    found, problem = calls.read("<think>I look it up.</think>\n" + joined, style)
    if not any(mark in json.dumps(made, ensure_ascii=False) for mark in MARKS):
        assert (found, problem) == (wanted, "")


@pytest.mark.parametrize("style", calls.STYLES)
@given(st.text(max_size=60), st.lists(st.sampled_from([*MARKS, "{", "}", '"name"', ":", "[" * 5000]), max_size=6))
def test_nothing_that_a_model_writes_raises(style, text, marks):
    found, problem = calls.read(text.join(["", *marks, ""]), style)
    assert isinstance(problem, str) and not (found and problem)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("<tool_call>age(Mia)</tool_call>", "not valid JSON"),
        ("<tool_call>[1]</tool_call>", 'no object with a "name"'),
        ('<tool_call>{"name": 3}</tool_call>', 'no object with a "name"'),
        ('<tool_call>{"name": "age", "arguments": [1]}</tool_call>', "are no object"),
        ('<tool_call>{"name": "age", "arguments": "{"}</tool_call>', "not valid JSON"),
        ("<tool_call>", "not valid JSON"),
        ("<tool_call>" + "[" * 100_000, "not valid JSON"),
    ],
)
def test_a_call_that_cannot_be_read_says_why(written, why):
    found, problem = calls.read(written)
    assert not found and why in problem.replace("not an object", "no object")


def test_a_call_in_the_thinking_does_not_count():
    call = calls.written(Call("age", {"person": "Mia"}))
    assert calls.read(f"<think> {call} </think> 42") == ([], "")
    assert calls.read(f"<think> so </think> {call}")[0] == [Call("age", {"person": "Mia"})]


def test_openais_form_and_arguments_as_a_text_are_read():
    text = '<tool_call>{"type": "function", "function": {"name": "f", "arguments": "{\\"x\\": 1}"}}</tool_call>'
    assert calls.read(text) == ([Call("f", {"x": 1})], "")


def test_text_without_a_call_is_no_call_in_any_format():
    for style in calls.STYLES:
        assert calls.read('The answer is {"x": 1}.', style) == ([], "")
