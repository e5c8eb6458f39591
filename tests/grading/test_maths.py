"""What counts as the same answer in mathematics, and what is refused before it is worked out."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.grading import maths

SHARED = Path(__file__).parents[3] / "shared" / "data"

# Answer and gold.
SAME = [
    (r"\frac{1}{2}", "0.5"), ("1/2", r"\frac12"), ("0.5", r"\frac{1}{2}"), (r"\dfrac{3}{4}", "0.75"),
    (r"\tfrac34", "0.75"), (r"-\frac{3}{4}", "-0.75"), ("50%", "50"), (r"50\%", "0.5"), ("1,234", "1234"),
    ("1{,}234", "1234"), ("10000", "10,000"), (r"3\frac{1}{2}", "3.5"), ("3 1/2", r"\frac{7}{2}"), ("2 1/2", "2.5"),
    (r"1\frac12", "1.5"), ("1e3", "1000"), ("10^3", "1000"), ("2^{10}", "1024"), ("5!", "120"),
    (r"1.5 \times 10^3", "1500"), ("6.02 × 10^{23}", r"6.02\times10^{23}"), ("7.0", "7"), ("+7", "7"), ("007", "7"),
    ("7.", "7"), ("-5", "−5"), ("１２", "12"), ("0", "0"), (r"\approx 7", "7"), ("about 12", "12"),
    ("10 cm", "10"), (r"10\text{ cm}", "10"), (r"10\,\text{cm}^2", "10"), ("$10", "10"), (r"\$10.00", "10"),
    ("12 apples", "12"), ("5 hours", "5"), ("90°", "90"), (r"90^\circ", "90"), ("0.333333", r"\frac{1}{3}"),
    ("0.166667", r"\frac16"), ("1.41421356", r"\sqrt{2}"), (r"29,\!322", "29322"),
    ("(1,2)", "(1, 2)"), (r"\left(1,2\right)", "(1,2)"), ("[1,2)", "[1,2)"), ("{1,2}", r"\{1,2\}"), ("2,1", "1,2"),
    (r"\{2,1\}", "1,2"), ("1 and 2", "1,2"), ("1 or 2", "1, 2"), ("1/2 or 3", r"\frac12, 3"), ("20,30", "20,30"),
    (r"(-\infty, 2)\cup(3,\infty)", r"(-\infty,2) \cup (3,\infty)"), (r"x \in [1,2]", "[1,2]"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
    ("x=5", "5"), ("5", "x=5"), ("y = 2x+1", "y=2x+1"), ("2x+1", "y=2x+1"), ("f(x)=x+1", "x+1"), ("5 + 7 = 12", "12"),
    (r"x\le 5", r"5 \ge x"), ("2x + 1", "1+2x"), ("x^2+2x+1", "(x+1)^2"), (r"\frac{1}{2}x", "x/2"), ("i+1", "1+i"),
    ("sqrt(2)", r"\sqrt{2}"), (r"\sqrt2", r"\sqrt{2}"), ("√3", r"\sqrt{3}"), ("2*pi", r"2\pi"), ("2π", r"2\pi"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"), ("3:4", r"\frac34"), ("11:30", "11:30"), ("5:00 pm", "5:00 pm"),
    ("B", "B"), ("(B)", "B"), ("b", "B"), ("B) Paris", "B"), (r"\text{(B)}", "B"), ("1001_2", "1001_2"),
    ("Monday", r"\text{Monday}"), ("monday", "Monday"), ("The red one", "the red one"), (r"\text{even}", "even"),
    ("no solution", r"\text{no solution}"), ("ABC", "ABC"), ("5x", "5x"),
]  # fmt: skip

DIFFERENT = [
    ("8", "7"), ("-7", "7"), ("77", "7"), ("7.5", "7"), ("7/2", "7"), ("10", "1"), ("{7}^2", "7"), ("7e5", "7"),
    ("7%", "700"), ("0.07", "7"), ("1/0", "7"), ("1,23", "123"), ("1.234", "1234"), ("10 000 1", "100001"),
    ("0.33", r"\frac13"), ("0.3333", r"\frac13"), ("3.14", r"\pi"), ("0.000001", "0.0000012"),
    ("1000000.0", "1000001"), ("1/2006!", "1/2004!"), ("10^{-400}", "10^{-500}"), ("0", "10^{-500}"),
    ("5 or 7", "7"), ("7 or 5", "7"), ("5, 7", "7"), ("{5,7}", "7"), ("7 apples and 5 pears", "7"), ("5 7", "7"),
    ("6 7", "67"), ("12 13", "1213"), ("7?8", "7"), ("not 7", "7"), ("7 = 8", "7"), ("all real numbers", "7"),
    (r"\infty", "7"), ("nan", "7"), ("7x", "7"), ("x=7, y=8", "7"), ("2x+3y=7", "x=1"), ("2x - y + 2z - 18 = 0", "0"),
    ("(2,1)", "(1,2)"), ("[1,2]", "(1,2)"), ("x+y", "y-x"), ("3:4", "4:3"), ("11:30", "12:30"),
    ("5:00 am", "5:00 pm"), ("nylevE", "Evelyn"), ("cats", "acts"), ("Monday or Tuesday", "Monday"),
    ("A or B", "B"), ("A, B", "B"), ("AB", "B"), ("C. A", "A"), ("B (not A)", "A"), ("(A) or (B)", "A"),
    ("٧٧", "7"), ("7\u200b8", "7"), ("", "7"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "gold"), SAME)
def test_the_same(answer, gold):
    assert maths.grade(rf"<think> Hm. </think> \boxed{{{answer}}}", gold) == (1.0, "correct")


@pytest.mark.parametrize(("answer", "gold"), DIFFERENT)
def test_not_the_same(answer, gold):
    value, reason = maths.grade(rf"<think> Hm. </think> \boxed{{{answer}}}", gold)
    assert value == 0.0 and reason.partition(":")[0] in ("wrong", "unparsed", "no_answer")


TOWERS = [
    "9^{9^{9^{9}}}", "(10^{10^{10}})!", "2^{2^{2^{2^{2^{2}}}}}", "10^{10^{8}}", "((9!)!)!", "3!!!!", "10^{7}!",
    r"\sqrt{2}^{10000000001}", r"\frac{1}{9^{9^{9}}}", "-9^{9^{9}}", "9^{9^{9}}-9^{9^{9}}", "(1+x)^{100000000}",
    r"\binom{10^9}{5\cdot 10^8}", r"\sum_{k=1}^{10^9} k^k", r"\prod_{k=1}^{10^7} k", r"\sum_{k=1}^{100000} k!",
    r"e^{e^{e^{e^{9}}}}", r"2^{1000000000}", "99999999!", r"\left(9^{9}\right)^{9^{9}}", "7^{8^{9}}+1", "(9^9)!+7",
    r"\{9^{9^{9}}, 7\}", r"(9^{9^{9}}, 1)", "x=9^{9^{9}}", "9**9**9**9", "10^{10^{10^{10}}}",
]  # fmt: skip


@pytest.mark.parametrize("tower", TOWERS)
def test_what_would_not_fit_is_refused_or_wrong_at_once(tower):
    value, reason = maths.grade(rf"\boxed{{{tower}}}", "7")  # in this process: a hang would fail the suite
    assert value == 0.0 and reason.partition(":")[0] in ("unparsed", "wrong")


@pytest.mark.parametrize("gold", ["7", r"\frac{1}{2}", "x^2+1", "Monday", "B", "(1,2)", "50%", "2 1/2"])
def test_understood(gold):
    assert maths.understood(gold)


@pytest.mark.parametrize("gold", ["", "$$", "?", r"\begin{asy} draw((0,0)--(1,1)); \end{asy}", "???!"])
def test_not_understood(gold):
    assert not maths.understood(gold)
    assert maths.grade(r"\boxed{7}", gold) == (None, "gold_unparsed")
    assert maths.grade("", gold)[1] == "gold_unparsed"


def test_what_looks_the_same_is_right_even_where_it_is_not_understood():
    gold = r"\begin{asy} draw((0,0)--(1,1)); \end{asy}"
    assert maths.grade(rf"\boxed{{{gold}}}", gold) == (1.0, "correct")


@settings(max_examples=200, deadline=None)
@given(st.fractions(max_denominator=10**6))
def test_a_number_is_read_back_exactly(value):
    over, under = value.numerator, value.denominator
    assert maths.number(f"{over}/{under}") == value
    assert maths.number(rf"{'-' if over < 0 else ''}\frac{{{abs(over)}}}{{{under}}}") == value


@settings(max_examples=200, deadline=None)
@given(st.integers(-(10**12), 10**12))
def test_an_integer_equals_itself_in_every_spelling_and_no_other(value):
    for spelling in (f"{value}", f"{value:,}", f"{value}.0", f"{value}.", f"${value}$", rf"{value}\text{{ cm}}"):
        assert maths.grade(rf"\boxed{{{spelling}}}", str(value)) == (1.0, "correct")
    assert maths.grade(rf"\boxed{{{value + 1}}}", str(value))[0] == 0.0


def lines(path):
    if not (SHARED / path).is_file():
        pytest.skip(f"{path}: no such data beside the project")
    text = (SHARED / path).read_text()
    return json.loads(text) if path.endswith(".json") else [json.loads(line) for line in text.splitlines()]


def test_gsm8k_gold_in_every_form_is_right_and_another_number_wrong():
    for row in lines("gsm8k/test.jsonl"):
        gold = row["answer"].rpartition("####")[2].strip()
        for turn in (
            f"So.\n#### {gold}",
            rf"It is \boxed{{{gold}}}.",
            f"<think> Hm. </think><answer>{gold}</answer>",
            f"The answer is {gold}.",
            row["answer"],
        ):
            assert maths.grade(turn, gold) == (1.0, "correct"), turn
        for turn in (f"#### {gold}1", rf"\boxed{{-{gold}3}}", f"<answer>{gold}7</answer>", f"The answer is {gold}5."):
            assert maths.grade(turn, gold)[0] == 0.0, turn


@pytest.mark.parametrize("path", ["math500/test.jsonl", "rllm_math/train_math.json"])
def test_math_gold_against_itself_in_a_box_is_right(path):
    rows = lines(path)
    rows = [row for row in rows if row["answer"]]  # two of MATH's have none
    failed = [r["answer"] for r in rows if maths.grade(rf"\boxed{{{r['answer']}}}", r["answer"])[0] < 1]
    assert len(failed) <= 0.005 * len(rows), failed


def test_math_gold_can_be_read():
    rows = lines("math500/test.jsonl")
    assert [row["answer"] for row in rows if not maths.understood(row["answer"])] == []
