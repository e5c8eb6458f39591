"""Order of the examples in SFT."""

from hypothesis import given
from hypothesis import strategies as st

from r1lab.stages.sft import by_length


@given(st.lists(st.integers(1, 60), max_size=300), st.integers(1, 16), st.integers(0, 3))
def test_by_length_loses_nothing_and_is_seeded(lengths, batch_size, seed):
    examples = [{"input_ids": [0] * n, "id": i} for i, n in enumerate(lengths)]
    ordered = by_length(examples, batch_size, seed=seed)
    assert sorted(e["id"] for e in ordered) == list(range(len(lengths)))
    assert ordered == by_length(examples, batch_size, seed=seed)


def test_by_length_pads_little_and_does_not_sort_the_steps():
    lengths = [10] * 600 + [100] * 424  # two kinds, as lazy and careful attempts are
    ordered = by_length([{"input_ids": [0] * n} for n in lengths], 16, seed=0)
    batches = [[len(e["input_ids"]) for e in ordered[i : i + 16]] for i in range(0, len(ordered), 16)]
    padded = sum(len(b) * max(b) for b in batches)
    assert padded < 1.15 * sum(lengths)
    long = [max(b) > 50 for b in batches]
    assert max(len(run) for run in "".join("x" if x else " " for x in long).split()) < 12
