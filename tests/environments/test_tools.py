"""r1lab's own tools, and those that bring their own schema."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1lab.environments import Call, ToolError, Turn
from r1lab.environments.make import make
from r1lab.environments.tools import OWN, calculator, made
from r1lab.environments.toolset import misfit, schema
from r1lab.errors import UserError


@pytest.mark.parametrize("name", OWN)
def test_a_tool_of_our_own_has_a_schema(name):
    found = schema(OWN[name])["function"]
    assert found["name"] == name and found["parameters"]["required"] and ">>>" not in str(found)


@pytest.mark.parametrize(
    ("expression", "value"),
    [("2 + 3 * 4", "14"), ("-(7 - 9)", "2"), ("1 / 4", "0.25"), ("8/2", "4"), ("7 // 2 % 2", "1"), ("2 ** 9", "512")],
)  # fmt: skip
def test_the_calculator_calculates(expression, value):
    assert calculator(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "2 +",
        "1 / 0",
        "x",
        "__import__('os')",
        "9 ** 9 ** 9",
        "(" * 150,
        "1" * 201,
        "(-8) ** 0.5",
        "True + 1",
        "1e999",
    ],
)
def test_what_is_no_arithmetic_is_refused(expression):
    with pytest.raises(ToolError):
        calculator(expression)


@given(st.text("0123456789+-*/%() .e", max_size=30))
def test_the_calculator_answers_or_refuses(expression):
    try:
        assert calculator(expression)
    except ToolError:
        pass


def test_tools_in_the_format_of_openai_share_one_function(tmp_path):
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    listed = [
        {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": parameters}},
        {"name": "time", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
    ]
    (tmp_path / "tools.json").write_text(json.dumps(listed))
    (tmp_path / "run.py").write_text("def run(name, arguments):\n    return f'{name}: {arguments}'\n")
    entry = {"schema": f"{tmp_path}/tools.json", "call": f"{tmp_path}/run.py:run"}
    weather, time = made(entry)
    assert (
        weather(city="Rome") == "weather: {'city': 'Rome'}" and misfit(weather, {}) == "the argument city is missing"
    )
    assert schema(time) == {"type": "function", "function": listed[1]}
    session = make({"environment": None, "tools": [entry, "calculator"]})
    told = session.step(Turn("", [Call("time", {}), Call("calculator", {"expression": "1/0"})]))
    assert [reply.content for reply in told] == ["time: {}", "Error: calculator: 1/0 has no value: division by zero"]
    assert [reply.raised for reply in told] == [False, False]


@pytest.mark.parametrize("listed", ["[1]", '[{"function": {}}]', '{"type": "function"}', "null"])
def test_a_schema_that_is_none_is_refused(tmp_path, listed):
    (tmp_path / "tools.json").write_text(listed)
    with pytest.raises(UserError, match="each tool should be"):
        made({"schema": f"{tmp_path}/tools.json", "call": "calculator"})
