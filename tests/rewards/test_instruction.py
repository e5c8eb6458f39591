"""Verifiable instructions: each kind of constraint, what does not count, and how a row's mistakes are told."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.rewards.constraints import CHECKS, COUNTS, KINDS, num_sentences, unmet
from r1lab.rewards.instruction import instruction_reward
from r1lab.rewards.prose import paragraphs, words
from tests.work import growth

# One constraint of each kind, with answers that meet it and answers that do not.
CASES = {
    "num_words": (
        {"exactly": 3},
        ["One two three.", "one-way 3.5 it's", "你 好 a", "a\u200bb c d", "<b> x y"],
        ["One two", "one two three four", "--- *** ---", "你好"],
    ),
    "num_sentences": (
        {"at_least": 2},
        ["I came. I saw.", "It is late! Is it?", "I came.\n\nI saw", "我来了。我看见了。", "(So he said.) And went."],
        ["Yes. No. Yes. No.", "I came", "Dr. Smith came.", "It is 3.5 m", "... ... ...", "e. f. g."],
    ),
    "num_paragraphs": (
        {"exactly": 2},
        ["One.\n\nTwo.", "One.\nStill.\n \t\n\nTwo.", "One.\n***\nTwo.", "One.\n\n---\n\nTwo."],
        ["One.\nTwo.", "One.\n\n\n\n", "One.\n\nTwo.\n\nThree."],
    ),
    "num_bullets": (
        {"exactly": 2},
        ["- a\n- b", "* a\n  * b", "Text\n• a\n+ b\nText", "- a\n-\n- b"],
        ["- a", "-a\n-b", "- \n- ", "**a**\n**b**", "- a\n- b\n- c", "- ---\n- ***"],
    ),
    "num_placeholders": (
        {"at_least": 2},
        ["[name] at [address]", "[a][b]", "[Name], [name 2]"],
        ["[name]", "[name] [Name]", "[] [ ]", "[a](x) [b](y)", "[a\nb] [c", "[[[[", "[.] [..]"],
    ),
    "num_highlights": (
        {"at_least": 2},
        ["*one* and *two*", "**one** and *two*", "a *b* c *d* e"],
        ["*one*", "*one* *one*", "** **", "* a\n* b", "*a\nb*", "2 * 3 * 4", "****", "*.* *..*"],
    ),
    "num_sections": (
        {"exactly": 2},
        ["Section 1\nOnce.\nSection 2\nTwice.", "## Section 1: Once\n## section 2: Twice"],
        ["Section 1\nSection 2", "Section 2\na\nSection 3\nb", "Section 1 Section 2 a", "Section 1\na"],
    ),
    "num_capital_words": (
        {"at_least": 2},
        ["VERY BIG", "a VERY big HOUSE", "R2D2 and C3PO"],
        ["I A B", "Very Big", "VERY", "12 34", "V E R Y B I G"],
    ),
    "keyword_count": (
        {"keyword": "old cat", "at_least": 2},
        ["Old cat, OLD\ncat", "old cat's old cat", "old c\u200bat, old cat."],
        ["old cats old cats", "bold cat, old cat", "old, cat, old, cat", "old cat", "оld cat, оld cat"],
    ),
    "letter_count": ({"letter": "x", "at_least": 2}, ["xX", "ax-X", "ｘx"], ["x", "×х", "y"]),
    "keywords": (
        {"words": ["north", "C++"]},
        ["North of C++.", "c++, NORTH", "nor\u200bth C++"],
        ["northern C++", "north C", "nоrth C++", "C+"],
    ),
    "forbidden_words": (
        {"words": ["sorry", "as an"]},
        ["Sorrya", "as another", "fine", "as, an"],
        ["Sorry!", "SORRY", "so\u200brry", "s\u0336orry", "ｓｏｒｒｙ", "as\n an", "\u202esorry"],
    ),
    "lower_case": ({}, ["all lower", "ça va 1"], ["Not", "notT", "123"]),
    "upper_case": ({}, ["ALL UPPER", "ÇA VA 1"], ["NOt", "123"]),
    "title": ({}, ["<<My day>>\nIt was.", "A <<b>> c"], ["<<>>", "<< >>", "<My day>", "<<a\nb>>", "<<...>>"]),
    "json_only": (
        {},
        ['{"a": 1}', "[1]", '```json\n{"a": [1]}\n```', '```\n[1]\n```', ' \n{"a": {"b": 1}, "c": {"b": 1}} '],
        ['{"a": 1, "a": 2}', "{}", "[]", "5", '"a"', "{'a': 1}", '{"a": NaN}', 'Here: {"a": 1}', '{"a": 1} Done.',
         "[" * 100_000, '{"a":' * 50_000, '{\u200b"a": 1}', "1" * 5000, "```json\n```", "｛＂a＂:1｝"],
    ),
    "starts_with": ({"prefix": "My answer"}, ["my  answer is", "MY ANSWER"], ["So my answer", "My", ""]),
    "ends_with": ({"suffix": "Any questions?"}, ["Well. any questions?\n", "Any\nquestions?"], ["Any questions? No."]),
    "quoted": ({}, ['"Yes."', " “Yes.” \n"], ['"Yes.', "'Yes.'", '""', '"', '"..."', '"Yes." I said']),
    "no_commas": ({}, ["Yes and no", "a; b"], ["Yes, no", "是，不是", "是、不是", "نعم، لا", "﹐"]),
    "script": (
        {"name": "cyrillic"},
        ["Да это так", "Да 12 + 3!", "\u202eДа"],
        ["Yes it is so", "Да и yes of course", "12", "Дa" * 3],
    ),
    "two_responses": (
        {},
        ["One.\n******\nTwo.", "One.\n\n ****** \n\nTwo.\nMore."],
        ["One.\n******\nOne!", "One.\n******", "******\nTwo.", "A\n******\nB\n******\nC", "A ****** B", "A\n***\nB",
         "A\n******\n******\nB"],
    ),
    "postscript": ({}, ["Text.\n\nP.S. More.", "P.S. More"], ["Text.\n\nP.S.", "Text. P.S. More", "P.S. A\n\nText."]),
    "repeat_prompt": ({"prompt": "What is it?"}, ["What is  it? A dog."], ["What is it?", "A dog. What is it?"]),
    "paragraph_starts": (
        {"number": 2, "word": "so"},
        ["One.\n\nSo it was.", "One.\n***\n**So** it"],
        ["So.\n\nIt was", "So it was", "One.\n\nSome."],
    ),
    "one_of": (
        {"options": ["My answer is yes.", "My answer is no."]},
        ["My answer is yes.", " my answer is no\n"],
        ["My answer is yes. My answer is no.", "yes", "My answer is yes or no.", "My answer is yes. Or maybe not."],
    ),
}  # fmt: skip


def reason(turn, *constraints, **parameters):
    (score,) = instruction_reward([turn], constraints=[list(constraints)], **parameters)
    return score, score.reason


def test_every_kind_has_its_cases():
    assert CASES.keys() == KINDS.keys()
    assert len(COUNTS) + len(CHECKS) == len(KINDS) >= 20


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, case in CASES.items() for text in case[1]])
def test_met(kind, text):
    assert reason(f"<think> Hm. </think><answer>{text}</answer>", {"kind": kind, **CASES[kind][0]}) == (1.0, "all_met")
    assert reason(text, {"kind": kind, **CASES[kind][0]}) == (1.0, "all_met")


@pytest.mark.parametrize(
    ("kind", "text"), [(kind, text) for kind, case in CASES.items() for text in case[2]], ids=lambda value: value[:20]
)
def test_not_met(kind, text):
    assert unmet(text, {"kind": kind, **CASES[kind][0]}).startswith(f"{kind} (")
    score, why = reason(text, {"kind": kind, **CASES[kind][0]})
    assert score == 0.0
    assert why == "empty_answer" or why.startswith(f"failed: {kind} (")


# More answers that meet a constraint, and some close to them that do not.
MORE = [
    ({"kind": "forbidden_words", "words": ["don't"]}, False, ["Don’t go.", "So don‘t.", "don't"]),
    ({"kind": "keywords", "words": ["don't"]}, True, ["Don’t go.", "don't"]),
    (
        {"kind": "repeat_prompt", "prompt": "Say what's *it*."},
        True,
        ["**Say what’s it.** A dog.", '"Say what\'s it." A dog.'],
    ),
    (
        {"kind": "repeat_prompt", "prompt": "Say what's *it*."},
        False,
        ["**Say what’s it.**", "So: say what's it. A dog."],
    ),
    (
        {"kind": "num_sections", "exactly": 2},
        True,
        ["- Section 1: a\n- Section 2: b", "[Section 1]\na\n[Section 2]\nb"],
    ),
    ({"kind": "num_sentences", "exactly": 1}, True, ["On Jan. 5 we met."]),
    ({"kind": "num_sentences", "at_most": 2}, True, ["Stop! Tea is warm.", "Well... Tea is warm. Milk is cold."]),
    ({"kind": "num_sentences", "at_most": 2}, False, ["Tea. Milk. Water.", "Tea is warm. Yes. No."]),
    ({"kind": "quoted"}, False, ["«Tea is warm.»", "「Tea is warm.」", "‹Tea is warm.›"]),
    (
        {"kind": "num_sentences", "exactly": 2},
        True,
        ["Tea is warm.[1] Milk is cold.[2][3]", "It was in Jan. Then we left."],
    ),
    (
        {"kind": "num_sentences", "exactly": 1},
        True,
        [
            "Bring tools, e.g. hammers, and nails.",
            "I wonder... would it work?",
            "We met Dr. Smith of the U.S. army.",
            '"Is it late?" he asked.',
            "See fig. 3 and no. 7 of the list.",
            "It has tea, milk, etc. in it.",
            "J. R. Smith came home.",
            "Wait… what is it?",
            "It was 3 p.m. when he came.",
            "He said “no!” and left.",
        ],
    ),
    (
        {"kind": "num_sentences", "exactly": 2},
        True,
        [
            "Tea, milk, etc. are drinks. So is water.",
            "They sold tea etc. Then they left.",
            "He said no. Then he left.",
            "Well... I do not know. Do you?",
            "tea is warm. milk is cold.",
            "Tea is warm! milk is cold.",
            "He left at 5 p.m. She stayed on.",
            "It works... It does!",
            "**Tea is warm.** Milk is cold.",
            "Is it so? yes it is.",
            '(It is late.) "Go home."',
        ],
    ),
    (
        {"kind": "num_paragraphs", "exactly": 2},
        True,
        [
            "Tea.\n\nIt is green.\n***\nMilk.\n\nIt is white.",
            "Tea.\n\n***\n\nMilk.",
            "Tea.\n* * *\nMilk.",
            "Tea.\n\nMilk.",
            "***\nTea.\n***\nMilk.\n***",
            "Tea.\nStill.\n\n\nMilk.",
            "Tea.\n***\n***\nMilk.",
            "Tea.\n\nMilk.\n***",
        ],
    ),
    (
        {"kind": "num_paragraphs", "exactly": 2},
        False,
        ["Tea.\n***\nMilk.\n***\nWater.", "Tea *** milk", "Tea.\nMilk."],
    ),
    ({"kind": "num_paragraphs", "exactly": 2, "divider": "blank"}, True, ["Tea.\n\nMilk.", "Tea.\n***\nMilk."]),
    ({"kind": "num_paragraphs", "exactly": 2, "divider": "blank"}, False, ["Tea.\n\nIt.\n***\nMilk."]),
    ({"kind": "num_paragraphs", "exactly": 2, "divider": "***"}, False, ["Tea.\n\nMilk."]),
    (
        {"kind": "one_of", "options": ["My answer is yes.", "My answer is no."]},
        True,
        [
            "**My answer is no.**",
            "My answer is no!",
            '"My answer is no."',
            "my answer is **yes**",
            "My answer is no",
            "*My answer is yes*.",
            "`My answer is yes.`",
            "“My answer is no.”",
            "__My answer is no.__",
            "MY ANSWER IS NO.\n",
        ],
    ),
    (
        {"kind": "one_of", "options": ["My answer is yes.", "My answer is no."]},
        False,
        [
            "My answer is no?",
            "My answer is not.",
            "My answer is no. My answer is yes.",
            "yes",
            "My answer is yes_no.",
            "Not: my answer is no.",
            "My answer is no, or yes.",
            "~~My answer is no.~~",
        ],
    ),
    (
        {"kind": "two_responses"},
        True,
        [
            "******\nOne way.\n******\nAnother way.",
            "One way.\n******\nAnother way.\n******",
            "A\n\n******\n\nB",
            "******\nA\n******\nB\n******",
        ],
    ),
    (
        {"kind": "two_responses"},
        False,
        [
            "******\nA\n******\nA\n******",
            "******\nA\n******",
            "******\n******\nA",
            "A\n*****\nB",
            "******\nA\n******\nB\n******\nC",
        ],
    ),
    (
        {"kind": "postscript"},
        True,
        [
            "Dear all,\n\nCome.\n\nBest,\nAnn\nP.S. Bring tea.",
            "Come.\n\nP. S. Bring tea.",
            "Come.\n\n**P.S.** Bring tea.",
            "Come.\np.s. Bring tea",
            "Come.\n\n> P.S. Bring tea.",
            "Come.\n\nP.S.\u00a0Bring\nmore tea.",
            "Come.\n\nP.S.: Tea",
            "Come.\n\nP.S. Bring tea.\n\nP.P.S. And milk.",
            "Come.\n\n*P.S. Bring tea.*",
            'Come.\n\n"P.S. Tea."',
        ],
    ),
    (
        {"kind": "postscript"},
        False,
        ["Come.\nP.S.", "P.S. Tea.\n\nCome.", "Come, p.s. tea.", "Come.\n\nPS tea", "P.P.S. Tea."],
    ),
    (
        {"kind": "postscript", "marker": "P.P.S"},
        True,
        ["Come.\n\nP.P.S. Tea.", "Come.\nP. P. S. Tea.", "P.S. A\n\nP.P.S B"],
    ),
    ({"kind": "postscript", "marker": "P.P.S"}, False, ["Come.\n\nP.S. Tea.", "Come.\n\nP.P.S"]),
    (
        {"kind": "ends_with", "suffix": "Is that all?"},
        True,
        [
            'Done. "Is that all?"',
            "Done. **Is that all?**",
            "Done. Is that *all*?",
            "“Done. Is that all?”",
            "Done. `is that all?`",
            "Done. _Is that all?_",
            "Done.\n\nIs that\nall?",
        ],
    ),
    (
        {"kind": "ends_with", "suffix": "Is that all?"},
        False,
        ["Is that all? Yes.", "Is that all", "Is that all?!", "Is that all!"],
    ),
    (
        {"kind": "starts_with", "prefix": "My answer"},
        True,
        ["**My answer** is", '"My answer is"', "*My* answer", "_My answer_"],
    ),
    (
        {"kind": "starts_with", "prefix": "My answer"},
        False,
        ["So **my answer**", "My_answer", "# My answer", "My own answer"],
    ),
    ({"kind": "quoted"}, True, ['"Yes.”', "„Yes.“", "“It is so.”", '"One.\n\nTwo."']),
    ({"kind": "quoted"}, False, ['"Yes".', "«Yes.", '"Yes.', "”Yes.“x"]),
    (
        {"kind": "json_only"},
        True,
        ['```JSON\n{"a": 1}\n```', "````json\n[1]\n````", "~~~json\n[1]\n~~~", "```json [1] ```", "```[1]```"],
    ),
    (
        {"kind": "json_only"},
        False,
        ["```python\n[1]\n```", "```json\n[1]", "[1]\n```", "```json\n[1]\n```\nDone", "`" * 999],
    ),
]


@pytest.mark.parametrize(
    ("constraint", "met", "text"), [(rule, met, text) for rule, met, texts in MORE for text in texts]
)
def test_more_answers(constraint, met, text):
    assert (unmet(text, constraint) is None) == met


LONG = {"kind": "num_words", "at_least": 100}
NO_COMMAS = {"kind": "no_commas"}


def test_the_score_is_the_share_or_all_of_them():
    assert reason("Yes.", NO_COMMAS, LONG) == (0.5, "failed: num_words (1, not >= 100)")
    assert reason("Yes.", NO_COMMAS, LONG, mode="all") == (0.0, "failed: num_words (1, not >= 100)")
    assert reason("Yes.", NO_COMMAS, mode="all") == (1.0, "all_met")
    both = reason("a, b", NO_COMMAS, LONG)
    assert both == (0.0, "failed: no_commas (1 commas), num_words (2, not >= 100)")


def test_bounds_are_all_to_be_met():
    between = {"kind": "num_words", "at_least": 2, "at_most": 3}
    assert [unmet(text, between) for text in ("a", "a b", "a b c", "a b c d")] == [
        "num_words (1, not >= 2)", None, None, "num_words (4, not <= 3)",
    ]  # fmt: skip


def test_only_the_final_answer_counts():
    keyword = {"kind": "keywords", "words": ["north"]}
    assert reason("<think> north </think> I go south.", keyword)[0] == 0
    assert reason("<think> north </think> North! <answer> I go south. </answer>", keyword)[0] == 0
    assert reason("<think> south </think> Hm. <answer> I go north. </answer>", keyword)[0] == 1
    assert reason("<answer> north </answer><answer> south </answer>", keyword)[0] == 0
    assert reason("<think> I go north, <answer> north </answer>", keyword) == (0.0, "no_answer")


@pytest.mark.parametrize(
    "turn",
    ["", " \n", "<think> Long. </think>", "<think> Long. </think><answer></answer>", "...", "\u200b\u202e\0",
     "*** ---", "<answer>\u200d</answer>", "（）", "\u0336", "<think></think> <answer> - </answer>"],
)  # fmt: skip
def test_an_answer_without_a_word_meets_nothing(turn):
    rules = [NO_COMMAS, {"kind": "forbidden_words", "words": ["no"]}, {"kind": "num_words", "at_most": 5}]
    assert reason(turn, *rules) == (0.0, "empty_answer")


def test_rows_without_constraints():
    assert instruction_reward(["a", "b", "c"], constraints=[None, [], [NO_COMMAS]]) == [None, None, 1.0]


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ({"kind": "num_wrods", "at_least": 1}, r"num_wrods: unknown kind \(did you mean `num_words`\?\)"),
        ({"kind": None}, "None: unknown kind; there are: num_words, "),
        ({"kind": ["a"]}, "unknown kind"),
        ({}, "None: unknown kind"),
        (
            {"kind": "num_words", "at_leats": 1},
            r"num_words: at_leats: unknown parameter \(did you mean `at_least`\?\)",
        ),
        ({"kind": "no_commas", "at_least": 1}, "no_commas: at_least: unknown parameter"),
        ({"kind": "num_words"}, "num_words: needs one of at_least, at_most, exactly"),
        ({"kind": "num_words", "at_least": "100"}, "num_words: at_least: '100': .*integer"),
        ({"kind": "num_words", "at_least": True}, "num_words: at_least: True: .*integer"),
        ({"kind": "keywords", "words": "north"}, "keywords: words: 'north': .*list"),
        ({"kind": "keywords", "words": [1]}, r"keywords: words: \[1\]: .*string"),
        ({"kind": "keywords", "words": ["\u200b"]}, "a keyword is empty"),
        ({"kind": "keywords"}, "keywords: needs the parameter words"),
        ({"kind": "letter_count", "letter": "ab", "at_least": 1}, "'ab' is not one character"),
        ({"kind": "script", "name": "cyrilic"}, r"cyrilic: unknown \(did you mean `cyrillic`\?\)"),
        ({"kind": "paragraph_starts", "number": 0, "word": "a"}, "number: 0 is below 1"),
    ],
)
@pytest.mark.parametrize("turn", ["An answer.", "", "<think> Endless"])
def test_a_mistake_in_a_row(constraint, message, turn):
    with pytest.raises(ValueError, match=message):
        instruction_reward([turn], constraints=[[constraint]])


def test_none_is_not_given():
    # As a data set's column of dicts gives it, where the rows have different keys.
    assert unmet("a b", {"kind": "num_words", "at_least": 2, "at_most": None, "words": None, "prefix": None}) is None


def test_unknown_mode():
    with pytest.raises(UserError, match="instruction: mode: 'some' is not share, all or official"):
        instruction_reward(["a"], constraints=[[NO_COMMAS]], mode="some")


def test_what_a_word_a_sentence_and_a_paragraph_are():
    assert words("It's 3.5 well-known__facts -- 'quoted' हिन्दी 你好abc") == [
        "It's", "3.5", "well-known", "facts", "quoted", "हनद", "你", "好", "abc",
    ]  # fmt: skip
    assert num_sentences("He said: “I came.” Then (as ever) “I saw!” and left") == 2
    assert num_sentences("你好吗？我很好！是。") == 2
    assert paragraphs("a\nb\n\n \n***\nc\n---") == ["a\nb", "c\n---"]


RULES = [{"kind": kind, **case[0]} for kind, case in CASES.items()]


@pytest.mark.parametrize(
    "text",
    ["x" * 1_000_000, "a " * 500_000, "a\n" * 500_000, "\n" * 1_000_000, "." * 1_000_000, "[" * 500_000, "*" * 500_000,
     "*a\n" * 300_000, "a.b-" * 250_000, "<<a" * 300_000, "\u200b" * 1_000_000, "\0" * 1_000_000, "你。" * 300_000,
     "```" + "\n" * 1_000_000, "Section 1\n" * 100_000, r"\boxed{1}" * 10_000, "old cat " * 100_000, "{" * 500_000,
     '{"a":[' * 100_000, "\ufdfa" * 20_000, "a'" * 500_000, "old ca" * 200_000, "P.S. " * 200_000,
     "******\n" * 100_000],
    ids=lambda text: repr(text[:8]),
)  # fmt: skip
def test_the_time_for_a_degenerate_answer_grows_with_its_length_and_not_with_the_square(text):
    def read(part):
        assert 0 <= reason(part, *RULES)[0] < 1

    assert growth(read, text[: len(text) // 30], text[: len(text) // 3]) < 40


PIECES = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "******", "\n\n", "- ", "[a]", "*b*", "<<c>>", '"', "Section 1",
     "P.S.", "{", "}", ",", "\0", "\u202e", "\u200b", "你好。", "north", ". ", "A"]
)  # fmt: skip
TEXTS = st.text() | st.lists(st.text(max_size=5) | PIECES).map("".join)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_any_text_has_a_score_in_range(text):
    share, _ = reason(text, *RULES)
    whole, _ = reason(text, *RULES, mode="all")
    assert 0 <= whole <= share <= 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.sampled_from(RULES)), max_size=6), st.randoms())
def test_neither_order_nor_company_of_rows_matters(rows, random):
    alone = [reason(text, rule)[0] for text, rule in rows]
    order = random.sample(range(len(rows)), len(rows))
    together = instruction_reward([rows[i][0] for i in order], constraints=[[rows[i][1]] for i in order])
    assert together == [alone[i] for i in order]
