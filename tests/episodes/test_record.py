"""What is counted of an episode."""

from r1lab.episodes.record import Episode, Segment, counts


def test_a_share_of_errors_is_one_of_replies():
    call = {"name": "age", "arguments": {}}
    segments = [
        Segment([1], True, calls=[call, call]), Segment([2], False, error="no such person"),
        Segment([3], True, error="not valid JSON"), Segment([4], False, error="not valid JSON"),
        Segment([5], True), Segment([6], False, error="no number"),  # of an environment that answers texts
        Segment([7], True),
    ]  # fmt: skip
    found = counts(Episode([0], segments).summary()["turns"])
    assert found == {"turns": 4, "calls": 3, "replies": 3, "errors": 3}
