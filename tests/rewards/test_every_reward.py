"""What holds for every reward: no text makes it raise, hang or leave its range, and company changes nothing."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r1lab import lookup
from r1lab.grading import grader

PUZZLE = "(1) Zoey is a knight\n(2) Luke is a knave"
TESTS = [{"input": "1 2", "output": "3"}]
CALLS = [{"name": "age", "arguments": {"person": "Zoey"}}]
TOOLS = [{"name": "age", "parameters": {"type": "object", "properties": {"person": {"type": "string"}}}}]
CONSTRAINTS = [{"kind": "num_words", "at_least": 3}, {"kind": "no_commas"}, {"kind": "json_only"}]

# Name: columns of the row, settings, range.
REWARDS = {
    "accuracy": ({"answer": "7"}, {}, (0, 1)),
    "budget": ({"budget": 50}, {"alpha": 0.01}, (-1.5, 1)),
    "choice": ({"answer": "B", "choices": ["one", "two", "three"]}, {}, (0, 1)),
    "code": ({"tests": TESTS}, {"timeout": 2.0}, (0, 1)),
    "cosine_length": ({}, {"max_len": 50}, (-1, 1)),
    "countdown": ({"numbers": [3, 4, 5], "target": 12}, {"format_score": 0.1}, (0, 1)),
    "exact_match": ({"answer": ["Paris", "paris, France"]}, {}, (0, 1)),
    "format": ({}, {}, (0, 1)),
    "instruction": ({"constraints": CONSTRAINTS}, {}, (0, 1)),
    "knights_knaves": ({"answer": PUZZLE}, {}, (0, 1)),
    "language_consistency": ({"language": "en"}, {}, (0, 1)),
    "length": ({}, {}, (-0.5, 0.5)),
    "reasoning_steps": ({}, {}, (0, 1)),
    "repetition": ({}, {"max_penalty": -1.0}, (-1, 0)),
    "soft_overlong": ({}, {"max_completion_length": 50, "cache": 20}, (-1, 0)),
    "tag_count": ({}, {}, (0, 1)),
    "tool_calls": ({"answer": CALLS, "tools": TOOLS}, {}, (0, 1)),
}
OWN_TESTS = {
    "majority",
    "environment",
    "judge",
    "reward_model",
    "reasoning_gym",
    "fluency",
}  # these need more than a text
GROUPS = {"length"}  # compares a completion with its group

PIECES = [
    "<think>", "</think>", "<answer>", "</answer>", r"\boxed{", "}", "{", "$", "**", "7", "B", "(B)", "(1)", "or",
    "Zoey is a knight", "Luke is a knave", "3 + 4 + 5", "=", "12", "Paris", "the answer is ", "\n", "- ", "Step 1: ",
    "```python\n", "```", "print(3)", "<tool_call>", "</tool_call>",
    '{"name": "age", "arguments": {"person": "Zoey"}}', "\x00", "\u202e",
    "\u200b", "é", "ж", "知识", "٧", "\ud800", "\\", "^", ",", " ",
]  # fmt: skip
TEXTS = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=25).map("".join))

HOSTILE = {
    "1 MB": "x" * 1_000_000,
    "1 MB of words": "so it is, and " * 70_000,
    "ten thousand boxes": r"\boxed{7} " * 10_000,
    "boxes in boxes": r"\boxed{" * 10_000 + "7" + "}" * 10_000,
    "many tags": "<think></think><answer></answer>" * 5_000,
    "nested tags": "<think>" * 10_000 + "x" + "</think>" * 10_000,
    "open answers": "<think>x</think>" + "<answer>" * 50_000,
    "white space": "<think>x</think>" + " \n\t" * 200_000 + "<answer>7</answer>",
    "stars": "<think>x</think>" + "*" * 200_000 + "7",
    "dollars": "$" * 200_001,
    "backslashes": "\\" * 200_001 + "boxed{7}",
    "parentheses": "<answer>" + "(" * 50_000 + "3" + ")" * 50_000 + "</answer>",
    "sums": "<answer>" + "1+" * 100_000 + "1</answer>",
    "commas": "a, " * 300_000,
    "phrases": "the answer is " * 60_000,
    "fences": "```python\n" * 50_000,
    "look-alikes": "<think>ѕо іt іѕ</think><аnswer>7</аnswer>" * 1000,
    "right to left": "\u202e" * 100_000 + "<answer>7</answer>",
    "null bytes": "\x00" * 200_000,
    "lone surrogates": "\ud800" * 100_000,
    "combining marks": "e" + "\u0301" * 200_000,
    "digits": "<answer>" + "9" * 300_000 + "</answer>",
    "steps": "Step 1: go on\n" * 60_000,
    "calls": '<tool_call>{"name": "age", "arguments": {"person": "Zoey"}}</tool_call>' * 15_000,
    "calls in lines": '{"name": "age"};' * 15_000,
    "calls of calls": '<tool_call>{"name": "age", "arguments": ' + "[" * 100_000,
}


def build(name):
    columns, parameters, bounds = REWARDS[name]
    spec = {"name": name, **parameters}
    specs = [{"name": "format"}, spec] if name in ("length", "cosine_length", "budget") else [spec]
    return grader.build(specs), {"prompt": "?", **columns}, bounds


def graded(name, turns):
    """Value and reason of each turn; a token is a character here, and the first 200 count."""
    built, row, (low, high) = build(name)
    result = built.grade(turns, [row] * len(turns), [[ord(c) for c in turn[:200]] for turn in turns])
    assert result.fatal is None, result.reasons[name]
    assert all(value is None or low <= value <= high for value in result.values[name])
    return list(zip(result.values[name], result.reasons[name]))


def test_every_reward_is_here():
    assert set(lookup.names("rewards")) == REWARDS.keys() | OWN_TESTS


@pytest.mark.parametrize("name", REWARDS)
def test_no_text_raises_or_leaves_the_range_and_company_does_not_matter(name):
    @settings(max_examples=40 if name == "code" else 150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(TEXTS, min_size=1, max_size=5), st.randoms())
    def holds(turns, rng):
        scores = graded(name, turns)
        order = list(range(len(turns)))
        rng.shuffle(order)
        moved = graded(name, [turns[i] for i in order])
        assert moved == [scores[i] for i in order]
        if name not in GROUPS:
            assert graded(name, turns[:1]) == scores[:1]

    holds()


@pytest.mark.parametrize("name", REWARDS)
def test_hostile_texts_are_graded_in_time(name):
    graded(name, ["<think> x </think> 7"])  # imports, and the pool's start
    for kind, text in HOSTILE.items():
        started = time.process_time()
        graded(name, [text])
        assert time.process_time() - started < 10, f"{name}: {kind}"
