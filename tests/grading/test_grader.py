"""The grader: rewards bound to parameters, fed with columns, failing row by row."""

import pickle

import pytest

from r1lab.errors import UserError
from r1lab.grading import grader
from r1lab.rundir import storage

GOLD = "(1) Zoey is a knight\n(2) Luke is a knave"
ROW = {"prompt": "Who?", "answer": GOLD, "task": "knights_knaves/2ppl"}
TURN = f"<think> If Zoey lied, so would Luke. </think>\n<answer> {GOLD} </answer>"


@pytest.fixture
def own(tmp_path):
    """Builds a grader of the user's own rewards, from the text of a file."""

    def build(text, *specs, **settings):
        (tmp_path / "mine.py").write_text(text)
        specs = [{"name": f"./mine.py:{spec}"} if isinstance(spec, str) else spec for spec in specs]
        return grader.build(specs, base_dir=tmp_path, **settings)

    return build


def test_values_reasons_totals_and_right():
    specs = [{"name": "knights_knaves", "mode": "logic_rl", "weight": 0.5}, {"name": "format"}]
    graded = grader.build(specs).grade([TURN, TURN.replace("knave", "knight"), "no"], [ROW] * 3)
    assert graded.values == {"knights_knaves": [3.0, -0.5, -3.0], "format": [1.0, 1.0, 0.0]}
    assert graded.reasons["knights_knaves"] == ["correct", "wrong", "no_format"]
    assert graded.totals == [2.5, 0.75, -1.5] and graded.right == [True, False, False]
    assert graded.failed == {"knights_knaves": 0, "format": 0}


def test_a_prefilled_tag_is_put_back():
    specs = [{"name": "knights_knaves"}, {"name": "format"}]
    completion = TURN.removeprefix("<think>")
    graded = grader.build(specs, prefill="<think>").grade([completion, TURN], [ROW] * 2)
    assert graded.completions[0] == TURN
    assert graded.values == {"knights_knaves": [1.0, 0.0], "format": [1.0, 0.0]}
    assert graded.reasons["format"][1] == "no_format: more than one <think>"
    assert grader.build(specs).grade([completion], [ROW]).right == [False]


def test_the_same_reward_twice_has_names_of_its_own(own):
    text = "def length_reward(completions, *, most=9): return [float(len(c) <= most) for c in completions]\n"
    text += "def length_2(completions): return [7.0] * len(completions)\n"
    specs = [{"name": "./mine.py:length_reward", "most": most} for most in (1, 2, 3)]
    built = own(text, specs[0], "length_2", *specs[1:])
    assert built.names == ["length", "length_2", "length_3", "length_4"]
    assert list(built.grade(["ab"], [ROW]).values.values()) == [[0.0], [7.0], [1.0], [1.0]]


def test_a_reward_gets_the_columns_it_asks_for_and_no_others(own):
    text = """
seen = {}
def named(completions, answer, level, prompts, completion_ids): seen["named"] = dict(locals()); return [0] * 2
def every(completions, **columns): seen["every"] = columns; return [0] * 2
def settings(completions, *, level=3, hint=None, other=None): seen["settings"] = dict(locals()); return [0] * 2
def trl(prompts, completions, **columns): seen["trl"] = (prompts, completions); return [0] * 2
def first(texts): seen["first"] = texts; return [0] * 2
"""
    built = own(text, "named", "every", "settings", "trl", "first")
    rows = [{"prompt": "p", "answer": 1, "level": 5, "hint": "h"}, {"prompt": "q", "answer": 2, "level": 6}]
    built.grade(["a", "b"], rows, completion_ids=[[1], [2]])
    seen = built.functions[0].__globals__["seen"]
    both = {"completions": ["a", "b"], "answer": [1, 2], "level": [5, 6], "prompts": ["p", "q"]}
    assert seen["named"] == both | {"completion_ids": [[1], [2]]}
    rest = {
        "completion_ids": [[1], [2]],
        "right": [False, False],
        "prompt": ["p", "q"],
        "hint": ["h", None],
        "groups": [0, 1],
    }
    assert seen["every"] == {key: both[key] for key in ("answer", "level", "prompts")} | rest
    assert seen["settings"] == {"completions": ["a", "b"], "level": 3, "hint": ["h", None], "other": None}
    assert seen["trl"] == (["p", "q"], ["a", "b"]) and seen["first"] == ["a", "b"]


