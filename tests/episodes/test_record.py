"""What is counted of an episode."""

from r1lab.episodes.record import Episode, Segment, counts


def test_a_share_of_errors_is_one_of_replies():
    call = {"name": "age", "arguments": {}}
    segments = [
        Segment([1], True, calls=[call, call]), Segment([2], False, error="no such person"),
        Segment([3], True, error="not valid JSON"), Segment([4], False, error="not valid JSON"),
        Segment([8], True, calls=[call]), Segment([9], False, error="there is no tool age; there are: none"),
        Segment([5], True), Segment([6], False, error="no number"),  # of an environment that answers texts
        Segment([7], True),
    ]  # fmt: skip
    found = counts(Episode([0], segments).summary()["turns"])
    assert found == {"turns": 5, "calls": 4, "replies": 4, "errors": 4, "invented": 1}


def test_an_episode_without_a_call_says_so_only_if_there_are_tools():
    silent, called = [Segment([1], True, text="7")], [Segment([1], True, calls=[{"name": "age", "arguments": {}}])]
    assert Episode([0], silent, tools=True).summary()["no_call"] is True
    for other in (Episode([0], silent), Episode([0], called, tools=True), Episode([0], [], tools=True)):
        assert "no_call" not in other.summary()
