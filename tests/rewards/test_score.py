import copy
import json
import pickle

from r1lab.rewards import Score


def test_a_score_is_a_float_that_keeps_its_reason():
    score = Score(1.0, "correct")
    assert score == 1.0 and repr(score) == "1.0" and json.dumps(score) == "1.0"
    for twin in (pickle.loads(pickle.dumps(score)), copy.deepcopy(score)):
        assert twin == 1.0 and twin.reason == "correct"
    assert Score(0.5).reason == ""
