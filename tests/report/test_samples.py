"""What completions show by themselves."""

from dataclasses import replace

import pytest

from r1lab import rundir
from r1lab.report import packed, page, read, samples
from r1lab.report.samples import Completion

PLAIN = Completion(
    stage="zero", step=1, task="maths", prompt="What is 2 + 2?", text="<think> Two and two make four. </think> 4",
    answer="4", rewards={"maths": 1.0, "format": 1.0}, reasons={"maths": "correct"}, reward=2.0, right=True,
    tokens=12, cut=False,
)  # fmt: skip


def signs(text, **more):
    return list(samples._signs(replace(PLAIN, text=text, **more)))


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
def test_signs(text, expected):
    assert signs(text) == expected


def test_a_script_of_the_prompt_is_no_mixing():
    assert signs("<think> 我们把二和二加起来 add two two two </think> 4", prompt="二加二是多少?") == []


def test_what_is_cut(tmp_path):
    schedule = {"schedule": {"max_completion_length": {10: 32}}}
    stage = read.Stage("zero", "grpo", tmp_path, config={"rollout": {"max_completion_length": 16}} | schedule)
    assert samples._limit(stage, 10) == 16 and samples._limit(stage, 11) == 32
    rows = [{"step": 1, "completion": "a", "tokens": n} for n in (15, 16)]
    rundir.write_jsonl(tmp_path / "samples" / "step_000001.jsonl", rows)
    found = samples._completions(stage, tmp_path / "samples" / "step_000001.jsonl", [])
    assert [c.cut for c in found] == [False, True]


def test_pairs_and_questions(tmp_path):
    pair = {"prompt": "p", "chosen": "good", "rejected": "bad", "reward": 1.0, "rejected_reward": 0.5}
    rundir.write_jsonl(tmp_path / "pairs.jsonl", [pair])
    stage = read.Stage("s", "sample", tmp_path)
    assert [(c.text, c.reward) for c in samples._completions(stage, tmp_path / "pairs.jsonl", [])] == [
        ("good", 1.0),
        ("bad", 0.5),
    ]
    question = {"completion": "4", "scores": [1, 0], "lengths": [3, 9], "truncated": [False, True], "subtask": "a/b"}
    rundir.write_jsonl(tmp_path / "questions.jsonl", [question])
    (first,) = samples._completions(read.Stage("e", "eval", tmp_path), tmp_path / "questions.jsonl", [])
    assert (first.right, first.tokens, first.cut, first.task, first.step) == (True, 3, False, "a/b", None)


def trained(rise, learns):
    """Ten steps in which a reward for form goes up by `rise`, and the share of right answers by `learns`."""
    made = []
    for step in range(1, 11):
        for i in range(100):
            form = float(i < 20 + rise * step * 10)
            right = i < 30 + learns * step * 10
            made.append(replace(PLAIN, step=step, right=right, rewards={"maths": float(right), "format": form}))
    return made


def test_form_that_is_paid_while_accuracy_is_flat():
    found = samples.paid_for_form(trained(0.7, 0))
    assert list(found) == ["format"] and found["format"][0] < 0.4 < 0.8 < found["format"][1]
    assert samples.paid_for_form(trained(0.7, 0.5)) == {} and samples.paid_for_form(trained(0, 0)) == {}
    marked = [c for c in samples._with_form(trained(0.7, 0)) if c.signs]
    assert marked and all(c.signs == ("form",) and not c.right and c.step > 8 for c in marked)


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
    assert "of 176 completions are in this file, evenly spread; " in text and "all of them are in samples/" in text


def test_of_large_samples_some_steps_are_read(run, monkeypatch):
    monkeypatch.setattr(samples, "READ_LIMIT", 20_000)
    problems = []
    steps = samples.by_step(samples.read(read.read(run), problems)["zero"])
    assert 1 < len(steps) < 12 and max(steps) == 12
    assert "tried: samples/ holds 0 MiB: one step in" in problems[0]
