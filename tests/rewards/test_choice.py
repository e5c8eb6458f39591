"""The multiple-choice reward: one letter, committed to."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.errors import UserError
from r1lab.rewards.choice import choice_reward, read_choice

CAPITALS = ["London", "Paris", "New York City", "A or B"]


def score(turn, gold="B", choices=None):
    return choice_reward([turn], answer=[gold], choices=choices and [choices])[0]


RIGHT = [
    "Let's go with B.",
    "Let’s go with (B).",
    "I will go with option B.",
    "A is wrong and C is wrong, which leaves B.",
    "<answer>B</answer>",
    "<answer> (B) </answer>",
    "<answer>\n**B**\n</answer>",
    "<answer>B. Paris</answer>",
    "<answer>b</answer>",
    "<answer>The answer is B.</answer>",
    "<answer>\\boxed{B}</answer>",
    "<answer>Option B</answer>",
    "<answer>[B]</answer>",
    "<answer>B</answer> It is not A.",
    "\\boxed{B}",
    "\\boxed{\\text{B}}",
    "\\boxed{\\textbf{(B) } Paris}",
    "\\boxed{\\mathrm{B}}",
    "$\\boxed{\\textbf{(B)}\\ 5}$",
    "The answer is (B).",
    "The answer is B because it is the capital, and A is not.",
    "The answer is B. A is wrong.",
    "The correct option is B.",
    "The correct answer is option (B) Paris.",
    "Answer: B",
    "**Answer:** B) Paris",
    "Final answer: **B**",
    "The answer is A. No: the answer is B.",
    "\\boxed{A}, no, \\boxed{B}",
    "Of all these it can only be **B**, I would say now.",
    "I compare A and C.\nB",
    "I compare A and C.\n\n(B)",
    "The answer is B - Paris.",
    "The answer is B, Paris.",
    "The answer is B (Paris).",
    "The answer is B: a vitamin.",
    "答案是B。",
    "Ｂ",
    "\\boxed{Ⓑ}",
]


@pytest.mark.parametrize("turn", RIGHT)
def test_right(turn):
    assert score(turn) == 1 and score(turn).reason == "correct"
    assert score(f"<think>A? \\boxed{{A}} The answer is A.</think>{turn}") == 1
    assert score(turn, gold="A") == 0 and score(turn, gold="A").reason == "wrong"


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ("", "no_answer"),
        ("<think>B", "no_answer"),
        ("<think>The answer is B.</think>", "no_answer"),
        ("<think><answer>B</answer></think>", "no_answer"),
        ("<answer></answer>", "no_answer"),
        ("<answer></answer> The answer is B.", "no_answer"),
        ("I would say that B may be the one to take here.", "no_answer"),
        ("A or B", "hedged"),
        ("The answer is A or B.", "hedged"),
        ("The answer is B or A.", "hedged"),
        ("The answer is (B) or (C).", "hedged"),
        ("The answer is B, or A.", "hedged"),
        ("<answer>A, B</answer>", "hedged"),
        ("<answer>B, A</answer>", "hedged"),
        ("<answer>B/C</answer>", "hedged"),
        ("<answer>B and C</answer>", "hedged"),
        ("<answer>B & C</answer>", "hedged"),
        ("<answer>B C</answer>", "hedged"),
        ("<answer>B. C.</answer>", "hedged"),
        ("<answer>B) C) D)</answer>", "hedged"),
        ("<answer>B\nC</answer>", "hedged"),
        ("<answer>A, B, C, D</answer>", "hedged"),
        ("<answer>(B)(C)</answer>", "hedged"),
        ("<answer>B. Paris or A. London</answer>", "hedged"),
        ("<answer>B: Paris, A: London</answer>", "hedged"),
        ("<answer>(B) Paris (A) London</answer>", "hedged"),
        ("<answer>B) Paris\nA) London</answer>", "hedged"),
        ("\\boxed{B \\text{ or } C}", "hedged"),
        ("\\boxed{B, C}", "hedged"),
        ("<answer>ABCD</answer>", "unparsed"),
        ("<answer>not B</answer>", "unparsed"),
        ("<answer>either of them</answer>", "unparsed"),
        ("<answer>Bee</answer>", "unparsed"),
        ("<answer>В</answer>", "unparsed"),  # Cyrillic
        ("<answer>β</answer>", "unparsed"),
        ("<answer>\u202eB</answer>", "unparsed"),
        ("<answer>\0B</answer>", "unparsed"),
        ("<answer>42</answer>", "unparsed"),
        ("<answer>C</answer>", "wrong"),
        ("<answer>Z</answer>", "wrong"),
        ("The answer is B. No: the answer is C.", "wrong"),
        ("\\boxed{B} \\boxed{C}", "hedged"),
        ("\\boxed{B} or \\boxed{C}", "hedged"),
        ("\\boxed{B}" * 10_000 + "\\boxed{C}", "hedged"),
        ("\\boxed{B}. No: \\boxed{C}", "wrong"),
        ("<answer>B</answer><answer>C</answer>", "wrong"),
        ("A. London\nB. Paris\nC. Rome\nD. Oslo\nThe answer is D.", "wrong"),
    ],
)
def test_not_right(turn, reason):
    assert score(turn) == 0 and score(turn).reason == reason


@pytest.mark.parametrize(
    "turn",
    [
        "<answer>Paris</answer>",
        "\\boxed{\\text{Paris}}",
        "The answer is Paris.",
        "**PARIS**",
        "<answer>B. paris</answer>",
    ]
    + ["<answer>(B) Paris.</answer>", "<answer>B</answer>", "\\boxed{B}", "Answer: **B) Paris**", "\\boxed{paris}"],
)
def test_the_text_of_the_option(turn):
    assert score(turn, choices=CAPITALS) == 1
    assert score(turn, gold="A", choices=CAPITALS) == 0


def test_letter_and_text_must_agree():
    assert score("<answer>B. London</answer>", choices=CAPITALS).reason == "contradiction"
    assert score("<answer>A. Paris</answer>", choices=CAPITALS).reason == "contradiction"
    assert score("<answer>London or Paris</answer>", choices=CAPITALS).reason == "unparsed"
    assert score("<answer>B. Vitamin A and (C)</answer>", choices=["x", "Vitamin A and (C)"]) == 1


def test_letters_before_texts_and_texts_before_lists():
    assert score("<answer>B</answer>", choices=["B", "A"]) == 1
    assert score("<answer>A or B</answer>", gold="D", choices=CAPITALS) == 1
    assert score("<answer>same</answer>", choices=["same", "same"]).reason == "unparsed"
    assert score("<answer>B. same</answer>", choices=["same", "same"]) == 1


LETTERS = [
    "The answer seems to be C.",
    "The answer must be (C).",
    "So C is the correct answer.",
    "Option C is correct.",
    "Therefore, option (C) is right.",
    "(C) is the answer",
    "I choose C.",
    "I would pick option C.",
    "I'd go with C",
    "It must be C.",
    "Answer: <C>",
    "Answer: {C}",
    'Answer: "C"',
    "Answer: 'C'",
    "Answer: C!",
    "Answer: C;",
    "Answer: C - Paris",
    "Answer - C",
    "Answer → C",
    "Answer: it's C",
    "Answer: definitely C",
    "Answer: I believe it is (C)",
    "Answer: I would say C",
    "Answer: option C",
    "Answer: Option (C)",
    "Answer: letter C",
    "The best answer is C.",
    "The most likely answer is C",
    "The right choice is C",
    "Correct answer: C",
    "Correct option: C",
    "[Answer: C]",
    "(Answer: C)",
    "**Answer: (C) Paris**",
    "The answer is **C**.",
    "The answer is $\\boxed{C}$",
    "\\boxed{\\text{Option C}}",
    "\\boxed{\\text{C. Paris}}",
    "\\boxed{C: 42}",
    "\\boxed{\\mathbf{C}}",
    "\\boxed{\\textbf{(C) }42}",
    "\\boxed{(C)}",
    "\\boxed{C)}",
    "\\boxed{C.}",
    "\\boxed{\\text{Answer: C}}",
    "C) Paris",
    "C: 42",
    "C. 42",
    "(C) 42",
    "c)",
    "正确答案：C",
    "答案是 C 选项",
    "答案选C",
    "选C",
    "应选 C",
    "本题选择C项",
    "选项C正确",
    "答え：C",
    "正解はCです",
    "정답은 C입니다",
    "정답: C",
    "Правильный ответ: C",
    "Ответ: C",
    "La bonne réponse est C.",
    "La bonne réponse est la C",
    "La opción correcta es C.",
    "Respuesta: C",
    "A alternativa correta é C.",
    "La risposta corretta è la C.",
    "Antwort: C",
    "Die richtige Option ist C.",
    "Richtige Antwort: C",
    "The answer is C, since A is wrong.",
    "ANSWER: C\n",
    "answer: c",
    "Answer: C (Paris)",
    "Answer:\nC",
    "Answer: \n\n**C**",
    "Final answer: C. Paris",
    "The correct option is (C) because B is false",
    "C is correct.",
    "So the correct choice is C: 42",
    "The answer is C) 42",
    "Only C is correct.",
    "Answer C",
    "The answer would be C",
    "Thus, the answer is option C, Paris.",
]
NO_LETTER = [
    "The answer is B or C",
    "Answer: not C",
    "Answer: It is not C",
    "Answer: neither B nor C",
    "I choose B or C",
    "It must be B or C",
    "Options B and C are correct",
    "Answer: B, C",
    "Answer: <B> <C>",
    "The answer is B. C is wrong.",
    "C is incorrect.",
    "Option C is incorrect.",
    "Option C is not correct.",
    "C is not the answer",
    "I would not choose C",
    "Answer: A cat",
    "I can't choose C",
    "Answer: B/C",
    "Answer: C or B",
    "Answer: C and D",
    "Answer: C, D",
    "A, B, C, D",
    "Answer: Could be C or D",
    "\\boxed{C}, \\boxed{D}",
    "Either C or D is correct",
    "A B C D",
    "Is C correct? No.",
    "Answer: I don't think it is C",
    "Answer: C? No, D.",
]


@pytest.mark.parametrize("turn", LETTERS)
def test_a_letter_in_all_usual_forms(turn):
    assert score(turn, gold="C") == 1
    assert score(f"<think> A? </think>{turn}", gold="C") == 1
    assert score(turn, gold="A") == 0


@pytest.mark.parametrize("turn", NO_LETTER)
def test_hedges_and_negations_name_no_letter(turn):
    assert score(turn, gold="C") == 0


def test_rows_it_does_not_apply_to_and_bad_ones():
    assert choice_reward(["B", "B"], answer=[None, "b"]) == [None, 1]
    assert choice_reward(["Paris", "B"], answer=["(B)", "B"], choices=[CAPITALS, None]) == [1, 1]
    for gold in ("BC", "", "5", "Paris"):
        with pytest.raises(ValueError, match="not the letter of an option"):
            score("B", gold=gold)
    with pytest.raises(UserError, match="rewards: choice: choices: is a column"):
        choice_reward(["B", "B"], answer=["B", "B"], choices=["London", "Paris"])


PIECES = ["<think>", "</think>", "<answer>", "</answer>", "A", "B", " or ", ", ", "(", ")", "\\boxed{", "}", "\\text{"]
PIECES += ["The answer is ", "**", "$", "\0", "\u202e", ". ", "\n", "Paris", "option "]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(), max_size=20).map("".join))
def test_any_text(text):
    alone = score(text, choices=CAPITALS)
    assert alone in (0, 1)
    assert choice_reward(["B", text, ""], answer=["B"] * 3, choices=[CAPITALS] * 3)[1] == alone
    assert score(text, "A") + score(text, "B") + score(text, "C") <= 1  # never two of them


@pytest.mark.parametrize("piece", [*PIECES, "A,", "A or ", "(A)", "A. ", " ", "/", "[", "and ", "B)\n"])
def test_a_megabyte_takes_no_time(piece):
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    for turn in (text, f"<answer>{text}</answer>", f"<answer>B{text}</answer>", f"<answer>B. {text}</answer>"):
        score(turn)
    read_choice(text, CAPITALS)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "turn",
    [
        "I choose option B because it is consistent with the data.",
        "I would pick (B), since the rest is too large.",
        "The answer is not A but B.",
        "The answer is not (A), but rather (B).",
        '{"answer": "B"}',
        '```json\n{"reason": "A is too small", "answer": "B"}\n```',
        "A. red is too warm\nC. blue is too cold\n\nB",
    ],
)
def test_letters_with_a_reason_a_contrast_or_in_json(turn):
    assert score(turn) == 1.0
    assert score(turn, gold="A") == 0.0


@pytest.mark.parametrize(
    "turn",
    [
        "A. red\nC. green\nB. blue",
        "(A) red\n(C) green\n(B) blue",
        "A student would say that the answer is B, which is wrong.",
        "They claim the answer is B, but that is clearly incorrect.",
        "The answer is not B.",
        "The answer is not B but perhaps A.",
        '{"not_the_answer": "B", "answer": "A"}',
    ],
)
def test_a_list_of_the_options_or_an_answer_taken_back_is_no_answer(turn):
    assert score(turn) == 0.0
