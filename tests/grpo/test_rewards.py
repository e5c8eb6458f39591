"""Groups graded early are graded as the whole batch would be, and all rounds of a step are kept."""

from types import SimpleNamespace

from r1lab.grading import grader
from r1lab.grpo.rewards import BatchRewards
from r1lab.rundir import storage

ROWS = [{"prompt": f"{n}?", "answer": str(n), "task": "t"} for n in range(4)]
SPECS = [{"name": "exact_match"}, {"name": "length"}]
TEXTS = {i: f"<think>{'so ' * i}</think> <answer>{n}</answer>" for i, n in enumerate([0, 1, 0, 1, 1, 1, 2, 2])}


def decode(batch):
    return [TEXTS[ids[0]] for ids in batch]


def graded(folder, early):
    rewards = BatchRewards(grader.build(SPECS), ROWS, folder, size=4)
    row, ids = [0, 0, 0, 0, 1, 1, 1, 1], [[i] * (i + 1) for i in range(8)]
    if early:
        rewards.started(row, decode)
        for i in (5, 0, 7, 1, 4, 6, 2, 3):  # as they happen to be complete
            rewards.finished(i, ids[i])
    state = SimpleNamespace(global_step=0)
    columns = {"completions": decode(ids), "completion_ids": ids, "row": row, "trainer_state": state}
    values = [function(["?"] * 8, **columns) for function in rewards.functions]
    return rewards, values


def test_early_grading_changes_nothing(tmp_path):
    (early, values), (late, expected) = graded(tmp_path / "early", True), graded(tmp_path / "late", False)
    assert values == expected and len(set(values[0])) > 1 and len(set(values[1])) > 1
    assert early.newest == late.newest and early.statistics == late.statistics
    name = "samples/step_000001.jsonl"
    assert storage.read_jsonl(tmp_path / "early" / name) == storage.read_jsonl(tmp_path / "late" / name)


def test_samples_and_statistics_hold_all_rounds_of_a_step(tmp_path):
    rewards, _ = graded(tmp_path, False)
    ids = [[6], [7], [6], [7]]
    for step, expected in ((0, 12), (1, 4)):
        columns = {"completions": decode(ids), "completion_ids": ids, "row": [2] * 4}
        rewards.functions[0](["?"] * 4, **columns, trainer_state=SimpleNamespace(global_step=step))
        assert len(storage.read_jsonl(tmp_path / f"samples/step_{step + 1:06d}.jsonl")) == expected
        assert sum(rewards.statistics["exact_match"]["reasons"].values()) == expected
    assert rewards.newest.right == [True] * 4


def test_rewards_of_a_user_are_not_graded_early(tmp_path):
    (tmp_path / "mine.py").write_text("def score(completions): return [0.0] * len(completions)")
    mine = grader.build([*SPECS, {"name": "./mine.py:score"}], base_dir=tmp_path)
    assert not BatchRewards(mine, ROWS, tmp_path, size=4).any_thread
    bound = grader.build([{"name": "accuracy", "deadline": 2.0}, {"name": "code"}, {"name": "length"}])
    assert BatchRewards(bound, ROWS, tmp_path, size=4).any_thread
