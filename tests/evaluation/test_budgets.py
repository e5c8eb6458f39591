"""Thinking that is stopped and extended at budgets, with an engine whose completions are written down."""

from pathlib import Path

import pytest

from r1lab.data.operations import with_budgets
from r1lab.engines import Completion, Sampling
from r1lab.evaluation import budgets, curves, records
from r1lab.evaluation.budgets import Budgets, Forcing, thinking_of
from r1lab.evaluation.comparison import question_key
from r1lab.evaluation.records import Judge


class Words:
    """A tokenizer of one token per word."""

    def __init__(self):
        self.words = ["<eos>"]

    def __call__(self, text, add_special_tokens=False):
        self.words += [word for word in text.split() if word not in self.words]
        return {"input_ids": [self.words.index(word) for word in text.split()]}

    def decode(self, ids, skip_special_tokens=True):
        return "".join(f" {self.words[i]}" for i in ids if i)


class Script:
    """An engine that continues each text as `replies` says, and keeps what it was asked for."""

    context, notes = None, ()

    def __init__(self, tokenizer, replies):
        self.tokenizer, self.replies, self.asked, self.seeds = tokenizer, replies, [], []

    def together(self, n):
        return 1

    def open(self, sampling, stop=()):
        self.queue = []
        return self

    @property
    def running(self):
        return len(self.queue)

    def add(self, key, ids, max_tokens, seed=None):
        asked = self.tokenizer.decode(ids).strip()
        self.asked.append(asked)
        self.seeds.append(seed)
        said = self.tokenizer(self.replies[asked])["input_ids"][:max_tokens]
        ended = len(said) < max_tokens
        self.queue.append((key, Completion(self.tokenizer.decode(said), said + [0] * ended, not ended)))

    def step(self):
        return [self.queue.pop()] if self.queue else []


@pytest.fixture
def tokenizer():
    return Words()


SAMPLE = "<think> a b c d </think> <answer> 7 </answer>"


def forced(tokenizer, replies, sample=SAMPLE, truncated=False, **settings):
    """The completions of one sample under budgets, by budget, and the engine."""
    ids = tokenizer(sample)["input_ids"] + [0] * (not truncated)
    settings = {"budgets": (0, 2, 4, 9), "close": "</think> <answer>", "answer_length": 5} | settings
    engine = Script(tokenizer, replies)
    played = Budgets(engine, Forcing(tokenizer=tokenizer, **settings), {0: [(ids, truncated)]})
    ((i, group),) = played.stream(["q"], Sampling(max_tokens=20, seed=3))
    assert i == 0
    return {one.budget: one for one in group}, engine


STOPPED = {
    "q <think> </think> <answer>": "5 </answer>",
    "q <think> a b </think> <answer>": "6 </answer>",
}


def test_thinking_is_stopped_at_each_budget_and_left_alone_where_it_is_shorter(tokenizer):
    found, engine = forced(tokenizer, STOPPED)
    assert sorted(found) == [0, 2] and len(engine.asked) == 2  # 4 tokens are within a budget of 4
    assert found[2].text.strip() == "<think> a b </think> <answer> 6 </answer>"
    assert (found[2].thinking, found[2].stopped, found[2].thinks_on, found[2].sampled) == (2, True, False, 3)
    assert found[2].forced == [(3, 5)] and not found[2].truncated
    assert found[0].thinking == 0 and found[0].text.strip() == "<think> </think> <answer> 5 </answer>"
    assert len(set(engine.seeds)) == 2 and forced(tokenizer, STOPPED)[1].seeds == engine.seeds


def test_an_answer_that_goes_on_thinking_is_counted_with_its_tokens(tokenizer):
    replies = STOPPED | {"q <think> a b </think> <answer>": "no c </think> 7"}
    found, _ = forced(tokenizer, replies)
    assert found[2].thinks_on and found[2].thinking == 2 + 3
    replies = STOPPED | {"q <think> a b </think> <answer>": "<think> c d e f"}
    found, _ = forced(tokenizer, replies)
    assert found[2].thinks_on and found[2].thinking == 2 + 5 and found[2].truncated