def test_a_set_parameter_wins_over_a_column_of_its_name():
    rows = [ROW | {"mode": "nonsense"}]
    assert grader.build([{"name": "knights_knaves", "mode": "logic_rl"}]).grade([TURN], rows).totals == [3.0]
    assert grader.build([{"name": "knights_knaves"}]).grade([TURN], rows).totals == [1.0]


def test_none_does_not_apply_and_counts_nothing(own):
    text = "def maybe(completions, *, answer): return [None if a is None else 2 for a in answer]"
    built = own(text, {"name": "./mine.py:maybe", "weight": 3}, {"name": "format"})
    graded = built.grade([TURN, TURN], [ROW, {"prompt": "?"}])
    assert graded.values["maybe"] == [2.0, None] and graded.totals == [7.0, 1.0] and graded.right == [True, True]
    assert graded.reasons["maybe"] == ["", "does not apply"] and graded.failed["maybe"] == 0


def test_a_row_on_which_a_reward_fails_is_none_says_why_and_is_counted(own):
    text = "def ratio(completions, *, answer): return [1 / a for a in answer]"
    built = own(text, "ratio")
    rows = [{"prompt": "p", "answer": a} for a in (1, 0, 2)]
    for times in (1, 2):
        graded = built.grade(["x"] * 3, rows)
        assert graded.values == {"ratio": [1.0, None, 0.5]} and graded.totals == [1.0, 0.0, 0.5]
        assert graded.reasons["ratio"] == ["", "error: ZeroDivisionError: division by zero", ""]
        assert graded.failed == {"ratio": 1} and built.failed["ratio"] == times
    assert built.grade(["x"] * 2, rows[1:2] * 2).failed == {"ratio": 2}  # it has worked before: rows are to blame


def test_gold_that_cannot_be_read_fails_its_row_only():
    graded = grader.build([{"name": "knights_knaves"}]).grade([TURN, TURN], [ROW, ROW | {"answer": "Zoey"}])
    assert graded.values["knights_knaves"] == [1.0, None]
    assert graded.reasons["knights_knaves"][1].startswith("error: ValueError: not a gold answer")


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "'many'", "[1]"])
def test_a_value_that_is_no_number_fails_its_row_only(own, value):
    built = own(f"def odd(completions): return [{value} if c == 'bad' else 1 for c in completions]", "odd")
    graded = built.grade(["good", "bad"], [ROW] * 2)
    assert graded.values["odd"] == [1.0, None] and graded.failed == {"odd": 1}
    assert graded.reasons["odd"][1].startswith("error: ")


def test_arrays_are_values_too(own):
    built = own("import numpy\ndef length(completions): return numpy.array([len(c) for c in completions])", "length")
    values = built.grade(["a", "bb"], [ROW] * 2).values["length"]
    assert values == [1.0, 2.0] and type(values[0]) is float


def failure(build_and_grade, status):
    with pytest.raises(UserError) as caught:
        build_and_grade()
    assert caught.value.status == status and len(caught.value.problems) == 1
    return caught.value.problems[0]


def test_a_failure_ends_the_run_and_names_the_completion_which_is_kept(own, tmp_path):
    built = own("def broken(completions): return [c.foo if c == 'b' else 1 for c in completions]", "broken")
    graded = built.grade(["a", "b", "b"], [ROW] * 3)
    assert graded.fatal == ("broken", 1) and graded.values == {"broken": [1.0, None, None]}
    path = tmp_path / "samples" / "failed.jsonl"
    said = failure(lambda: graded.stop_if_failed([ROW] * 3, path), 1)
    assert said == (
        f"rewards: broken: failed on 2 of 3 completions, first on line 2 of {path}: AttributeError: 'str' object has "
        "no attribute 'foo'; `on_error: zero` next to its name scores such rows 0 and continues"
    )
    record = storage.read_jsonl(path)[1]
    assert record["completion"] == "b" and record["reasons"]["broken"].startswith("error: AttributeError")


def test_on_error_zero_scores_0_and_counts(own, tmp_path):
    text = "def ratio(completions, *, answer): return [1 / a for a in answer]"
    built = own(text, {"name": "./mine.py:ratio", "on_error": "zero", "weight": 2}, {"name": "format"})
    graded = built.grade([TURN] * 2, [{"prompt": "p", "answer": a} for a in (1, 0)])
    assert graded.values["ratio"] == [1.0, 0.0] and graded.totals == [3.0, 1.0] and graded.right == [True, False]
    assert graded.fatal is None and built.failed["ratio"] == 1
    graded.stop_if_failed([ROW] * 2, tmp_path / "failed.jsonl")
    assert not (tmp_path / "failed.jsonl").exists()


