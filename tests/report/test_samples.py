"""What completions show by themselves."""

from dataclasses import replace

import pytest

from r1lab.report import content, packed, page, read, samples
from r1lab.report.samples import SampledCompletion
from r1lab.rundir import storage

PLAIN = SampledCompletion(
    stage="zero", step=1, task="maths", prompt="What is 2 + 2?", text="<think> Two and two make four. </think> 4",
    answer="4", rewards={"maths": 1.0, "format": 1.0}, reasons={"maths": "correct"}, reward=2.0, correct=True,
    tokens=12, truncated=False,
)  # fmt: skip


def flags_of(text, **more):
    return list(samples._flags(replace(PLAIN, text=text, **more)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think> Two and two make four. </think> <answer> 4 </answer>", []),
        ("<think> </think> <answer> 4 </answer>", ["bare"]),
        ("<think> Easy. </think> It is 4, as everybody knows.", ["bare"]),
        (r"\boxed{4}", ["bare"]),
        ("We add two and two, so \\boxed{4}", []),
        ("The answer is 4", ["bare"]),
        ("<think> 我们 add two and two, which is 四 </think> 4", ["scripts"]),
        ("<think> α + β is what we look for here </think> 4", []),
        ("<think> the café has two and two </think> 4", []),
        ("We add two and two to four. " * 20, ["repeats"]),
        (" ".join(map(str, range(100))), []),
    ],
)
def test_flags(text, expected):
    assert flags_of(text) == expected


def test_a_script_of_the_prompt_is_no_mixing():
    assert flags_of("<think> 我们把二和二加起来 add two two two </think> 4", prompt="二加二是多少?") == []


def test_what_is_shortened(tmp_path):
    schedule = {"schedule": {"max_completion_length": {10: 32}}}
    stage = read.Stage("zero", "grpo", tmp_path, config={"rollout": {"max_completion_length": 16}} | schedule)
    assert samples._limit(stage, 10) == 16 and samples._limit(stage, 11) == 32
    rows = [{"step": 1, "completion": "a", "tokens": n} for n in (15, 16)]
    storage.write_jsonl(tmp_path / "samples" / "step_000001.jsonl", rows)
    found = samples._completions(stage, tmp_path / "samples" / "step_000001.jsonl", [])
    assert [c.truncated for c in found] == [False, True]


def test_pairs_and_questions(tmp_path):
    pair = {"prompt": "p", "chosen": "good", "rejected": "bad", "reward": 1.0, "rejected_reward": 0.5}
    storage.write_jsonl(tmp_path / "pairs.jsonl", [pair])
    stage = read.Stage("s", "sample", tmp_path)
    assert [(c.text, c.reward) for c in samples._completions(stage, tmp_path / "pairs.jsonl", [])] == [
        ("good", 1.0),
        ("bad", 0.5),
    ]
    question = {"completion": "4", "scores": [1, 0], "lengths": [3, 9], "truncated": [False, True], "subtask": "a/b"}
    storage.write_jsonl(tmp_path / "questions.jsonl", [question])
    (first,) = samples._completions(read.Stage("e", "eval", tmp_path), tmp_path / "questions.jsonl", [])
    assert (first.correct, first.tokens, first.truncated, first.task, first.step) == (True, 3, False, "a/b", None)


def answers_of(folder, question, **config):
    storage.write_jsonl(folder / "samples" / "questions.jsonl", [question])
    stage = read.Stage("e", "eval", folder, config=config)
    return list(samples._completions(stage, folder / "samples" / "questions.jsonl", []))


def test_every_answer_to_a_question_with_its_reason(tmp_path):
    question = {"task": "hard", "subtask": "hard/2ppl", "scores": [0, 1], "reasons": ["wrong", "correct"]}
    question |= {"completions": ["no", "yes"], "lengths": [64, 9], "truncated": [False, True]}
    question |= {"greedy": 1, "greedy_completion": "well", "greedy_reason": "correct", "graded_by": "kk"}
    found = answers_of(tmp_path, question, rollout={"max_completion_length": 64})
    assert [(c.text, c.task, c.reward, c.correct, c.tokens, c.truncated) for c in found] == [
        ("no", "hard/2ppl", 0.0, False, 64, False),  # it says itself that it was not cut
        ("yes", "hard/2ppl", 1.0, True, 9, True),
        ("well", "hard/2ppl, greedy", 1.0, True, None, False),
    ]
    assert [c.rewards for c in found] == [{"kk": 0.0}, {"kk": 1.0}, {"kk": 1.0}]
    assert [c.reasons for c in found] == [{"kk": "wrong"}, {"kk": "correct"}, {"kk": "correct"}]
    assert content.flags_table({"e": found}).rows[0][:2] == ["e", "2"]


def test_a_question_that_no_reward_is_known_to_have_graded(tmp_path):
    (one,) = answers_of(tmp_path, {"scores": [1], "completions": ["a"], "reasons": ["correct"]})
    assert (one.rewards, one.reasons) == ({"score": 1.0}, {"score": "correct"})


@pytest.mark.parametrize("value", [None, 5, "x", [], [None], [{}, [], "x"], {"a": 1}, True, [True, float("nan")]])
@pytest.mark.parametrize(
    "key", ["completions", "scores", "reasons", "lengths", "truncated", "greedy", "greedy_completion", "graded_by"]
)
def test_a_question_with_odd_columns(tmp_path, key, value):
    question = {"task": "a", "scores": [0, 1], "reasons": ["x", "y"], "completions": ["no", "yes"], "lengths": [1, 2]}
    question |= {"truncated": [False, True], "greedy": 1, "greedy_completion": "well", "completion": "old"}
    found = answers_of(tmp_path, question | {key: value})
    assert len([c for c in found if not c.greedy]) >= (key != "completions")
    packed.pack({"e": found}, 10**7)


