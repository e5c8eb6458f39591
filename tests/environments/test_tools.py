"""Tools of a recipe that bring their own schema."""

import json

import pytest

from r1lab.environments import Call, Turn
from r1lab.environments.make import make
from r1lab.environments.tools import made
from r1lab.environments.toolset import misfit, schema
from r1lab.errors import UserError


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
    assert [reply.content for reply in told] == ["time: {}", "Error: calculator: division by zero"]
    assert [reply.raised for reply in told] == [False, False]


@pytest.mark.parametrize("listed", ["[1]", '[{"function": {}}]', '{"type": "function"}', "null"])
def test_a_schema_that_is_none_is_refused(tmp_path, listed):
    (tmp_path / "tools.json").write_text(listed)
    with pytest.raises(UserError, match="each tool should be"):
        made({"schema": f"{tmp_path}/tools.json", "call": "calculator"})
