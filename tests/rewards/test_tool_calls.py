"""Calls of tools are compared as BFCL compares them, and nothing else than the expected calls is right."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1lab.data import bfcl
from r1lab.environments.base import Call
from r1lab.environments.calls import STYLES, written
from r1lab.errors import UserError
from r1lab.rewards.tool_calls import example, expected_calls, tool_calls_reward

SET = Path(__file__).parents[3] / "shared" / "data" / "bfcl"
CATEGORIES = ["simple_python", "multiple", "parallel", "parallel_multiple"]
needs_data = pytest.mark.skipif(not SET.is_dir(), reason="needs ../shared/data/bfcl")


def tool(name="f", required=(), **types):
    schemas = {key: kind if isinstance(kind, dict) else {"type": kind} for key, kind in types.items()}
    return {"name": name, "parameters": {"type": "object", "properties": schemas, "required": list(required)}}


def said(*calls, style="hermes"):
    return (";" if style == "llama" else "\n").join(written(call, style) for call in calls)


def score(turn, answer, tools, **settings):
    return tool_calls_reward([turn], answer=[answer], tools=[tools], **settings)[0]


def of_value(value, allowed, kind, **settings):
    """The score of one argument with a value."""
    return score(said(Call("f", {"x": value})), [{"f": {"x": allowed}}], [tool(x=kind)], **settings)


RIGHT = [
    (5, [5], "integer"),
    (5, [5.0], "number"),
    (5.0, [5], "number"),
    (True, [True], "boolean"),
    ("april 1 2024", ["April 1, 2024"], "string"),
    ("it's", ['it"s'], "string"),
    ("", ["a", ""], "string"),
    (["a b", 1], [["A-B", 1]], "array"),
    ([1, 2], [[1, 2]], {"type": "array", "items": {"type": "integer"}}),
    ([[1], [2]], [[[1], [2]]], {"type": "array", "items": {"type": "array"}}),
    ({"min": 3, "name": "joe"}, [{"min": [3, 4], "name": ["Joe"], "max": [9, ""]}], "object"),
    ([{"field": "age"}], [[{"field": ["Age"]}]], {"type": "array", "items": {"type": "object"}}),
    ("variable", ["variable"], "integer"),  # BFCL: the answer is the name of a variable
    (None, ["", None], "number"),
]
WRONG = [
    (5.0, [5], "integer", "wrong_type"),
    (True, [1], "integer", "wrong_type"),
    ("5", [5], "integer", "wrong_type"),
    (6, [5], "integer", "wrong_value"),
    ("cat", ["cut"], "string", "wrong_value"),
    (["b", "a"], [["a", "b"]], "array", "wrong_value"),
    (["1"], [[1]], {"type": "array", "items": {"type": "integer"}}, "wrong_type"),
    ([1], [[1.0]], {"type": "array", "items": {"type": "number"}}, "wrong_type"),  # BFCL converts at the top only
    ({"min": 3}, [{"min": [3], "max": [9]}], "object", "wrong_value"),
    ({"min": 3, "max": 9}, [{"min": [3]}], "object", "wrong_value"),
    ({"min": [3]}, [{"min": [3]}], "object", "wrong_value"),
    ([{"a": 1}, {"a": 1}], [[{"a": [1]}]], {"type": "array", "items": {"type": "object"}}, "wrong_value"),
    ("Variable", ["variable"], "integer", "wrong_value"),
    ([], [{"a": [1]}], "object", "wrong_type"),
    ({}, ["", {"a": [1]}], "object", "wrong_value"),
]


@pytest.mark.parametrize(("value", "allowed", "kind"), RIGHT)
def test_a_value_that_is_right(value, allowed, kind):
    found = of_value(value, allowed, kind)
    assert found == 1, found.reason


@pytest.mark.parametrize(("value", "allowed", "kind", "why"), WRONG)
def test_a_value_that_is_wrong(value, allowed, kind, why):
    found = of_value(value, allowed, kind)
    assert (found, found.reason) == (0, f"{why}: x")


TOOLS = [tool("f", ("x",), x="integer", y="string"), tool("g.h", x="integer")]
ONE, TWO = Call("f", {"x": 1}), Call("g_h", {"x": 2})
F, G = {"f": {"x": [1], "y": ["a", ""]}}, {"g.h": {"x": [2]}}


@pytest.mark.parametrize(
    ("turn", "answer", "why"),
    [
        (said(ONE), [F], "correct"),
        ("I look it up.\n" + said(ONE) + "\nWait.", [F], "correct"),
        (said(Call("f", {"x": 1, "y": "A"})), [F], "correct"),
        (said(TWO), [G], "correct"),
        (said(Call("g.h", {"x": 2})), [G], "correct"),
        (said(ONE, TWO), [F, G], "correct"),
        (said(TWO, ONE), [F, G], "correct"),
        ("None of the tools can do this.", [], "correct"),
        (said(TWO), "any", "correct"),
        ("", [F], "no_call"),
        ("f(x=1)", [F], "no_call"),
        ("", "any", "no_call"),
        ("", [], "no_answer"),
        ("<think> Nothing fits. </think> ", [], "no_answer"),
        ("<think> Nothing fits.", [], "unfinished"),
        (f"<think> {said(ONE)}", [F], "unfinished"),
        (f"<think> {said(ONE)} </think> So f is called.", [F], "no_call"),
        (said(ONE), [], "unexpected_call: f"),
        ("<tool_call>f(x=1)</tool_call>", [], "unparsed"),
        ("<tool_call>f(x=1)</tool_call>", [F], "unparsed"),
        (said(Call("h", {"x": 1})), "any", "wrong_name: h"),
        (said(Call("h", {"x": 1})), [F], "wrong_name: h"),
        (said(Call("f", {})), [F], "missing_argument: x"),
        (said(Call("f", {"x": 1, "z": 1})), [F], "unknown_argument: z"),
        (said(Call("f", {"x": 1, "y": "b"})), [F], "wrong_value: y"),
        (said(ONE, ONE), [F], "wrong_count: 2 instead of 1"),
        (said(ONE), [F, G], "wrong_count: 1 instead of 2"),
        (said(ONE, ONE), [F, G], "wrong_name: f"),
    ],
)
def test_each_failure_has_its_reason(turn, answer, why):
    found = score(turn, answer, TOOLS)
    assert found == (why == "correct") and found.reason.startswith(why)


def test_calls_are_assigned_to_the_expected_ones_if_that_is_possible_at_all():
    """BFCL gives each expected call the first call that fits, and so rejects the second order."""
    either, one = {"f": {"x": [1, 2]}}, {"f": {"x": [1]}}
    calls = [Call("f", {"x": 2}), Call("f", {"x": 1})]
    assert score(said(*calls), [either, one], TOOLS) == score(said(*calls[::-1]), [either, one], TOOLS) == 1
    assert score(said(calls[1], calls[1]), [either, one], TOOLS) == 1
    assert score(said(calls[0], calls[0]), [either, one], TOOLS) == 0


@pytest.mark.parametrize("style", STYLES)
def test_each_style_is_read_where_it_is_named_and_by_itself(style):
    turn = said(ONE, TWO, style=style)
    assert score(turn, [F, G], TOOLS, calls=style) == score(turn, [F, G], TOOLS) == 1
    for other in set(STYLES) - {style}:
        assert score(turn, [F, G], TOOLS, calls=other) == 0


def test_strict_closes_what_bfcl_accepts():
    for value, allowed in [("x2", ["x^2"]), ("15", ["1.5"]), ("5", ["-5"]), ("", ["a", ""]), (".", ["a", ""])]:
        assert of_value(value, allowed, "string") == 1
        assert of_value(value, allowed, "string", mode="strict") == 0
    assert of_value([], [[1], ""], "array") == 1 and of_value([], [[1], ""], "array", mode="strict") == 0
    assert of_value("new  york", ["New York"], "string", mode="strict") == 1


def test_own_rows_have_calls_as_a_model_writes_them_and_columns_of_json():
    arguments = {"who": {"name": "Mia", "tags": ["a", {"b": [1]}]}, "when": [{"day": 1}]}
    answer = json.dumps([{"name": "f", "arguments": arguments}])
    tools = json.dumps([tool(who="object", when={"type": "array", "items": {"type": "object"}})])
    assert score(said(Call("f", arguments)), answer, tools) == 1
    other = copy.deepcopy(arguments)
    other["who"]["tags"][1]["b"] = [2]
    assert score(said(Call("f", other)), answer, tools) == 0
    other["who"] = {"name": ["Mia"], "tags": [arguments["who"]["tags"]]}
    assert score(said(Call("f", other)), answer, tools) == 0


@pytest.mark.parametrize("answer", ["56", "no JSON", {"f": {}}, [{"f": {"x": 1}}], [3], [{"h": {"x": [1]}}]])
def test_an_answer_that_is_no_list_of_calls_of_the_tools_is_an_error(answer):
    with pytest.raises(ValueError, match="answer|Expecting"):
        score(said(ONE), answer, TOOLS)


def test_a_setting_that_is_unknown_is_one_error():
    with pytest.raises(UserError, match="mode: 'exact': should be ast or strict"):
        score("", [], TOOLS, mode="exact")
    with pytest.raises(UserError, match="calls: 'openai': should be auto, hermes, llama, deepseek"):
        score("", [], TOOLS, calls="openai")


KINDS = {
    "integer": st.integers(-(10**6), 10**6),
    "number": st.floats(allow_nan=False, allow_infinity=False),
    "boolean": st.booleans(),
    "string": st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=8),
    "array": st.lists(st.integers() | st.text("abc", min_size=1), min_size=1, max_size=3),
    "object": st.dictionaries(st.text("abc", min_size=1), st.integers(), min_size=1, max_size=3),
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_of_any_kind_of_value_the_expected_one_is_right_and_another_is_wrong(kind, data):
    value, other = data.draw(KINDS[kind]), data.draw(KINDS[kind])
    answer, tools = [{"name": "f", "arguments": {"x": value}}], [tool(x=kind)]
    assert score(said(Call("f", {"x": value})), answer, tools) == 1
    folded = [json.dumps(one).lower() for one in (value, other)]
    assert score(said(Call("f", {"x": other})), answer, tools) == (value == other or folded[0] == folded[1])


@pytest.fixture(scope="module")
def rows():
    return [row for category in CATEGORIES for row in bfcl(path=str(SET), category=category)]


def expected(row):
    return [example(one, row["tools"]) for one in expected_calls(row["answer"])]


def graded(turns, rows, **settings):
    columns = {name: [row[name] for row in rows] for name in ("answer", "tools")}
    return tool_calls_reward(turns, **columns, **settings)


@needs_data
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("mode", ["ast", "strict"])
def test_the_expected_calls_of_every_row_of_bfcl_are_right_in_any_order(rows, style, mode):
    calls = [expected(row) for row in rows]
    for order in (1, -1):
        scores = graded([said(*made[::order], style=style) for made in calls], rows, mode=mode)
        assert scores == [1.0] * 1000, [s.reason for s in scores if s != 1][:3]


def other_value(value):
    """A value of the same type that no row allows."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 7919
    if isinstance(value, str):
        return value + "zq"
    return [*value, "zq"] if isinstance(value, list) else value | {"zq": 1}