def test_an_episode_of_a_step_and_those_of_a_question(played):
    own = samples.read(read.read(played), [])
    one, two, broken = own["zero"][:3]
    assert [turn.own for turn in one.turns] == [True, False, True] and one.turns[0].calls == ('age(person="Mia")',)
    assert (
        (one.counts["calls"], one.counts["errors"]) == (1, 0)
        and two.counts["calls"] == 3
        and two.counts["errors"] == 2
    )
    assert one.text == "The friend of Mia is 1.\n\nThe friend of Mia is last 0." and one.said.startswith("not right")
    assert (one.end, one.truncated, two.end, two.truncated, broken.end) == (
        "answered", False, "turns", True, "env_error"
    )  # fmt: skip
    assert "errors" in two.flags and "errors" not in one.flags
    assert [c.end for c in own["after"][:4]] == ["answered", "turns", "env_error", "answered"]


def test_the_same_call_again_and_again():
    turns = tuple(samples.Turn(True, "", ("look()",)) for _ in range(3))
    assert "same call" in flags_of("a b c d e f g", turns=turns, end="turns")
    assert "same call" not in flags_of("a b c d e f g", turns=turns[:2], end="turns")


def test_episodes_without_a_call_and_with_an_invented_one(tmp_path):
    call = {"own": True, "text": "", "calls": [{"name": "ages", "arguments": {}}]}
    refused = {"own": False, "text": "Error", "error": "there is no tool ages; there are: age"}
    silent = {"end": "answered", "turns": [{"own": True, "text": "I think that it is seven."}], "no_call": True}
    invented = {"end": "done", "turns": [call, refused]}
    question = {"scores": [0, 0], "completions": ["It", ""], "episodes": [silent, invented]}
    found = answers_of(tmp_path, question | {"greedy": 0, "greedy_completion": "", "greedy_episode": silent})
    assert [c.flags for c in found] == [("no call",), ("invented", "errors"), ("no call",)]
    table = content.flags_table({"e": found})
    assert table.head == ["stage", "completions", "no call", "invented", "errors"]
    assert table.rows == [["e", "2", "1 (50.0 %)", "1 (50.0 %)", "1 (50.0 %)"]]


@pytest.mark.parametrize("value", [None, 5, "x", [], [None], [{}, [], "x"], {"a": 1}, [{"turns": 3, "end": {}}]])
@pytest.mark.parametrize("key", ["episodes", "greedy_episode", "turns", "end", "info", "no_call"])
def test_a_question_with_odd_episodes(tmp_path, key, value):
    question = {"task": "a", "scores": [0, 1], "completions": ["no", "yes"], "greedy": 1, "greedy_completion": "well"}
    found = answers_of(tmp_path, question | {key: value})
    assert len(found) == 3 and not any(c.end for c in found)
    packed.pack({"e": found}, 10**7)


def trained(rise, learns):
    """Ten steps in which a reward for form goes up by `rise`, and the share of right answers by `learns`."""
    made = []
    for step in range(1, 11):
        for i in range(100):
            form = float(i < 20 + rise * step * 10)
            right = i < 30 + learns * step * 10
            made.append(replace(PLAIN, step=step, correct=right, rewards={"maths": float(right), "format": form}))
    return made


def test_form_that_is_paid_while_accuracy_is_flat():
    found = samples.paid_for_form(trained(0.7, 0))
    assert list(found) == ["format"] and found["format"][0] < 0.4 < 0.8 < found["format"][1]
    assert samples.paid_for_form(trained(0.7, 0.5)) == {} and samples.paid_for_form(trained(0, 0)) == {}
    marked = [c for c in samples._with_form(trained(0.7, 0)) if c.flags]
    assert marked and all(c.flags == ("form",) and not c.correct and c.step > 8 for c in marked)


def test_too_many_completions_are_sampled_evenly():
    own = [replace(PLAIN, step=i // 10, text=f"{i} {hash(str(i))}") for i in range(2000)]
    index, blocks, kept = packed.pack({"zero": own}, 10**7)
    assert kept == 2000 and len(blocks) == 10
    room = (len(index) + sum(map(len, blocks))) // 4
    index, blocks, kept = packed.pack({"zero": own}, room)
    assert 300 < kept < 600 and len(index) + sum(map(len, blocks)) <= room
    assert {own[int(i * 2000 / kept)].step for i in range(kept)} == set(range(200))


def test_the_page_says_how_many_are_left_out(run):
    whole = read.read(run)
    completions = samples.read(whole, [])
    text = page._browser([whole], [completions], 1500)
    assert "of 176 completions are in this file, evenly spread; " in text and "All of them are in samples/" in text


def test_of_large_samples_some_steps_are_read(run, monkeypatch):
    monkeypatch.setattr(samples, "READ_LIMIT", 20_000)
    problems = []
    steps = samples.completions_by_step(samples.read(read.read(run), problems)["zero"])
    assert 1 < len(steps) < 12 and max(steps) == 12
    assert "tried: samples/ holds 0 MiB: one step in" in problems[0]
    assert len(samples.read(read.read(run), [])["base"]) < 40
