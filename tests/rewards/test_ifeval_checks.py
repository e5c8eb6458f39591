"""IFEval's own checks: what they let pass and what they do not, by the definitions in its code."""

import re
import sys
import time
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.rewards import instruction_reward
from r1lab.rewards.constraints import KINDS
from r1lab.rewards.ifeval_checks import OFFICIAL, num_bullets, num_placeholders, title, unmet

# Constraint, answers that IFEval takes, answers that it refuses.
VERDICTS = [
    ({"kind": "num_words", "exactly": 4}, ["a well-known b", "it's 3.5", "a_b c d e"], ["one two three", "你好"]),
    (
        {"kind": "num_paragraphs", "exactly": 2, "divider": "***"},
        ["A\n\nB\n***\nC", "A *** B", "***\nA\n***\nB", "A\n***\nB\n***\n", "A***B", "***very*** and"],
        ["A\n\nB", "A", "A\n***\n***\nB", "A\n***\nB\n***\nC"],
    ),
    (
        {"kind": "num_paragraphs", "exactly": 2, "divider": "blank"},
        ["A\n\nB", "A\n\n\n\nB\n\n"],
        ["A\n***\nB", "A\n\nB\n\nC"],
    ),
    (
        {"kind": "num_bullets", "exactly": 2},
        ["* a\n- b", "-a\n-b", "*a\n  * b", "---\n***\n- "],
        ["** a\n** b", "+ a\n• b"],
    ),
    ({"kind": "num_placeholders", "at_least": 2}, ["[a] [a]", "[a](x) []"], ["[[a] b]", "[a\nb] [c]", "[a"]),
    (
        {"kind": "num_highlights", "at_least": 2},
        ["*a* *a*", "**a** b *c*", "2 * 3 * 4 *b*"],
        ["*a*", "****", "* *", "_a_ _b_"],
    ),
    (
        {"kind": "num_sections", "name": "Section", "at_least": 2},
        ["Section 1 Section 7", "Section1\nSection2"],
        ["section 1 section 2"],
    ),
    ({"kind": "keyword_count", "keyword": "art", "at_least": 2}, ["smart Art", "artart"], ["art"]),
    ({"kind": "letter_count", "letter": "N", "at_most": 1}, ["no", "x"], ["No, n"]),
    ({"kind": "keywords", "words": ["sea", "salt"]}, ["Seas are salty."], ["The sea."]),
    ({"kind": "forbidden_words", "words": ["sea"]}, ["Seas.", "a seashell"], ["A SEA.", "sea-salt"]),
    ({"kind": "lower_case"}, ["all lower 1"], ["Not", "1"]),
    ({"kind": "upper_case"}, ["ALL UPPER 1"], ["Not", "1"]),
    ({"kind": "title"}, ["<<a>>", "x <<a>> b", "<<<a>>>", "<<.>>"], ["<<>>", "<< >>", "<a>", "<<a\nb>>", ">>a<<"]),
    (
        {"kind": "json_only"},
        ['{"a": 1}', "5", "{}", "```json\n[1]\n```", '{"a": 1, "a": 2}', "NaN"],
        ["{'a': 1}", "x", "[1] x"],
    ),
    ({"kind": "starts_with", "prefix": "My"}, ["my own", " MY"], ["**My**"]),
    ({"kind": "ends_with", "suffix": "Any?"}, ['"Many?"', "so any? "], ["Any?!", "**Any?**"]),
    ({"kind": "quoted"}, ['"a"', ' "" ', '"a" and "b"'], ['"', '"a', "“a”"]),
    ({"kind": "no_commas"}, ["a、b", "a"], ["a, b", "1,000"]),
    (
        {"kind": "two_responses"},
        ["A ****** B", "******\nA\n******\nB", "A\n******\nA!"],
        ["A\n******\nA", "A", "A\n******\n******\nB"],
    ),
    ({"kind": "postscript"}, ["P.S. A\n\nB", "so p. s. x", "P.S."], ["PS: x", "ps"]),
    ({"kind": "postscript", "marker": "P.P.S"}, ["P. P. S x", "P.P.S."], ["P.S. x"]),
    (
        {"kind": "repeat_prompt", "prompt": "What is it?"},
        ["what is it?", "What is it? A dog."],
        ["What  is it? A dog.", "A dog."],
    ),
    (
        {"kind": "paragraph_starts", "number": 2, "word": "so"},
        ["A\n\nSo, b", "A\n\n'so' b", "A\n\nso."],
        ["A\n***\nSo b", "A\n\n**So** b", "So", "A\n\n\n\nSo"],
    ),
    (
        {"kind": "one_of", "options": ["My answer is yes.", "My answer is no."]},
        ["**My answer is no.**", "I say: My answer is no. Or My answer is yes."],
        ["my answer is no.", "My answer is no"],
    ),
]


