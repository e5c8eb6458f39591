"""The majority vote: who wins, what is the same answer, and that the gold answer is never rewarded."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1lab.check import rewards as checked
from r1lab.errors import UserError
from r1lab.grading import grader
from r1lab.grpo.rewards import BatchRewards
from r1lab.rewards.majority import majority_reward


def vote(*turns, **given):
    return majority_reward(list(turns), **{"groups": [0] * len(turns)} | given)


def puzzle(*claims):
    return f"<think> Luke lies, so he is one. </think> <answer> {', '.join(claims)} </answer>"


def test_the_same_answer_in_other_words_is_a_vote_for_it():
    scores = vote(r"\boxed{0.5}", "It is 3.", r"so \boxed{\frac{1}{2}}", "<answer> 1/2 </answer>", "The answer is 3")
    assert scores == [1, 0, 1, 1, 0]
    assert [score.reason.partition(":")[0] for score in scores[:2]] == ["majority", "minority"]
    assert {score.figures["votes"] for score in scores} == {0.6}


def test_of_tied_answers_the_first_one_wins():
    assert vote("It is 7.", "It is 8.", "It is 8.", "It is 7.") == [1, 0, 0, 1]
    assert vote("It is 8.", "It is 7.", "It is 8.", "It is 7.") == [1, 0, 1, 0]


def test_without_an_answer_nothing_is_earned():
    scores = vote("", "<think> 7", "no idea at all about any of this or that", same_as="accuracy")
    assert scores == [0, 0, 0] and [score.figures for score in scores] == [{"votes": 0.0}] * 3
    assert scores[0].reason == "no_answer"
    scores = vote("", "<think> 7", answer=["7", "7"])
    assert scores == [0, 0] and scores[0].figures["majority_right"] == 0


def test_the_gold_answer_is_a_figure_and_not_the_reward():
    turns = ["It is 7."] * 3 + ["It is 8."]
    scores = vote(*turns, answer=["8"] * 4)
    assert scores == vote(*turns) == [1, 1, 1, 0]
    assert [score.figures for score in scores] == [{"votes": 0.75, "majority_right": 0.0}] * 4
    assert vote(*turns, answer=["7"] * 4)[0].figures["majority_right"] == 1
    assert "majority_right" not in vote(*turns, answer=[None] * 4)[0].figures


TURNS = {
    "accuracy": (["It is 7.", r"so \boxed{0.5}", r"\boxed{\frac{1}{2}}", "no idea", ""], ["7", "8", "1/2"]),
    "choice": (["(A)", "The answer is B", "(B)", "A or B", ""], ["A", "B", "C"]),
    "exact_match": (["<answer> Paris </answer>", "<answer> paris. </answer>", "London", ""], ["Paris", "London"]),
    "knights_knaves": (
        [puzzle("Zoey is a knight", "Luke is a knave"), puzzle("Luke is a knave"), "Zoey is a knight", ""],
        ["(1) Zoey is a knight\n(2) Luke is a knave", "(1) Zoey is a knave\n(2) Luke is a knight"],
    ),
}


@pytest.mark.parametrize("same_as", TURNS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_gold_answer_changes_a_reward(same_as, data):
    turns, golds = TURNS[same_as]
    given_turns = data.draw(st.lists(st.sampled_from(turns), min_size=1, max_size=6))
    groups = data.draw(st.lists(st.integers(0, 1), min_size=len(given_turns), max_size=len(given_turns)))
    of_group = data.draw(st.tuples(*[st.sampled_from([None, *golds])] * 2))
    hidden = {"name": "majority", "same_as": same_as}
    plain = majority_reward(given_turns, groups=groups, same_as=same_as)
    scores = majority_reward(given_turns, groups=groups, same_as=same_as, answer=[of_group[g] for g in groups])
    assert [(score, score.reason, score.figures["votes"]) for score in scores] == [
        (score, score.reason, score.figures["votes"]) for score in plain
    ]
    rows = [[{"prompt": str(g), "answer": gold} for g in groups] for gold in golds[:2]]
    graded = [grader.build([hidden]).grade(given_turns, of) for of in rows]
    assert graded[0].values == graded[1].values and graded[0].right == graded[1].right


def test_groups_vote_apart():
    turns = ["It is 7.", "It is 8."] * 3
    assert majority_reward(turns, groups=[0, 1] * 3) == [1] * 6
    assert majority_reward(turns, groups=[0, 0, 0, 1, 1, 1]) == [1, 0, 1, 1, 0, 1]


def test_letters_texts_and_puzzles_are_compared_exactly():
    options = ["London", "Paris"]
    assert vote("(B)", "The answer is A", "Paris", same_as="choice", choices=[options] * 3) == [1, 0, 1]
    assert vote("A or B", "A or B", same_as="choice") == [0, 0]
    assert vote(*(f"<answer> {x} </answer>" for x in ("Paris.", "London", "paris")), same_as="exact_match") == [
        1,
        0,
        1,
    ]
    first, second = ("Zoey is a knight", "Luke is a knave"), ("Luke is a knave", "Zoey is a knight")
    turns = [puzzle("Zoey is a knave"), puzzle(*first), puzzle(*second), ", ".join(first)]
    scores = vote(*turns, same_as="knights_knaves", answer=["(1) Zoey is a knight\n(2) Luke is a knave"] * 4)
    assert scores == [0, 1, 1, 0] and scores[0].figures == {"votes": 0.5, "majority_right": 1.0}
    assert scores[3].reason == "no_answer", "not in the required format"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"same_as": "format"}, "majority: same_as: 'format' is not accuracy, choice, exact_match, knights_knaves"),
        ({"answer": "7"}, "majority: answer: is a column of the data, not a setting"),
    ],
)
def test_settings(given, message):
    with pytest.raises(UserError, match=message):
        vote("It is 7.", "It is 7.", **given)


ROWS = [{"prompt": "3 + 4?", "answer": "7", "task": "t"}]  # one row, so that all groups have the same prompt


@pytest.mark.parametrize("early", [False, True])
def test_each_group_of_a_batch_votes_apart_early_or_late(early, tmp_path):
    texts = dict(enumerate(["It is 7.", "It is 8.", "It is 7.", "It is 8.", "It is 8.", "It is 7."]))
    rewards = BatchRewards(grader.build([{"name": "majority"}]), ROWS, tmp_path, size=3)
    ids = [[i] for i in range(6)]

    def decode(batch):
        return [texts[one[0]] for one in batch]

    if early:
        rewards.started([0] * 6, decode)
        for i in (5, 0, 4, 1, 3, 2):
            rewards.finished(i, ids[i])
    logged = []
    values = rewards.functions[0](
        ["?"] * 6, completions=decode(ids), completion_ids=ids, row=[0] * 6,
        trainer_state=SimpleNamespace(global_step=0), log_metric=lambda *item: logged.append(item),
    )  # fmt: skip
    assert values == [1, 0, 1, 1, 1, 0] and rewards.newest.right == [True, False, True, True, True, False]
    assert [value for name, value in logged if name == "rewards/majority/majority_right"] == [1] * 3 + [0] * 3
    assert rewards.statistics["majority"]["reasons"] == {"majority": 4, "minority": 2}


def test_a_failure_concerns_the_whole_group_and_no_other(tmp_path):
    rows = [{"prompt": "a", "answer": "not a letter"}] * 2 + [{"prompt": "b", "answer": "B"}] * 3
    built = grader.build([{"name": "majority", "same_as": "choice", "on_error": "zero"}])
    graded = built.grade(["(A)", "(A)", "(B)", "(C)", "(B)"], rows)
    assert graded.values["majority"] == [0, 0, 1, 0, 1] and graded.failed == {"majority": 2}


def test_check_says_that_a_constant_answer_earns_all(tmp_path):
    from r1lab.check.seen import Seen
    from r1lab.data import arithmetic
    from r1lab.recipe import loading

    recipe = loading.load(["stage=grpo", "name=t", "model.path=embedded:tiny-qwen2", "data.builder=arithmetic",
                           "rewards=[{name: majority}]"])  # fmt: skip
    found = checked.reward_findings(Seen(recipe, rows=arithmetic(split="train", seed=0, size=8)))
    assert [finding.verdict for finding in found] == ["ok", "warning", "ok"], found
    assert "a group that always gives the same answer earns 1, right or wrong" in found[1].seen
    assert "in a group of correct answers" in found[2].seen
