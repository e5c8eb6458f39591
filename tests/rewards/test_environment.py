"""The reward of an environment: its own value, with the end of the episode as the reason."""

import pytest

from r1lab.episodes.record import Episode, Segment
from r1lab.errors import UserError
from r1lab.grading.grader import build


def played(end, reward=None, text="7", **info):
    return Episode([1], [Segment([2], True, text=text)], end, reward, info)


def graded(episodes, *specs):
    rows = [{"prompt": "?"}] * len(episodes)
    return build(list(specs)).grade([e.text for e in episodes], rows, [e.completion_ids for e in episodes], episodes)


def test_the_value_is_that_of_the_environment():
    episodes = [
        played("done", 1.0), played("answered", 0.25, reason="half right"),
        played("done", {"right": 1.0, "style": 0.5}),
        played("turns"), played("timeout"), played("answered"), played("env_error", 1.0),
    ]  # fmt: skip
    found = graded(episodes, {"name": "environment"})
    assert found.values["environment"] == [1.0, 0.25, 1.5, 0.0, 0.0, None, None]
    reasons = ["done", "half right", "done", "turns", "timeout", "does not apply", "not counted: env_error"]
    assert found.reasons["environment"] == reasons
    assert found.right == [True, False, True, False, False, False, False]
    assert graded(episodes[2:3], {"name": "environment", "part": "style"}).values["environment"] == [0.5]


def test_a_part_that_the_environment_does_not_give_is_an_error():
    with pytest.raises(UserError, match="part: form: the environment gives: right"):
        graded([played("done", {"right": 1.0})], {"name": "environment", "part": "form"})


def test_without_an_environment_it_is_an_error():
    with pytest.raises(UserError, match="add `environment:` or `tools:`"):
        build([{"name": "environment"}]).grade(["7"], [{"prompt": "?"}])


def test_the_format_of_every_turn():
    good = Segment([2], True, text="<think> I look it up. </think> <tool_call>{}</tool_call>")
    bad = Segment([2], True, text="<tool_call>{}</tool_call>")
    last = Segment([3], True, text="<think> So it is. </think> <answer> 7 </answer>")
    episodes = [Episode([1], [first, Segment([4], False), last], "answered") for first in (good, bad)]
    assert graded(episodes, {"name": "format"}).values["format"] == [1.0, 1.0]
    found = graded(episodes, {"name": "format", "scope": "every_turn"})
    assert found.values["format"] == [1.0, 0.0] and found.reasons["format"][1] == "no_format: no <think>"
    with pytest.raises(UserError, match="every_turn needs episodes"):
        build([{"name": "format", "scope": "every_turn"}]).grade(["7"], [{"prompt": "?"}])