@pytest.mark.parametrize(("constraint", "taken", "refused"), VERDICTS, ids=lambda value: str(value)[:30])
def test_verdicts(constraint, taken, refused):
    for text in (*taken, *refused):
        (score,) = instruction_reward([text], constraints=[[constraint]], mode="official")
        assert score == (text in taken), text


def test_all_kinds_but_script_have_an_official_check():
    assert KINDS.keys() - OFFICIAL.keys() == {"script"}
    counted = {"num_sentences", "num_capital_words"}
    assert {rule["kind"] for rule, *_ in VERDICTS} == OFFICIAL.keys() - counted
    assert unmet("Да", {"kind": "script", "name": "cyrillic"}) is None


def test_all_of_them_or_nothing_and_no_empty_answer():
    rules = [{"kind": "no_commas"}, {"kind": "num_words", "at_most": 2}]
    assert instruction_reward(["a b", "a b c", " ", "<think> a"], constraints=[rules] * 4, mode="official") == [
        1,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("kind", "function"), [("num_sentences", "sent_tokenize"), ("num_capital_words", "word_tokenize")]
)
def test_what_needs_nltk(monkeypatch, kind, function):
    rule = {"kind": kind, "exactly": 2}
    monkeypatch.setitem(sys.modules, "nltk.tokenize", None)
    with pytest.raises(
        UserError, match="mode: official: counts sentences and capital words with nltk.*pip install nltk"
    ):
        unmet("A. B.", rule)
    monkeypatch.setitem(sys.modules, "nltk.tokenize", types.SimpleNamespace(**{function: str.split}))
    assert unmet("A. B.", rule) is None


def test_a_keyword_that_is_no_regular_expression():
    with pytest.raises(ValueError, match="constraints: keywords: IFEval reads it as a regular expression: missing"):
        unmet(":(", {"kind": "keywords", "words": [":("]})


TEXTS = st.lists(st.sampled_from(["*", "-", "\n", " ", "a", "[", "]", "<<", ">>", "<", ">", "\t", "**"])).map("".join)


@given(TEXTS)
def test_what_is_counted_in_linear_time_is_what_the_definitions_count(text):
    bullets = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE) + re.findall(r"^\s*-.*$", text, re.MULTILINE)
    assert num_bullets(text) == len(bullets)
    assert num_placeholders(text) == len(re.findall(r"\[.*?\]", text))
    titles = re.findall(r"<<[^\n]+>>", text)
    assert (title(text) is None) == any(found.lstrip("<").rstrip(">").strip() for found in titles)


@pytest.mark.parametrize(
    "piece", ["[", "<<a", "*", "* ", "\n", " ", "-\n", "***", "Section 1", "P. ", '"', "```", "a", "{", "p.\n"]
)
def test_a_megabyte_takes_no_time(piece):
    rules = [rule for rule, *_ in VERDICTS]
    started = time.process_time()
    instruction_reward([piece * (1_000_000 // len(piece))], constraints=[rules], mode="official")
    assert time.process_time() - started < 10