MACHINE = """
from r1lab.errors import MachineError
def short(completions, *, answer):
    if 0 in answer: raise MachineError("no worker can be started")
    return [1.0] * len(completions)
"""


@pytest.mark.parametrize("on_error", ["fail", "zero"])
def test_what_fails_for_the_machines_sake_is_no_score_and_ends_the_run(own, tmp_path, on_error):
    built = own(MACHINE, {"name": "./mine.py:short", "on_error": on_error})
    rows = [{"prompt": "p", "answer": a} for a in (1, 0, 2)]
    graded = built.grade(["x"] * 3, rows)
    assert graded.values["short"] == [1.0, None, 1.0] and built.failed["short"] == 1
    said = failure(lambda: graded.stop_if_failed(rows, tmp_path / "failed.jsonl"), 1)
    assert said.endswith("MachineError: no worker can be started; fix the machine, and continue with --resume")


def test_tokens_that_a_server_does_not_send_are_not_taken_for_none(own):
    text = "def count(completions, *, completion_ids): return [len(ids) for ids in completion_ids]"
    built = own(text, "count")
    assert built.grade(["a b", ""], [ROW] * 2, [[1, 2], []]).values["count"] == [2.0, 0.0]
    said = failure(lambda: built.grade(["a b", "c"], [ROW] * 2, [[], [1]]), 2)
    assert said == "rewards: count: needs token counts, which the server does not send: remove it here"
    graded = grader.build([{"name": "exact_match"}]).grade(["a"], [ROW], [[]])
    assert graded.tokens == []


def test_rewards_of_tasks_apply_to_their_rows_alone(own):
    specs = [{"name": "knights_knaves", "tasks": ["knights_knaves"]}, {"name": "./mine.py:one", "tasks": ["a", "b"]}]
    built = own("def one(completions, *, right): return [2.0 if r else 1.0 for r in right]", *specs)
    rows = [ROW, ROW | {"task": "a"}, ROW | {"task": "ab"}, ROW | {"task": None}, {"prompt": "?", "task": "b/c"}]
    graded = built.grade([TURN] * 5, rows)
    assert graded.values == {"knights_knaves": [1.0, None, None, None, None], "one": [None, 1.0, None, None, 1.0]}
    assert graded.right == [True, True, False, False, True]
    assert graded.reasons["knights_knaves"][1] == "does not apply"


def test_later_rewards_may_ask_what_is_right_and_a_first_one_may_not(own):
    text = "def bonus(completions, *, right): return [1.0 if r else -1.0 for r in right]"
    graded = own(text, {"name": "knights_knaves"}, "bonus").grade([TURN, "no"], [ROW] * 2)
    assert graded.values["bonus"] == [1.0, -1.0] and graded.right == [True, False]
    said = failure(lambda: own(text, "bonus").grade([TURN], [ROW]), 2)
    assert said.startswith("rewards: bonus: needs to know which completions are correct: put it after a reward that")


def test_figures_are_mean_spread_share_of_none_and_reasons():
    specs = [{"name": "knights_knaves", "mode": "logic_rl", "tasks": ["knights_knaves"]}, {"name": "format"}]
    turns = [TURN, TURN.replace("knave", "knight"), "no", TURN]
    figures = grader.build(specs).grade(turns, [ROW] * 3 + [{"prompt": "?"}]).statistics()
    assert figures["knights_knaves"]["mean"] == pytest.approx(-0.5 / 3) and figures["knights_knaves"]["none"] == 0.25
    assert figures["knights_knaves"]["std"] == pytest.approx(2.4608, abs=1e-4)
    assert figures["knights_knaves"]["reasons"] == {"correct": 1, "wrong": 1, "no_format": 1, "does not apply": 1}
    assert figures["format"]["reasons"] == {"well_formed": 3, "no_format": 1}


