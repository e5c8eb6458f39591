"""Logic-RL's own files: rows as of the generator, the same wording, the stored solution the only one."""

import ast
from pathlib import Path

import pytest

from r1lab.data import knights_knaves, logic_rl
from r1lab.data.knights_knaves import solve
from r1lab.errors import UserError
from r1lab.rewards.knights_knaves import gold_of

LOGIC_RL = Path(__file__).parents[3] / "shared" / "data" / "logic_rl_kk" / "instruct"
needs_data = pytest.mark.skipif(not LOGIC_RL.is_dir(), reason="needs ../shared/data/logic_rl_kk")


@needs_data
def test_all_rows():
    train, test = logic_rl(path=str(LOGIC_RL)), logic_rl(path=str(LOGIC_RL), split="test")
    assert (len(train), len(test)) == (4500, 500)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}
    assert [row["task"] for row in test[::100]] == [f"knights_knaves/{n}ppl" for n in (3, 4, 5, 6, 7)]
    for row in train + test:
        assert list(gold_of(row["answer"])) == row["names"]
        assert row["prompt"].startswith("A very special island") and "<|im_start|>" not in row["prompt"]
        assert len(ast.literal_eval(row["statements"])) == len(row["names"]) == int(row["task"].partition("/")[2][0])


@needs_data
def test_statements_solve_to_the_answer():
    for row in logic_rl(path=str(LOGIC_RL), split="test", people=[3, 7]):
        kinds = tuple(kind == "knight" for kind in gold_of(row["answer"]).values())
        assert solve(ast.literal_eval(row["statements"])) == [kinds]


@needs_data
def test_the_columns_are_those_of_the_generator():
    ours, theirs = knights_knaves(people=3, size=1)[0], logic_rl(path=str(LOGIC_RL), people=3, size=1)[0]
    assert ours.keys() == theirs.keys()


@needs_data
def test_people_size_and_seed():
    one = logic_rl(path=str(LOGIC_RL), people=5, size=20, seed=3)
    assert len(one) == 20 and {row["task"] for row in one} == {"knights_knaves/5ppl"}
    assert one == logic_rl(path=str(LOGIC_RL), people=[5], size=20, seed=3)
    assert one != logic_rl(path=str(LOGIC_RL), people=5, size=20, seed=4)
    with pytest.raises(UserError, match=r"no 8ppl/test.parquet in it; there are files for 3, 4, 5, 6, 7 people"):
        logic_rl(path=str(LOGIC_RL), split="test", people=[3, 8])
    with pytest.raises(UserError, match="did you mean .*instruct"):
        logic_rl(path=str(LOGIC_RL.parent))


def test_wrong_files(tmp_path):
    import pyarrow
    import pyarrow.parquet

    with pytest.raises(UserError, match="split: 'valid' is not train or test"):
        logic_rl(path=str(tmp_path), split="valid")
    with pytest.raises(UserError, match="it has no such files"):
        logic_rl(path=str(tmp_path))
    (tmp_path / "3ppl").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"quiz": ["?"]}), tmp_path / "3ppl" / "train.parquet")
    with pytest.raises(UserError, match="no column solution_text_format, names, statements; it has quiz"):
        logic_rl(path=str(tmp_path), people=3)
