"""Groups without signal are replaced, the same way on one rank and on two."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from r1lab.grpo.curriculum import Chooser
from r1lab.grpo.dynamic_sampling import Group, has_signal
from r1lab.models import loading
from r1lab.recipe.training import Curriculum

SCRIPT = Path(__file__).with_name("two_ranks.py")


def launched(ranks: int, folder: Path, *words: str) -> tuple[list[list[int]], list[torch.Tensor]]:
    """The rows of each step, in the order of the ranks, and each rank's weights afterwards."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *launch, str(SCRIPT), str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads((folder / f"rows_{ranks}_{rank}.json").read_text()) for rank in range(ranks)]
    weights = [torch.load(folder / f"weights_{ranks}_{rank}.pt") for rank in range(ranks)]
    return [sum(of_ranks, []) for of_ranks in zip(*rows)], weights


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("curriculum",), ("plain",)])
def test_two_ranks_train_on_the_groups_of_one(tmp_path, words):
    config = AutoConfig.for_model(
        "qwen2", vocab_size=768, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "start")
    loading.load_tokenizer("embedded:tiny-qwen2").save_pretrained(tmp_path / "start")
    one, (weights,) = launched(1, tmp_path, *words)
    two, both = launched(2, tmp_path, *words)
    assert one == two and bool(one) == ("plain" not in words)
    # Without it, ranks have unequally many micro-batches, and some none: they must meet all the same.
    assert all(row % 3 == 0 for step in one for row in step)  # fresh prompts took the place of all others
    start = AutoModelForCausalLM.from_pretrained(tmp_path / "start")
    start = torch.cat([p.flatten() for p in start.parameters()])
    assert torch.equal(both[0], both[1])
    assert (weights - both[0]).norm() < 1e-3 * (weights - start).norm()


def group(rewards, right):
    return Group({"row": 0}, [], [], [], None, rewards, right)


def test_signal_is_what_differs_in_a_group():
    assert has_signal(group([[1.0], [0.0]], [True, False]), "right", [1.0])
    assert not has_signal(group([[0.0, 1.0], [0.0, 0.0]], [False, False]), "right", [1.0, 0.2])
    assert has_signal(group([[0.0, 1.0], [0.0, 0.0]], [False, False]), "reward", [1.0, 0.2])
    assert not has_signal(group([[0.0, 1.0], [0.0, 0.0]], [False, False]), "reward", [1.0, 0.0])
    assert has_signal(group([[float("nan"), 1.0], [float("nan"), 0.0]], None), "right", [1.0, 1.0])


def test_draws_repeat_and_do_not_repeat_rows():
    chooser = Chooser([None] * 50, seed=1)
    assert chooser.draw(3, 1, 10) == Chooser([None] * 50, seed=1).draw(3, 1, 10) != chooser.draw(3, 2, 10)
    rows = chooser.draw(3, 1, 30, but=set(range(20)))
    assert sorted(rows) == list(range(20, 50))
    assert len(chooser.draw(3, 1, 40, but=set(range(20)))) == 40  # those in use as well, when there are no others
    assert len(chooser.draw(3, 1, 120)) == 120


def test_rows_too_hard_or_too_easy_are_set_aside_for_a_while():
    chooser = Chooser([None] * 30, seed=0, curriculum=Curriculum(min_pass_rate=0.1, max_pass_rate=0.9, retry_after=10))
    chooser.see([(row, 1.0) for row in range(10)] + [(row, 0.0) for row in range(10, 20)], step=5)
    assert set(chooser.draw(6, 0, 10)) == set(range(20, 30))
    assert set(chooser.draw(15, 0, 30)) == set(range(30))
    again = Chooser([None] * 30, seed=0, curriculum=chooser.curriculum)
    again.load(json.loads(json.dumps(chooser.state())))
    assert again.draw(6, 0, 12) == chooser.draw(6, 0, 12)


def test_learnable_rows_come_more_often():
    tasks = ["easy"] * 100 + ["middle"] * 100 + ["hard"] * 100
    chooser = Chooser(tasks, seed=0, curriculum=Curriculum(learnability=True))
    chooser.see([(0, 1.0), (100, 0.5), (200, 0.0)], step=0)
    drawn = [tasks[row] for step in range(50) for row in chooser.draw(step, 0, 16)]
    assert drawn.count("middle") > 0.6 * len(drawn)
    assert drawn.count("easy") > 0 and drawn.count("hard") > 0


@pytest.mark.parametrize("curriculum", [None, Curriculum(learnability=True), Curriculum(min_pass_rate=0.2)])
def test_the_rows_drawn_are_those_with_the_largest_keys(curriculum):
    chooser = Chooser([f"t{row % 3}" for row in range(50)], seed=3, curriculum=curriculum)
    chooser.see([(row, row % 5 / 4) for row in range(0, 50, 2)], 1)
    rng, rates = random.Random("3/2/0"), chooser._task_rates()
    keys = [rng.random() for _ in range(50)]
    if curriculum and curriculum.learnability:
        for row in range(50):
            p = chooser.seen[row][1] if row in chooser.seen else rates[f"t{row % 3}"]
            keys[row] **= 1 / max(p * (1 - p), 0.02)
    left = [row for row in range(50) if row not in (4, 8) and not chooser.set_aside(row, 2)]
    assert chooser.draw(2, 0, 7, {4, 8}) == sorted(left, key=lambda row: -keys[row])[:7]
