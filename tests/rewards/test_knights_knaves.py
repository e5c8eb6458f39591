"""The Knights-and-Knaves reward: the strict rule under attack, and gold of real data in both modes."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.data import knights_knaves
from r1lab.data.knights_knaves import NAMES, answer_text
from r1lab.errors import UserError
from r1lab.rewards import knights_knaves_reward
from r1lab.rewards.knights_knaves import gold_of

LOGIC_RL = Path(__file__).parents[3] / "shared" / "data" / "logic_rl_kk" / "instruct"
MEM_KK = LOGIC_RL.parents[1] / "mem_kk_logic"
THINK = "<think> If Zoey lied, Luke would be a knight. </think>"
GOLD = "(1) Zoey is a knight\n(2) Luke is a knave"
RIGHT = f"{THINK}\n<answer> {GOLD} </answer>"


def score(text, gold=GOLD, mode="strict"):
    (value,) = knights_knaves_reward([text], answer=[gold], mode=mode)
    return float(value), value.reason


def of_answer(answer, **settings):
    return score(f"{THINK} <answer>{answer}</answer>", **settings)


# What is forgiven

puzzles = st.lists(st.sampled_from(NAMES), min_size=1, max_size=8, unique=True).flatmap(
    lambda names: st.tuples(st.just(names), st.tuples(*[st.booleans()] * len(names)))
)
NUMBERS = ["({})", "( {} )", "{}.", "{})", "{}:", "{} -", "[{}]", "#{}", "{} ", ""]
EMPHASIS = [
    "{}",
    "**{}**",
    "*{}*",
    "__{}__",
    "_{}_",
    "`{}`",
    "***{}***",
    "$\\text{{{}}}$",
    "\\textbf{{{}}}",
    "<b>{}</b>",
]
LINKS = [
    " is a ",
    " is  a\n",
    ": ",
    " : ",
    ":",
    ": a ",
    " is ",
    " is: ",
    " - ",
    " – ",
    " — ",
    " -> ",
    " → ",
    " = ",
    "=",
]
ENDS = ["\n", ".\n", ". ", ", ", " , ", "; ", " and ", ", and ", " , and ", " & ", "\n\n", ".\n* ", "\n- ", "\n• "]
CASES = [str, str.upper, str.lower, str.title]


@st.composite
def written(draw, names, kinds):
    """An answer with one claim a person, in any order and any markup that changes no meaning."""
    number, end = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from(ENDS))
    case, link = draw(st.sampled_from(CASES)), draw(st.sampled_from(LINKS))
    bold_name, bold_kind = draw(st.sampled_from(EMPHASIS)), draw(st.sampled_from(EMPHASIS))
    order = draw(st.permutations(range(len(names))))
    claims = []
    for place, i in enumerate(order, 1):
        name, kind = bold_name.format(case(names[i])), bold_kind.format(case("knight" if kinds[i] else "knave"))
        claims.append(f"{number.format(place)} {name}{link}{kind}".strip())
    return (
        draw(st.sampled_from(["", " ", "\n", "\n- "]))
        + end.join(claims)
        + draw(st.sampled_from(["", ".", " .", "\n"]))
    )


@settings(max_examples=600, deadline=None)
@given(st.data(), puzzles)
def test_gold_in_any_forgiven_markup_is_right(data, puzzle):
    names, kinds = puzzle
    answer = data.draw(written(names, kinds))
    assert of_answer(answer, gold=answer_text(kinds, names)) == (1.0, "correct")


@settings(max_examples=600, deadline=None)
@given(st.data(), puzzles)
def test_flipped_identities_are_never_right(data, puzzle):
    names, kinds = puzzle
    flips = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)).filter(any))
    said = [kind != flip for kind, flip in zip(kinds, flips)]
    gold = answer_text(kinds, names)
    assert of_answer(data.draw(written(names, said)), gold=gold) == (0.0, "wrong")
    assert of_answer(answer_text(said, names), gold=gold, mode="logic_rl") == (-0.5, "wrong")


@settings(max_examples=300, deadline=None)
@given(st.data(), puzzles.filter(lambda puzzle: len(puzzle[0]) > 1))
def test_a_person_left_out_or_named_twice_is_never_right(data, puzzle):
    names, kinds = puzzle
    gold = answer_text(kinds, names)
    assert of_answer(data.draw(written(names[1:], kinds[1:])), gold=gold) == (0.0, "missing_person")
    twice = data.draw(written([*names, names[0]], [*kinds, kinds[0]]))
    assert of_answer(twice, gold=gold) == (0.0, "repeated")
    both = data.draw(written([*names, names[0]], [*kinds, not kinds[0]]))
    assert of_answer(both, gold=gold) == (0.0, "contradiction")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("abknightve ZoeyLuke:.,-*_()12\n~!?/<>=|"), max_size=60))
def test_an_answer_without_both_names_and_kinds_is_never_right(text):
    value, reason = of_answer(text)
    letters = re.sub(r"[^a-z]", "", text.lower())
    if not re.search("zoey(is)?a?knight", letters) or not re.search("luke(is)?a?knave", letters):
        assert value == 0.0, reason


@pytest.mark.parametrize(
    "answer",
    [
        "Zoey is a knight , Luke is a knave",
        "( 1 ) Zoey is a knight ( 2 ) Luke is a knave",
        "（1）Zoey：knight（2）Luke：knave",
        "① Zoey is a knight\n② Luke is a knave",
        "a) Zoey is a knight\nb) Luke is a knave",
        "> Zoey is a knight\n> Luke is a knave",
        "### Zoey is a knight\n### Luke is a knave",
        "Zoey is a knight<br>Luke is a knave",
        "Zoey\u00a0is a knight,\r\nLuke\u00a0is a knave.",
        "(2) Luke is a knave\n(1) Zoey is a knight",
        "Zoey is a knight Luke is a knave",
    ],
)
def test_more_markup_that_changes_no_meaning(answer):
    assert of_answer(answer) == (1.0, "correct")


def test_names_of_several_words_or_with_marks():
    gold = "(1) Mary Ann is a knight\n(2) O'Neil is a knave\n(3) Jean-Luc is a knave\n(4) Zoey2 is a knight"
    assert gold_of(gold) == {"Mary Ann": "knight", "O'Neil": "knave", "Jean-Luc": "knave", "Zoey2": "knight"}
    assert of_answer(gold, gold=gold) == (1.0, "correct")
    assert of_answer(gold.replace("Zoey2", "Zoey"), gold=gold) == (0.0, "extra_person")


# Attacks on strict mode

EXPLOITS = {
    # thinking: skipped, empty, copied from the prompt
    GOLD: "no_format",
    f"<answer> {GOLD} </answer>": "no_format",
    f"<think></think> <answer> {GOLD} </answer>": "empty_thinking",
    f"<think> \n </think> <answer> {GOLD} </answer>": "empty_thinking",
    f"<think> . . . </think> <answer> {GOLD} </answer>": "empty_thinking",
    f"<think> 1 2 3 4 </think> <answer> {GOLD} </answer>": "empty_thinking",
    f"<think> x y z </think> <answer> {GOLD} </answer>": "empty_thinking",
    f"<think> reasoning process here </think> <answer> {GOLD} </answer>": "empty_thinking",
    f"<think> thinking process here </think> <answer> {GOLD} </answer>": "empty_thinking",
    f"<think> this is a think message </think> <answer> {GOLD} </answer>": "empty_thinking",
    f"<think> done </think> <answer> {GOLD} </answer>": "empty_thinking",
    f"<think> hmm hmm hmm hmm </think> <answer> {GOLD} </answer>": "empty_thinking",
    # tags: missing, twice, nested, out of order
    RIGHT.removeprefix("<think>"): "no_format",
    RIGHT.replace("</think>", ""): "no_format",
    RIGHT.removesuffix("</answer>"): "no_format",
    RIGHT.replace("<think>", "<think><think>"): "no_format",
    RIGHT.replace("<answer>", "<answer><answer>"): "no_format",
    f"{RIGHT} {RIGHT}": "no_format",
    f"{THINK} <answer> {GOLD} </answer> <answer> Zoey is a knave, Luke is a knight </answer>": "no_format",
    f"<answer> {GOLD} </answer> {THINK}": "no_format",
    f"<think> Zoey lies, says Luke. <answer> {GOLD} </answer> </think>": "no_format",
    RIGHT.replace("think>", "Think>"): "no_format",
    # text where none belongs
    f"Let me see. {RIGHT}": "no_format",
    RIGHT.replace("</think>", "</think> Zoey is a knight."): "no_format",
    f"{RIGHT} Or maybe Zoey is a knave.": "no_format",
    f"{RIGHT}\n\nUser: another puzzle": "no_format",
    f"{RIGHT} <think> let me think again </think>": "no_format",
}
ANSWERS = {
    "": "empty_answer",
    " . ": "empty_answer",
    "answer here": "empty_answer",
    # hedges
    "Zoey is a knight or knave, Luke is a knave": "unparsed",
    "Zoey is a knight or a knave\nLuke is a knave": "unparsed",
    "Zoey is a knight/knave, Luke is a knave": "unparsed",
    "Zoey is a knight (or a knave), Luke is a knave": "unparsed",
    "Zoey is a knight, Luke is a knave, or the other way round": "unparsed",
    "Zoey is a knight? Luke is a knave?": "unparsed",
    "Zoey is probably a knight, Luke is a knave": "unparsed",
    "Either Zoey is a knight and Luke is a knave or Zoey is a knave and Luke is a knave": "unparsed",
    "If Luke is a knave, Zoey is a knight": "unparsed",
    "Zoey | knight | knave\nLuke | knave": "unparsed",
    # every guess at once
    "Zoey is a knight, Zoey is a knave, Luke is a knave, Luke is a knight": "contradiction",
    "(1) Zoey is a knave\n(2) Luke is a knave\n(1) Zoey is a knight": "contradiction",
    f"{GOLD}\n(1) Zoey is a knave": "contradiction",
    f"{GOLD}\n{GOLD}": "repeated",
    "**Zoey** is a knight, zoey is a knave, Luke is a knave": "contradiction",
    # negations
    "Zoey is not a knight, Luke is a knave": "unparsed",
    "Zoey isn't a knight, Luke is a knave": "unparsed",
    "Zoey is a knight, Luke is not a knight": "unparsed",
    "Zoey: not knight, Luke: knave": "unparsed",
    "~Zoey is a knight, Luke is a knave": "unparsed",
    "~~Zoey is a knight~~, Luke is a knave": "unparsed",
    "¬Zoey is a knight, Luke is a knave": "unparsed",
    "!Zoey is a knight, Luke is a knave": "unparsed",
    "Zoey ≠ knight, Luke = knave": "unparsed",
    "Zoey != knight, Luke = knave": "unparsed",
    "not Zoey is a knight, Luke is a knave": "unparsed",
    "It is false that Zoey is a knight, Luke is a knave": "unparsed",
    "False: Zoey is a knight. Luke is a knave": "unparsed",
    "Zoey is a knight = false, Luke is a knave": "unparsed",
    "Zoey is a non-knight, Luke is a knave": "unparsed",
    "Zoey is a not_knight, Luke is a knave": "unparsed",
    "Zoey is a \\cancel{knight}, Luke is a knave": "unparsed",
    "Zoey is a <del>knight</del>, Luke is a knave": "unparsed",
    "Zoey is a knight-hater, Luke is a knave": "unparsed",
    "Zoey is a knight's enemy, Luke is a knave": "unparsed",
    "Zoey is a knightly person, Luke is a knave": "unparsed",
    "Zoey is a knightknave, Luke is a knave": "unparsed",
    "Zoey is a knightLuke is a knave": "unparsed",
    # persons
    f"{GOLD}\n(3) Bob is a knight": "extra_person",
    f"{GOLD}\n(3) Everyone is a knight": "extra_person",
    "Zoe is a knight, Luke is a knave": "extra_person",
    "Zoeyy is a knight, Luke is a knave": "extra_person",
    "Zoey is a knight": "missing_person",
    "Zoey and Luke is a knight": "unparsed",
    "(1) knight\n(2) knave": "unparsed",
    "knight, knave": "unparsed",
    # reasoning inside the answer, unfinished answers
    "Zoey says Luke lies, so Zoey is a knight, Luke is a knave": "unparsed",
    "Zoey is a knight, Luke is a knave, because he lies": "unparsed",
    "Zoey is a knight, Luke is a knave and": "unparsed",
    "Zoey is a knight, Luke is a kn": "unparsed",
    "(1) Zoey is a knight\n(2) ...": "unparsed",
}


@pytest.mark.parametrize(("text", "why"), EXPLOITS.items())
def test_turns_that_strict_mode_gives_nothing(text, why):
    value, reason = score(text)
    assert (value, reason.partition(":")[0]) == (0.0, why)


@pytest.mark.parametrize(("answer", "why"), ANSWERS.items())
def test_answers_that_strict_mode_gives_nothing(answer, why):
    assert of_answer(answer) == (0.0, why)


def test_long_degenerate_answers_take_no_time():
    started = time.process_time()
    for filler in (
        " ",
        "\n",
        "- ",
        "(",
        "1 ",
        "and ",
        "zoey ",
        "Zoey is a ",
        "\\text{",
        "*",
        "> ",
        "$",
        "Zoey: knight ",
        "Zoey and ",
        "zoey\n",
        "knights: zoey, ",
        "| zoey ",
        "|\n",
        "is not ",
        "all of them ",
    ):
        for mode in ("strict", "lenient", "logic_rl"):
            of_answer(filler * 20_000, mode=mode)
    assert time.process_time() - started < 10


# Lenient mode

LENIENT_RIGHT = [
    GOLD,
    "Knights: Zoey\nKnaves: Luke",
    "Knight: Zoey, Knave: Luke",
    "**Knights:** Zoey  \n**Knaves:** Luke",
    "Knights:\n- Zoey\n\nKnaves:\n- Luke",
    "Knaves = Luke; Knights = Zoey",
    "The knight is Zoey and the knave is Luke.",
    "The only knight is Zoey, while the knave is Luke",
    "| Person | Kind |\n|---|---|\n| Zoey | knight |\n| Luke | knave |",
    "| # | Name | Says | Role |\n|---|---|---|---|\n| 1 | **Zoey** | no | Knight |\n| 2 | Luke | yes | a knave |",
    "| Zoey | Luke |\n|---|---|\n| knight | knave |",
    "Zoey | knight\nLuke | knave",
    "Zoey knight, Luke knave",
    "(Zoey, knight), (Luke, knave)",
    "Zoey (knight), Luke (knave)",
    "[('Zoey', 'knight'), ('Luke', 'knave')]",
    "{'Zoey': 'knight', 'Luke': 'knave'}",
    "Zoey = 'knight', Luke = 'knave'",
    "Zoey is a knight, and Luke is a knave.",
    '{"Zoey": "knight", "Luke": "knave"}',
    '```json\n{\n  "Zoey": "knight",\n  "Luke": "knave"\n}\n```',
    "\\boxed{\\text{Zoey is a knight, Luke is a knave}}",
    "Zoey must be a knight and Luke has to be a knave",
    "Zoey is indeed a knight. Therefore Luke is clearly a knave.",
    "Zoey is not a knave, and Luke isn't a knight",
    "Zoey is the knight; Luke is the knave",
    "Luke is a knight? No. Zoey is a knight and Luke is a knave",
    "If Luke is a knight, Zoey is a knave, no. So Zoey is a knight and Luke is a knave; if Zoey is a knave, no.",
    "So Zoey is a knight and Luke is a knave. After all Luke says Zoey is a knave.",
    "Zoey → knight\nLuke → knave",
    "1. Zoey: Knight\n2. Luke: Knave",
    "Zoey is a knight, Luke is a knave, so one of each",
    "Luke lies and is a knave. Zoey tells the truth and is therefore a knight.",
    "Only Zoey is a knight; Luke, on the other hand, is a knave.",
]
LENIENT_WRONG = [
    "Knights: Luke\nKnaves: Zoey",
    "Knights: Zoey, Luke\nKnaves: none",
    "Zoey and Luke are knights",
    "Both are knaves.",
    "| Zoey | knave |\n| Luke | knight |",
    "| Zoey | Luke |\n|---|---|\n| knave | knave |",
    "Zoey is not a knight, and Luke is a knave",
    "Zoey is a knight and Luke is a knave. No: Zoey is a knave.",
    "Zoey isn't a knight, Luke is not a knave",
    "Neither Zoey is a knight nor Luke: both are knaves",
    "Luke lies and is a knave. Zoey, however, is a knave.",
]
LENIENT_MISSING = [
    "Zoey is a knight",
    "Knights: Zoey",
    "Zoey is a knight or a knave, Luke is a knave or a knight",
    "Zoey is a knight/knave, Luke is a knave/knight",
    "Zoey | knight | knave\nLuke | knave | knight",
    "Zoey is a knight? Luke is a knave?",
    "If Zoey is a knight, then Luke is a knave",
    "Either Zoey is a knight, or Luke is a knave",
    "It is false that Zoey is a knight. Luke is a knave.",
    "~~Zoey is a knight~~, Luke is a knave",
    "¬Zoey is a knight, Luke is a knave",
    "Luke says Zoey is a knight. Luke is a knave.",
    "Zoey is a knight = false, Luke is a knave",
    "Zoey is a knight-hater, Luke is a knave",
    "Zoey is a knight's friend, Luke is a knave",
    "Zoeyy is a knight, Luke is a knave",
    "Zoey != knight, Luke = knave",
    "Knights: Zoey or Luke\nKnaves: Luke or Zoey",
    "knight, knave",
    "",
]


@pytest.mark.parametrize(
    ("answer", "value", "reason"),
    [(answer, 1.0, "correct") for answer in LENIENT_RIGHT]
    + [(answer, 0.0, "wrong") for answer in LENIENT_WRONG]
    + [(answer, 0.0, "missing_person") for answer in LENIENT_MISSING],
)
def test_lenient_mode(answer, value, reason):
    assert of_answer(answer, mode="lenient") == (value, reason)
    assert score(f"{THINK}\n{answer}" if value else answer, mode="lenient") == (value, reason)


def test_lists_of_several_people():
    gold = "(1) Ann is a knight\n(2) Bob is a knight\n(3) Cy is a knave\n(4) Mary Jo is a knave"
    for answer in (
        "Knights: Ann, Bob\nKnaves: Cy, Mary Jo",
        "Knights: Ann and Bob. Knaves: Cy and Mary Jo.",
        "Ann and Bob are knights; Cy and Mary Jo are both knaves",
        "The knights are Ann, and Bob. The knaves are Mary Jo & Cy",
        "Knights:\n1. Ann\n2. Bob\n\nKnaves:\n* Cy\n* Mary Jo",
        "Everyone is a knave. No: Ann and Bob are knights.",
        "Ann is a knight, Bob is a knight, Cy, unlike Bob, is a knave... Cy: knave, Mary Jo: knave",
        "Unlike Cy, Ann is a knight. Bob is a knight, Cy is a knave, Mary Jo is a knave.",
    ):
        assert of_answer(answer, gold=gold, mode="lenient") == (1.0, "correct"), answer
    assert of_answer("All of them are knights", gold=gold, mode="lenient") == (0.0, "wrong")


@settings(max_examples=300, deadline=None)
@given(st.data(), puzzles)
def test_lenient_mode_takes_what_strict_mode_takes_and_no_flipped_identity(data, puzzle):
    names, kinds = puzzle
    flips = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    answer = data.draw(written(names, [kind != flip for kind, flip in zip(kinds, flips)]))
    assert of_answer(answer, gold=answer_text(kinds, names), mode="lenient")[0] == float(not any(flips))


# Real data


def rows_of(files):
    pq = pytest.importorskip("pyarrow.parquet")
    return [row["solution_text_format"] for file in files for row in pq.read_table(file).to_pylist()]


@pytest.mark.skipif(not LOGIC_RL.is_dir(), reason="needs ../shared/data/logic_rl_kk")
def test_gold_of_all_of_logic_rls_rows_scores_full_marks_and_flipped_does_not():
    golds = rows_of(sorted(LOGIC_RL.glob("*/*.parquet")))
    assert len(golds) == 5000
    turns = [f"{THINK} <answer> {gold} </answer>" for gold in golds]
    assert set(knights_knaves_reward(turns, answer=golds)) == {1.0}
    assert set(knights_knaves_reward(turns, answer=golds, mode="logic_rl")) == {3.0}
    swap = {"knight": "knave", "knave": "knight"}
    flipped = [re.sub("(knight|knave)$", lambda found: swap[found[1]], turn[: -len(" </answer>")]) for turn in turns]
    flipped = [f"{turn} </answer>" for turn in flipped]
    assert set(knights_knaves_reward(flipped, answer=golds)) == {0.0}
    assert set(knights_knaves_reward(flipped, answer=golds, mode="logic_rl")) == {-0.5}


@pytest.mark.skipif(not MEM_KK.is_dir(), reason="needs ../shared/data/mem_kk_logic")
def test_gold_of_two_and_ten_people_and_perturbed_twins_scores_full_marks():
    import json

    files = sorted(MEM_KK.rglob("*.jsonl"))
    golds = [json.loads(line)["solution_text_format"] for file in files for line in file.open()]
    assert golds
    turns = [f"{THINK} <answer> {gold} </answer>" for gold in golds]
    assert set(knights_knaves_reward(turns, answer=golds)) == {1.0}
    assert set(knights_knaves_reward(turns, answer=golds, mode="logic_rl")) == {3.0}


@pytest.mark.parametrize("style", ["deduction", "evaluation"])
def test_worked_solutions_score_full_marks_also_through_a_tokenizer(style, tiny_model):
    from r1lab.models.loading import load_tokenizer

    tokenizer = load_tokenizer(str(tiny_model))
    rows = knights_knaves(people=[2, 3, 5], size=60, solution=style)
    turns, answers = [row["completion"] for row in rows], [row["answer"] for row in rows]
    again = tokenizer.batch_decode([tokenizer(turn)["input_ids"] for turn in turns], skip_special_tokens=True)
    spaced = [re.sub(r"(?<=\w)([,.:)])", r" \1", turn.replace("(", "( ")) for turn in turns]
    for texts in (turns, again, spaced):
        assert set(knights_knaves_reward(texts, answer=answers)) == {1.0}
    for texts in (turns, again):
        assert set(knights_knaves_reward(texts, answer=answers, mode="logic_rl")) == {3.0}


# What is asked wrongly


def test_rows_without_gold_and_gold_that_cannot_be_read():
    assert knights_knaves_reward([RIGHT, RIGHT], answer=[None, GOLD]) == [None, 1.0]
    for gold in (
        "",
        "Zoey",
        "Zoey is a knight",
        "(1) Zoey is a knight\n(2) Luke is a saint",
        "(1) Zoey is a knight (2)",
    ):
        with pytest.raises(ValueError, match="not a gold answer"):
            knights_knaves_reward([RIGHT], answer=[gold])
    with pytest.raises(UserError, match="knights_knaves: mode: 'lax' is not strict, lenient, logic_rl"):
        knights_knaves_reward([RIGHT], answer=[GOLD], mode="lax")


THREE = "(1) Zoey is a knave\n(2) Evelyn is a knight\n(3) Liam is a knight"


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("Zoey's a knave. Evelyn's a knight, and Liam's not a knave.", 1.0),
        ("Only Zoey is a knave; the others are knights.", 1.0),
        ("Zoey is a knave. The rest are knights.", 1.0),
        ("Zoey is a knave, Evelyn is a knight and the other one is a knight.", 1.0),
        ("Everyone except Zoey is a knight.", 1.0),
        ("Zoey is a knave and everyone else is a knight.", 1.0),
        ("Zoey is a knave. Evelyn is a knight, and so is Liam.", 1.0),
        ("Zoey is a knave. Evelyn is a knight and Liam is too.", 1.0),
        ("Zoey's a knight. Evelyn's a knight. Liam's a knight.", 0.0),
        ("Zoey is a knight; the others are knaves.", 0.0),
        ("Everyone except Liam is a knight.", 0.0),
        ("If Zoey is a knave, then the others are knights.", 0.0),
        ("The others are knights.", 0.0),
        ("Zoey is a knave, the others are knights or knaves.", 0.0),
        ("Evelyn is a knight. Liam is a knight. Zoey is too.", 0.0),
        ("Zoey is a knave, the others are knights. Liam is a knave, the others are knights.", 0.0),
    ],
)
def test_lenient_mode_reads_the_others_and_short_forms(answer, value):
    assert of_answer(answer, gold=THREE, mode="lenient")[0] == value
