"""What a program printed and what a function returned, beside what it should be."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.rewards.code_results import printed, same

SAME_PRINTS = [  # printed, expected
    ("3", "3"),
    ("3.0", "3"),
    ("3", "3.0"),
    ("3.", "3"),
    ("+3", "3"),
    ("-0", "0"),
    ("-0.0", "0"),
    (".5", "0.5"),
    ("1e3", "1000"),
    ("1E-3", "0.001"),
    ("0.30000000000000004", "0.3"),
    ("2.5000000001", "2.5"),
    ("0.3333333333333333", "0.333333333333"),
    ("0.333333", "0.333333333333"),
    ("1.4142135623730951", "1.4142135624"),
    ("1000000.5", "1000000.500000"),
    ("1e-17", "0.0000000"),
    ("0.00", "-0.0000000"),
    ("4e-8", "0.0000000"),
    ("1.2345678e-05", "0.000012"),
    ("6.02214076e23", "6.02214076e+23"),
    ("123456789.123456789", "123456789.123457"),
    ("Case #1: 0.5000000001", "Case #1: 0.5"),
    ("1 2.0 x\n\n3", "1 2 x\n\n3.00"),
    ("  3  4 \r\n5\n\n", "3 4\n5"),
    ("YES", "YES\n"),
    ("", "\n"),
    ("007", "007"),
    ("9" * 50_000, "9" * 50_000 + ".0"),
]
OTHER_PRINTS = [
    ("0.35", "0.34"),
    ("3.1", "3"),
    ("3.0000001", "3"),
    ("2.9999999999999996", "3"),
    ("1000000007", "1000000008"),
    ("1000000007.0", "1000000008"),
    ("12345678.13", "12345678.12"),
    ("0.3333333333", "0.33"),
    ("0.33", "0.3333333333"),
    ("0.33334", "0.3333333333"),
    ("0.04", "0.0"),
    ("1e-7", "0.0000000"),
    ("-0.5", "0.5"),
    ("0", "1e-7"),
    ("101", "0101"),
    ("0101", "101"),
    ("7", "007"),
    ("1_000", "1000"),
    ("1,000", "1000"),
    ("0x10", "16"),
    ("nan", "0.5"),
    ("nan", "nan.0"),
    ("inf", "1e9999"),
    ("1e9999", "0.5"),
    ("0.5", "1e-9999"),
    ("1e999999999999", "1e999999999998"),
    ("٣", "3"),
    ("３", "3"),
    ("3\0", "3"),
    ("yes", "YES"),
    ("Yes.", "Yes"),
    ("3 3", "3"),
    ("3\n3", "3"),
    ("3\n\n4", "3\n4"),
    ("3 4", "3\n4"),
    ("x3.0", "x3"),
    ("[0.5]", "[0.50]"),
    ("9" * 50_000 + "8", "9" * 50_001),
]


@pytest.mark.parametrize(("text", "expected"), SAME_PRINTS, ids=lambda text: repr(text[:20]))
def test_the_same_print(text, expected):
    assert printed(text, expected)


@pytest.mark.parametrize(("text", "expected"), OTHER_PRINTS, ids=lambda text: repr(text[:20]))
def test_another_print(text, expected):
    assert not printed(text, expected)


@given(st.integers(), st.integers())
def test_integers_are_the_same_only_if_equal(number, other):
    for text in (str(number), f"{number}.0", f"{number}.000000"):
        assert printed(text, str(number))
        assert printed(text, str(other)) == (number == other)


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(6, 12))
def test_floats_are_the_same_however_they_are_rounded(number, decimals):
    assert printed(repr(number), f"{number:.{decimals}e}")
    assert printed(repr(number), repr(number))
    assert not printed(repr(number), repr(number + max(1.0, abs(number)) / 100))


@given(st.text(), st.text())
def test_any_text_can_be_compared(text, expected):
    assert printed(text, text)
    assert printed(text, expected) in (True, False)


@pytest.mark.parametrize("word", ["9", "0.3 ", "3.0\n", "-", "+.e", ".5", "1e9", "e"])
def test_two_megabytes_take_no_time(word):
    started = time.process_time()
    text = word * (2_000_000 // len(word))
    for expected in (text, text + "1", text[:-1] + "2"):
        printed(text, expected)
    assert time.process_time() - started < 20


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(NESTED, NESTED)
@settings(max_examples=200, deadline=None)
def test_same(value, other):
    assert same(value, value)
    assert same(json.loads(json.dumps(value)), value)
    assert same(value, other) == same(other, value)
    assert not same([value], value) and not same({"a": value}, value)


def test_floats():
    assert same(0.1 + 0.2, 0.3) and same(1e-17, 0.0) and same(3.0, 3) and same(float("inf"), float("inf"))
    assert not same(0.301, 0.3) and not same(10**400, 1.5) and not same(1, True) and not same(0, False)
    assert not same(0.0, False) and not same("1", 1) and not same(None, 0) and not same([], {})
