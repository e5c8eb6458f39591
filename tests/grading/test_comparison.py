"""What holds of the comparison of any two answers: it is reflexive and symmetric, and wrapping changes nothing."""

from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.grading.latex import normal
from r1lab.grading.maths import same


def fraction(over: int, under: int) -> str:
    return rf"\frac{{{over}}}{{{under}}}"


WHOLE = st.integers(-999, 999)
NUMBERS = st.one_of(
    WHOLE.map(str),
    st.tuples(WHOLE, st.integers(1, 99)).map(lambda n: f"{n[0]}.{n[1]:02d}"),
    st.tuples(WHOLE, st.integers(2, 99)).map(lambda n: fraction(*n)),
)
TUPLES = st.lists(NUMBERS, min_size=2, max_size=4).map(lambda parts: f"({', '.join(parts)})")
SETS = st.lists(WHOLE.map(str), min_size=2, max_size=4, unique=True).map(lambda p: rf"\{{{', '.join(p)}\}}")
INTERVALS = st.tuples(st.sampled_from("[("), WHOLE, st.integers(1, 99), st.sampled_from(")]")).map(
    lambda n: f"{n[0]}{n[1]}, {n[1] + n[2]}{n[3]}"
)
ANSWERS = st.one_of(NUMBERS, TUPLES, SETS, INTERVALS)
WRAPPINGS = st.sampled_from(
    ["${}$", " {} ", r"\boxed{{{}}}", r"\({}\)", "**{}**", r"\left. {} \right.", r"\displaystyle {}", "{}."]
)
CHECKED = settings(max_examples=60, deadline=None, derandomize=True)


def equal(answer: str, gold: str) -> bool:
    return same(normal(answer), normal(gold)) == "correct"


@CHECKED
@given(ANSWERS, WRAPPINGS)
def test_an_answer_equals_itself_however_it_is_wrapped(answer, wrapping):
    assert equal(answer, answer)
    assert equal(wrapping.format(answer), answer)
    assert equal(answer, wrapping.format(answer))


@CHECKED
@given(ANSWERS, ANSWERS)
def test_the_order_of_answer_and_gold_does_not_matter(a, b):
    assert equal(a, b) == equal(b, a)


@CHECKED
@given(WHOLE, st.integers(2, 99), st.lists(NUMBERS, min_size=1, max_size=3))
def test_one_more_is_another_answer(over, under, others):
    more = over + under
    assert not equal(str(over), str(over + 1))
    assert not equal(fraction(over, under), fraction(more, under))
    rest = ", ".join(others)
    assert not equal(f"({over}, {rest})", f"({over + 1}, {rest})")
    assert not equal(f"[{over}, {over + under}]", f"[{over}, {over + under + 1}]")
    assert not equal(rf"\{{{over}, 5000\}}", rf"\{{{over + 1}, 5000\}}")