def without_an_argument(calls):
    first = next(call for call in calls if call.arguments)
    first.arguments.popitem()
    return said(*calls)


def with_a_wrong_value(calls):
    first = next(call for call in calls if call.arguments)
    name = next((n for n, v in first.arguments.items() if not isinstance(v, bool)), next(iter(first.arguments)))
    first.arguments[name] = other_value(first.arguments[name])
    return said(*calls)


def with_an_unknown_argument(calls):
    calls[-1].arguments["zq"] = 1
    return said(*calls)


def with_another_name(calls):
    calls[-1].name += "_zq"
    return said(*calls)


def in_words(calls):
    return "I would call " + " and ".join(f"{c.name}({json.dumps(c.arguments)[1:-1]})" for c in calls) + "."


CORRUPTIONS = {
    "an argument left out": without_an_argument,
    "a wrong value": with_a_wrong_value,
    "an unknown argument": with_an_unknown_argument,
    "another name": with_another_name,
    "one call more": lambda calls: said(*calls, calls[0]),
    "one call less": lambda calls: said(*calls[1:]),
    "in words": in_words,
    "as a list in JSON": lambda calls: json.dumps([{"name": c.name, "arguments": c.arguments} for c in calls]),
    "in the thinking": lambda calls: f"<think> {said(*calls)} </think> Done.",
    "in thinking that never ends": lambda calls: f"<think> {said(*calls)}",
    "as JSON that is broken": lambda calls: said(*calls).replace('"arguments": {', '"arguments": {{'),
}


