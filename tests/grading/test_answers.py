"""What a turn commits itself to, and how it is marked."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.grading.answers import committed
from r1lab.grading.boxes import last_boxed
from r1lab.grading.markup import plain
from r1lab.grading.parts import answer_block, final_text
from tests.work import calls, growth

MARKS = {"answer_tag", "boxed", "hashes", "phrase", "bold", "bare", "prose"}
TEXTS = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<answer>",
            "</answer>",
            "\\boxed{",
            "\\fbox",
            "}",
            "{",
            "\\",
            "$",
            "**",
            "#### ",
            "\n",
        ]
        + ["The answer is ", "Answer: ", "5", ". ", "\0", "\u202e", "Wait, ", "答案是", "\\(", "\\]", "B"]
    )
    | st.text(),
    max_size=30,
).map("".join)


@pytest.mark.parametrize(
    ("turn", "text"),
    [
        ("", ""),
        ("5", "5"),
        ("<think>a</think>5", "5"),
        ("a</think>5", "5"),
        ("<think>a</think>b</think>5", "5"),
        ("<think>a", None),
        ("<think>", None),
        ("<think>a</think>5<think>b", None),
        ("<THINK>a", "<THINK>a"),
        ("<think>a</think>", ""),
    ],
)
def test_final_text(turn, text):
    assert final_text(turn) == text


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("", None),
        ("<answer>5", None),
        ("5</answer>", None),
        ("</answer>5<answer>", None),
        ("<answer>5</answer>", "5"),
        ("<answer></answer>", ""),
        ("<answer>5</answer><answer>6</answer>", "6"),
        ("<answer>5</answer><answer>6", "5"),
        ("<answer>5</answer></answer>", "5"),
        ("<answer><answer>5</answer></answer>", "5"),
        ("<think><answer>5</answer></think>6", None),
        ("<think><answer>5</answer>", None),
        ("<answer>\n5\n</answer>", "\n5\n"),
    ],
)
def test_answer_block(text, block):
    assert answer_block(text) == block


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None),
        ("5", None),
        (r"\boxed{5}", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed {5}", "5"),
        (r"\boxed 5", "5"),
        (r"\boxed 5.", "5."),
        (r"\boxed{5} \boxed{7}", "7"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        (r"\\boxed{5}", "5"),
        (r"\boxed{a \\{b}}", r"a \\{b}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{5", None),
        (r"\boxed{\text{5}", None),
        (r"\boxed{5} and \boxed{7", "5"),
        (r"\boxed{ \boxed{7}", "7"),
        (r"\boxed{5} in \boxed{}", "5"),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"} \boxed{5} {", "5"),
        ("\\boxed{\n5\n}", "5"),
        (r"in a \boxed environment", None),
        (r"\boxedfoo{5}", None),
        (r"boxed{5}", None),
    ],
)
def test_last_boxed(text, content):
    assert last_boxed(text) == content


COMMITTED = {
    "<answer> 5 </answer>": ("5", "answer_tag"),
    "<answer>\n**B**\n</answer>": ("B", "answer_tag"),
    r"<answer>The answer is \boxed{5}.</answer>": ("5", "answer_tag"),
    "<answer>The answer is 5.</answer>": ("5", "answer_tag"),
    "<answer>Answer: blue</answer>": ("blue", "answer_tag"),
    "<answer>#### 72</answer>": ("72", "answer_tag"),
    "<answer>The answer is correct</answer>": ("The answer is correct", "answer_tag"),
    r"\boxed{7} <answer>5</answer> so the answer is 8 or \boxed{9}": ("5", "answer_tag"),
    "<think>\\boxed{5}</think><answer>6</answer>": ("6", "answer_tag"),
    "<answer></answer>": None,
    r"<answer> . </answer> \boxed{5}": None,
    "": None,
    "<think>The answer is 5.": None,
    "<think>The answer is 5.</think>": None,
    "<think> <answer>5</answer>": None,
    r"\boxed{5}": ("5", "boxed"),
    r"$\boxed{5}$.": ("5", "boxed"),
    r"The answer is $\boxed{5}$.": ("5", "boxed"),
    r"**Final Answer:** \boxed{5}": ("5", "boxed"),
    r"Answer: $x = \boxed{5}$ apples.": ("5", "boxed"),
    r"\boxed{5}. Wait, that is wrong. It should be \boxed{7}": ("7", "boxed"),
    r"The answer is 7. No: \boxed{5}": ("5", "boxed"),
    r"\boxed{5}. I hope this answer is correct.": ("5", "boxed"),
    r"\boxed{5}. The answer is not 7.": ("5", "boxed"),
    r"\boxed{5}. The answer is in \boxed{}.": ("5", "boxed"),
    r"\boxed{$5$}": ("5", "boxed"),
    r"\boxed{5} ... no, the answer is 7": ("7", "phrase"),
    "6 * 12 = 72\n#### 72": ("72", "hashes"),
    "#### $1,000\n": ("$1,000", "hashes"),
    "#### -5": ("-5", "hashes"),
    "#### B": ("B", "hashes"),
    "#### 5\nNo.\n#### 6": ("6", "hashes"),
    "#### Step 4: add\n#### 5": ("5", "hashes"),
    "#### 1. Add 2 and 3\nThe answer is 5": ("5", "phrase"),
    "#### 5\nNo, the answer is 6.": ("6", "phrase"),
    "The answer is 3.5. Done.": ("3.5", "phrase"),
    "The answer is 1,000.": ("1,000", "phrase"),
    "The answer is $1.5$. Done": ("1.5", "phrase"),
    "The answer is $5.": ("$5", "phrase"),
    "The answer is $a. b$. Done": ("a. b", "phrase"),
    "The answer is $18. She has $5 left.": ("$18", "phrase"),
    "The answer is \\$18. She has \\$5 left.": ("\\$18", "phrase"),
    "The answer is $\\$18$.": ("\\$18", "phrase"),
    "The answers are 3 and 5.": ("3 and 5", "phrase"),
    "\\boxed{5}. Checking our answer: 2 + 3 = 5, so our answer is correct.": ("5", "boxed"),
    "The final answer is: 5": ("5", "phrase"),
    "Final Answer: The final answer is $5$. I hope it is correct.": ("5", "phrase"),
    "Answer: 5\n\nMore.": ("5", "phrase"),
    "answer = 5": ("5", "phrase"),
    "**Answer:** 5": ("5", "phrase"),
    "**Answer**: **5**": ("5", "phrase"),
    "**The answer is 5.**": ("5", "phrase"),
    "The answer is **5** because 2 + 3 = 5.": ("5", "phrase"),
    "The answer is 5, because 2 + 3 = 5.": ("5", "phrase"),
    "The answer is:\n\\[\nx = 5\n\\]": ("x = 5", "phrase"),
    "The answer is:\n\n5": ("5", "phrase"),
    "The answer is \\(\\frac{1}{2}\\).": ("\\frac{1}{2}", "phrase"),
    "The answer is (B).": ("(B)", "phrase"),
    "The answer is B. It is red.": ("B", "phrase"),
    "The correct answer is option C.": ("C", "phrase"),
    "The correct option is D": ("D", "phrase"),
    "The answer to the question is 5.": ("5", "phrase"),
    "The answer is Dr. Who. He travels.": ("Dr. Who", "phrase"),
    "The answer is J. K. Rowling. She writes.": ("J. K. Rowling", "phrase"),
    "The answer is 9.5 a.m. on Monday. Done": ("9.5 a.m. on Monday", "phrase"),
    "THE ANSWER IS 5": ("5", "phrase"),
    "答案是5。谢谢": ("5", "phrase"),
    "The answer is 5 or 6.": ("5 or 6", "phrase"),
    "It was answered: 5 men came along.": ("5 men", "prose"),
    "We find it.\n\nIt is **5** apples in total, all told.": ("5", "bold"),
    "It is **4**, no, it must really be **5**, you see.": ("5", "bold"),
    "It is **4** in the first of all the paragraphs.\n\nAnd that would be all there is.": ("4", "prose"),
    "**Note:** there are five of them in all, **5**.": ("5", "bold"),
    "So the answer is clear.\n\n**42**": ("42", "bold"),
    "The answer is valid.": ("valid", "phrase"),
    "5": ("5", "bare"),
    "I add them.\n5": ("5", "bare"),
    "I add them.\n\n$x = 5$.\n\n": ("x = 5", "bare"),
    "New York City": ("New York City", "bare"),
    "\\frac{1}{2}": ("\\frac{1}{2}", "bare"),
    "I think that there are five of them.": None,
    "5 " * 40: None,
    "\\boxed{5": None,
}


@pytest.mark.parametrize(("turn", "expected"), COMMITTED.items())
def test_committed(turn, expected):
    assert committed(turn) == expected


@pytest.mark.parametrize("turn", [turn for turn, expected in COMMITTED.items() if "think" not in turn])
def test_thinking_before_it_changes_nothing(turn):
    assert committed(rf"<think> The answer is 99 \boxed{{99}} #### 99 </think>{turn}") == COMMITTED[turn]


def test_plain():
    assert plain("**$(B)$.**") == plain(" `(B)`; ") == plain("$$\n(B)\n$$") == plain("\\[ (B) \\].") == "(B)"
    assert plain("$5$ and $6$") == "$5$ and $6$"
    assert plain("$5") == "$5" and plain("5!") == "5!"


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_any_text_is_read(text):
    final_text(text), answer_block(text), last_boxed(text), plain(text)
    found = committed(text)
    assert found is None or (found[0] and found[1] in MARKS)


PIECES = ["\\", "{", "}", "\\boxed{", "\\boxed ", "\\boxed{5}", "\\boxed{ }", "$", "*", "**", "**a**", "`", "#### 5\n"]
PIECES += ["answer is ", "answer: **", "answer is $", "the answer is 5. ", "answer to the question ", "答案是", "####"]
PIECES += [" ", "\n", " \n", "\0", "<answer>", "</answer>", "\\(", "1.", "A. ", "a.m. ", "_", "\u202e"]


@pytest.mark.parametrize("piece", PIECES)
def test_the_time_for_a_text_grows_with_its_length_and_not_with_the_square(piece):
    def read(length):
        text = piece * (length // len(piece))
        for turn in (text, f"<answer>{text}</answer>", f"{text}x"):
            committed(turn)

    assert growth(read, 100_000, 1_000_000) < 40  # ten times the text; the square would be a hundred


def nested(boxes: int) -> str:
    return "\\boxed{" * boxes + "5" + "}" * boxes


def in_a_row(boxes: int) -> str:
    return "\\boxed{4}. " * boxes + "\\boxed{5}"


def unclosed(boxes: int) -> str:
    return "\\boxed{" * boxes


@pytest.mark.parametrize("text", [nested, in_a_row, unclosed])
def test_ten_times_as_many_boxes_are_ten_times_the_work(text):
    assert calls(committed, text(10_000)) <= 11 * calls(committed, text(1000))
    assert committed(text(10_000)) == (None if text is unclosed else ("5", "boxed"))
    assert last_boxed(unclosed(10_000)) is None
