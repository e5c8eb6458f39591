"""The tools of r1lab say what they calculate or print, and refuse with a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1lab.environments.base import Call, ToolError, Turn
from r1lab.environments.own_tools import PRINTED, calculator, python
from r1lab.environments.tools import OWN
from r1lab.environments.toolset import Session, schema


@pytest.mark.parametrize("name", OWN)
def test_a_tool_of_our_own_has_a_schema(name):
    found = schema(OWN[name])["function"]
    assert found["name"] == name and found["description"] and ">>>" not in str(found)
    assert all(value["type"] == "string" for value in found["parameters"]["properties"].values())


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("0.1 + 0.2", "0.3"),
        ("1,234 × 2 ÷ 4", "617"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("-1/8", "-0.125"),
        ("2 / 6", "1/3 (about 0.333333)"),
        ("2 ** -2", "0.25"),
        ("10 ** -20 / 3", "1/300000000000000000000 (about 3.33333 * 10**-21)"),
        ("1 / 9 ** 900", "about 1.51964 * 10**-859"),
        ("0 ** 10 ** 9", "0"),
        ("(-1) ** 10 ** 9", "1"),
    ],
)
def test_the_calculator_is_exact(expression, value):
    assert calculator(expression) == value


@given(st.integers(-(10**12), 10**12), st.integers(0, 9))
def test_decimals_are_written_in_full(number, places):
    text = f"{number / 10**places:.{places}f}" if abs(number) < 10**9 else str(number)
    assert float(calculator(text)) == float(text)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("9 ** 9 ** 9", "a number has more than 1000 digits"),
        ("*".join(["9" * 140] * 2) + " ** 9", "a number has more than 1000 digits"),
        ("2 ** 0.5", "an exponent is not an integer"),
        ("1 / (3 - 3)", "division by zero"),
        ("5 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("3 +", "not an arithmetic expression: invalid syntax"),
        ("__import__('os')", "not an arithmetic expression; use numbers"),
        ("1e999999999", "not an arithmetic expression; use numbers"),
        ("(" * 400, "not an arithmetic expression; use numbers"),
        ("", "not an arithmetic expression"),
        ("(-8) ** 0.5", "an exponent is not an integer"),
        ("True + 1", "not an arithmetic expression"),
        ("1" * 301, "not an arithmetic expression"),
    ],
)
def test_the_calculator_refuses_the_rest(expression, reason):
    with pytest.raises(ToolError, match=reason.replace("(", r"\(")):
        calculator(expression)


@given(st.text("0123456789+-*/%() .e^,", max_size=30))
def test_the_calculator_answers_or_refuses(expression):
    try:
        assert calculator(expression)
    except ToolError:
        pass


def test_a_program_is_answered_with_what_it_prints():
    assert python("print(6 * 7)") == "42" and python("x = 1") == "(nothing was printed)"
    long = python(f"print('a' * {PRINTED} + 'z')")
    assert long.startswith("aaa") and long.endswith("az") and "[1 characters left out]" in long


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('so far'); 1 / 0", "error: ZeroDivisionError\nIt printed:\nso far"),
        ("import socket; socket.create_connection(('127.0.0.1', 80))", "error: "),
        ("while True: pass", "the program used more than 3 s of CPU time"),
        ("x = bytearray(2 << 30)", "the program used more than 512 MiB of memory"),
        ("print('x' * (2 << 20))", "the program printed more than 1024 KiB"),
    ],
)
def test_a_program_that_fails_is_answered_with_the_reason(code, reason):
    (reply,) = Session(tools=[python]).step(Turn("", [Call("python", {"code": code})]))
    assert reply.content.startswith(f"Error: python: {reason}") and not reply.raised
