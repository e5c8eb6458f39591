"""What a sample stage keeps."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1lab.engines import transformers
from r1lab.recipe import loading
from r1lab.recipe.sections import Keep
from r1lab.rundir import storage
from r1lab.stages import sample as sampling
from r1lab.stages.sample import keep


def sample(prompt="a", completion="x", reward=1.0, right=True, **rewards):
    return {"prompt": prompt, "completion": completion, "reward": reward, "right": right, "rewards": rewards}


SAMPLES = st.lists(
    st.builds(
        sample,
        prompt=st.sampled_from("abc"),
        completion=st.sampled_from(["x", "x ", "y", "z z"]),
        reward=st.sampled_from([0.0, 0.5, 1.0]),
        right=st.booleans(),
        format=st.sampled_from([0.0, 1.0, None]),
    ),
    max_size=30,
)


@given(SAMPLES, st.sampled_from(["all", "right", "best"]), st.integers(1, 3), st.booleans())
def test_every_sample_is_kept_or_counted_once(samples, which, per_prompt, unique):
    settings = Keep(which=which, at_least={"format": 1.0}, per_prompt=per_prompt, deduplicate=unique)
    kept, dropped = keep(samples, settings, seed=0)
    assert len(kept) + sum(dropped.values()) == len(samples)
    assert all(s in samples for s in kept)
    assert all(s["rewards"]["format"] in (1.0, None) for s in kept)
    assert which == "all" or all(s["right"] for s in kept)
    limit = 1 if which == "best" else per_prompt
    assert all(count <= limit for count in Counter(s["prompt"] for s in kept).values())
    said = [(s["prompt"], " ".join(s["completion"].split())) for s in kept]
    assert not unique or len(set(said)) == len(said)
    assert keep(samples, settings, seed=0) == (kept, dropped)


@given(SAMPLES)
def test_keep_all_keeps_all(samples):
    assert keep(samples, Keep.model_validate("all"), seed=0) == (samples, {})


def test_the_best_is_the_shortest_of_the_highest():
    samples = [sample(completion="long long"), sample(completion="short"), sample(completion="s", reward=0.5)]
    kept, dropped = keep(samples, Keep.model_validate("best"), seed=0)
    assert [s["completion"] for s in kept] == ["short"] and dropped == {"not the best of its prompt": 2}


def test_pairs_are_the_best_and_the_worst_of_a_prompt_where_they_differ():
    samples = [
        sample(completion="good", reward=1.0, right=True),
        sample(completion="bad", reward=-0.5, right=False),
        sample(completion="so so", reward=0.2, right=False),
        sample(prompt="b", completion="one"),
        sample(prompt="b", completion="other"),
    ]
    kept, _ = keep(samples, Keep.model_validate("pairs"), seed=0)
    (pair,) = kept
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ("a", "good", "bad")
    assert (pair["reward"], pair["rejected_reward"]) == (1.0, -0.5) and "completion" not in pair


def test_a_prompt_gives_at_most_so_many_drawn_by_the_seed():
    samples = [sample(completion=str(i)) for i in range(20)]
    settings = Keep(per_prompt=3)
    drawn = [tuple(s["completion"] for s in keep(samples, settings, seed=seed)[0]) for seed in range(8)]
    assert all(len(d) == 3 for d in drawn) and len(set(drawn)) > 1


@pytest.mark.parametrize("which", ["all", "right", "best", "pairs"])
def test_a_name_is_short_for_a_section(which):
    assert Keep.model_validate(which).which == which


TEXT = """
stage: sample
name: s
model: {path: embedded:tiny-qwen2}
data: {builder: knights_knaves, people: [2], size: 7}
prompt: {template: r1-zero}
rollout: {engine: transformers, num_generations: 2, max_completion_length: 32}
keep: all
"""


class Killed(BaseException):
    pass


def test_samples_are_the_same_wherever_it_is_killed(tmp_path, monkeypatch):
    (tmp_path / "s.yaml").write_text(TEXT, encoding="utf-8")
    loaded = loading.load([str(tmp_path / "s.yaml")])
    monkeypatch.setattr(transformers, "BATCH", 6)  # three prompts
    assert sampling.run(loaded, tmp_path / "whole") == 0
    plain, calls = storage.append_jsonl, 0

    def append(path, row):
        nonlocal calls
        plain(path, row)
        calls += path.name == "partial.jsonl"
        if path.name == "partial.jsonl" and calls in (1, 3, 5):  # within chunks, and where one ends
            raise Killed

    monkeypatch.setattr(storage, "append_jsonl", append)
    for _ in range(3):
        with pytest.raises(Killed):
            sampling.run(loaded, tmp_path / "killed")
    assert sampling.run(loaded, tmp_path / "killed") == 0
    whole, killed = (tmp_path / name / "samples" / "samples.jsonl" for name in ("whole", "killed"))
    assert len(storage.read_jsonl(whole)) == 14 and whole.read_bytes() == killed.read_bytes()


def test_rows_that_changed_since_an_interruption_are_sampled_again(tmp_path, killed_after):
    storage.write_jsonl(tmp_path / "rows.jsonl", [{"prompt": f"{i}?"} for i in range(4)])
    text = TEXT.replace("{builder: knights_knaves, people: [2], size: 7}", f"{{path: {tmp_path}/rows.jsonl}}")
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    loaded = loading.load([str(tmp_path / "s.yaml")])
    with killed_after(lambda row: row["row"] == 2):
        sampling.run(loaded, tmp_path / "run")
    storage.write_jsonl(tmp_path / "rows.jsonl", [{"prompt": f"{i}?"} for i in (0, 2, 3)])  # the second is left out
    assert sampling.run(loaded, tmp_path / "run") == 0
    found = storage.read_jsonl(tmp_path / "run" / "samples" / "samples.jsonl")
    assert [row["prompt"] for row in found] == ["0?", "0?", "2?", "2?", "3?", "3?"]
    rows = storage.read_jsonl(tmp_path / "run" / "metrics.jsonl")
    (note,) = [row["message"] for row in rows if row["phase"] == "note"]
    assert note.startswith("2 rows are sampled again")