def test_an_unreadable_gold_gives_no_signal_and_its_reason_is_counted():
    rows = [{"prompt": "p", "answer": "?"}, {"prompt": "p", "answer": "7"}]
    graded = grader.build([{"name": "accuracy"}]).grade(["<think> a </think> <answer> 7 </answer>"] * 2, rows)
    assert graded.values["accuracy"] == [None, 1.0] and graded.totals == [0.0, 1.0]
    assert graded.statistics()["accuracy"]["reasons"] == {"gold_unparsed": 1, "correct": 1}
    assert graded.statistics()["accuracy"]["mean"] == 1.0


def test_gold_that_cannot_be_graded_is_told_before_anything_is_written(own):
    rows = [{"prompt": "p", "answer": answer} for answer in ("7", "?", None, "?", r"\frac12")]
    assert grader.build([{"name": "accuracy"}]).gold_problems(rows) == [
        "data: accuracy cannot grade 2 of 5 rows (gold_unparsed): rows 2, 4"
    ]
    assert grader.build([{"name": "knights_knaves"}]).gold_problems([ROW, ROW | {"answer": "Zoey"}]) == [
        "data: knights_knaves cannot grade 1 of 2 rows (ValueError: not a gold answer of lines '(1) Zoey is a "
        "knight': 'Zoey'): rows 2"
    ]
    assert grader.build([{"name": "format"}, {"name": "length"}]).gold_problems(rows) == []
    assert own("def mine(completions, *, answer): raise OSError", "mine").gold_problems(rows) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [1.0]", "rewards: few: gave 1 values for 2 completions: return a list with one value each"),
        ("return [1.0] * 3", "rewards: few: gave 3 values for 2 completions: return a list with one value each"),
        (
            "return 1.0",
            "rewards: few: gave a value of type float for 2 completions: return a list with one value each",
        ),
        ("pass", "rewards: few: gave a value of type NoneType for 2 completions: return a list with one value each"),
    ],
)
def test_a_wrong_number_of_values_ends_the_run_and_names_the_reward(own, body, said):
    built = own(f"def few(completions): {body}", "few")
    assert failure(lambda: built.grade(["a", "b"], [ROW] * 2), 1) == said


def test_a_column_that_is_not_there_is_named(own):
    built = own("def needs(completions, *, tests): return [0] * len(completions)", "needs")
    said = failure(lambda: built.grade(["a"], [ROW]), 2)
    assert said == "rewards: needs: needs the column tests; available: prompt, answer, task, groups, prompts"


def test_what_a_recipe_asks_wrongly():
    assert "did you mean `format`" in failure(lambda: grader.build([{"name": "formt"}]), 2)
    said = failure(lambda: grader.build([{"name": "knights_knaves", "mod": "strict"}]), 2)
    assert said == "rewards: knights_knaves: mod: unknown parameter (did you mean `mode`?)"
    built = grader.build([{"name": "knights_knaves", "mode": "lax"}])
    assert "mode: 'lax' is not strict, lenient, logic_rl" in failure(lambda: built.grade([TURN], [ROW]), 2)
    assert failure(lambda: grader.build([]), 2).startswith("rewards: there are none")


def test_records_hold_every_reward_with_its_reason():
    graded = grader.build([{"name": "knights_knaves"}, {"name": "format"}]).grade([TURN, "no"], [ROW, ROW])
    right, wrong = graded.records([ROW, ROW], step=7)
    assert right["rewards"] == {"knights_knaves": 1.0, "format": 1.0} and right["right"] and right["reward"] == 2.0
    assert wrong["reasons"]["format"] == "no_format: no <think>" and not wrong["right"]
    assert right["step"] == 7 and right["completion"] == TURN and right["answer"] == GOLD


def test_a_grader_goes_to_another_process():
    built = pickle.loads(pickle.dumps(grader.build([{"name": "knights_knaves", "mode": "strict"}], prefill="<think>")))
    assert built.grade([TURN.removeprefix("<think>")], [ROW]).right == [True]


def test_a_reward_that_reads_completions_as_chat_messages_is_told_that_they_are_strings(tmp_path):
    (tmp_path / "trls.py").write_text(
        "def score(completions, **_):\n    return [float(len(c[0]['content'])) for c in completions]\n"
        "def other(completions, **_):\n    return [c[0].get('content') for c in completions]\n"
    )
    for name in ("score", "other"):
        graded = grader.build([{"name": f"{tmp_path}/trls.py:{name}"}]).grade(["7", "8"], [{"prompt": "?"}] * 2)
        (reason,) = set(graded.reasons[name])
        assert "completions are strings here, not chat messages: write `completion`" in reason