@needs_data
@pytest.mark.parametrize("mode", ["ast", "strict"])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_no_corruption_of_the_expected_calls_is_right_on_any_row_of_bfcl(rows, corruption, mode):
    calls = [expected(row) for row in rows]
    some = [i for i, made in enumerate(calls) if any(call.arguments for call in made)]
    assert len(some) > 990
    turns = [CORRUPTIONS[corruption](copy.deepcopy(calls[i])) for i in some]
    scores = graded(turns, [rows[i] for i in some], mode=mode)
    right = [(rows[i]["id"], turn) for i, turn, value in zip(some, turns, scores) if value == 1]
    assert not right, (len(right), right[:2])


@needs_data
def test_the_calls_of_another_row_of_bfcl_are_wrong(rows):
    calls = [said(*expected(row)) for row in rows]
    scores = graded([calls[i - 1] for i in range(len(rows))], rows)
    assert sum(scores) == 0


@needs_data
def test_where_no_tool_of_bfcl_fits_words_are_right_and_calls_are_not():
    rows = bfcl(path=str(SET), category="irrelevance")
    some_call = [said(Call(row["tools"][0]["function"]["name"], {})) for row in rows]
    assert graded(["None of the tools fits."] * 240, rows) == [1.0] * 240
    assert graded(some_call, rows) == [0.0] * 240 == graded([""] * 240, rows)