def test_thinking_that_never_ends_is_stopped_at_a_budget_of_its_length(tokenizer):
    replies = {"q <think> a b c d </think> <answer>": "7 </answer>"} | STOPPED
    found, _ = forced(tokenizer, replies, sample="<think> a b c d", truncated=True)
    assert sorted(found) == [0, 2, 4] and found[4].text.strip() == SAMPLE


def test_thinking_that_ends_below_a_budget_is_extended(tokenizer):
    replies = STOPPED | {
        "q <think> a b c d Wait": "e f </think> 8",
        "q <think> a b c d Wait e f Wait": "g </think> 9",
        "q <think> a b c d Wait </think> <answer>": "1",
    }
    found, engine = forced(tokenizer, replies, budgets=(2, 4, 5, 9), extend=2)
    assert sorted(found) == [2, 5, 9]  # a budget of 4 is met without more
    assert found[5].text.strip() == "<think> a b c d Wait </think> <answer> 1"
    assert found[5].forced == [(5, 6), (6, 8)]
    assert found[9].text.strip() == "<think> a b c d Wait e f Wait g </think> 9"
    assert found[9].thinking == 9 and not found[9].stopped and found[9].forced == [(5, 6), (8, 9)]


def test_a_prompt_opens_the_thinking_or_nobody_does(tokenizer):
    def span(text, prefilled):
        return thinking_of(tokenizer(text)["input_ids"] + [0], False, tokenizer.decode, prefilled)

    assert span("a b </think> 7", True).tokens == 2 and span("a b </think> 7", False).tokens == 2
    assert span("7", False).tokens == 0 and span("7", False).closed
    assert span("a b", True) == budgets.Thinking(0, 2, False)
    assert span("so <think> a </think> 7", False).tokens == 1


def test_the_record_and_the_curve(tokenizer):
    found, _ = forced(tokenizer, STOPPED | {"q <think> a b </think> <answer>": "no </think> 7"})
    ids = tokenizer(SAMPLE)["input_ids"] + [0]
    forcing = Forcing((0, 2, 4), "</think> <answer>", tokenizer)
    judged = [{"lenient": False}, {"lenient": True}]
    made = budgets.record(forcing, {"lenient": [1]}, [(ids, False)], [found[0], found[2]], judged)
    assert made["thinking"] == [4]
    none, two, four = made["budgets"]
    assert (none["lenient"], two["lenient"], four["lenient"]) == ([0], [1], [1])
    assert four["completions"] == [None] and four["thinking"] == [4] and four["stopped"] == [0]
    text, ((start, end),) = two["completions"][0], two["forced"][0]
    assert text[start:end].strip() == "</think> <answer>"
    other = made | {"lenient": [1], "budgets": [none | {"lenient": [1]}, two, four]}
    curve = curves.curve([made | {"lenient": [1]}, other])
    assert [point["budget"] for point in curve] == [0, 2, 4, None]
    assert [point["lenient"] for point in curve] == [0.5, 1, 1, 1]
    assert [point["thinking"] for point in curve] == [0, 4, 4, 4]
    assert curve[1]["stopped"] == 1 and curve[1]["thinks_on"] == 1 and curve[2]["stopped"] == 0
    assert "thinks_on" not in curve[2]


def test_a_question_with_a_budget_in_its_prompt_is_paired_with_itself_without():
    row = {"prompt": "2+2?", "answer": "4"}
    (stated,) = with_budgets([row], lowest=9, seed=0)
    judge = Judge([{"name": "exact_match"}], template="none", prefill="")
    made = []
    for one in (row, stated):
        said = [Completion("4", [1], False)]
        made.append(records.record("sum", "sum", 5, one, said, judge.judge(said, [one], Path("unused"))))
    assert question_key(made[0]) == question_key(made[1]) and made[0]["prompt"] != made[1]["prompt"]
    assert made[1]["budget"] == 9
