"""Whether ranks train as one process does, also after they were killed: python -m benchmarks.ranks

Trains `embedded:tiny-qwen2` on a CPU for 10 steps in each kind of stage: on one process, and on two with DDP and with
FSDP2, with the same `train.global_batch_size`. Then two processes each save a checkpoint in step 5, kill themselves
(SIGKILL) in step 7, and are resumed, on two processes and on one. The recipes are those of the tests
(tests/stages/several_ranks.py): the completions of GRPO are greedy and truncated to different lengths
(tests/stages/rank.py), so that they do not depend on the number of processes. Prints JSON; the exit status is 1 if a
figure is beyond its limit.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from r1lab.models import loading
from tests.stages.several_ranks import apart, logs, losses, make_base, prepared, sharded, starter, updates

STAGES, STRATEGIES, STEPS = ("sft", "dpo", "reward", "grpo"), ("ddp", "fsdp2"), 10
LIMITS = {"loss": 1e-5, "weights": 1e-4, "resumed": 1e-5, "resumed_on_one": 1e-4}
MODEL = "embedded:tiny-qwen2"


def main() -> None:
    """Prints the largest difference of a step's loss, and of the weights as a share of the distance they moved."""
    with tempfile.TemporaryDirectory() as folder, starter() as start:
        found = compare(make_base(Path(folder)), start)
    print(json.dumps({"model": MODEL, "steps": STEPS, "limits": LIMITS, "stages": found}, indent=2))
    rows = [row for of_stage in found.values() for row in of_stage.values()]
    within = all(row["rows_equal"] and all(row[key] <= limit for key, limit in LIMITS.items()) for row in rows)
    sys.exit(0 if within else 1)


def compare(base: Path, start) -> dict[str, dict[str, dict]]:
    """Runs all trainings; returns the figures of each stage by strategy."""
    one = trained(base, start, "one", 1)
    found: dict[str, dict[str, dict]] = {stage: {} for stage in STAGES}
    for strategy in STRATEGIES:
        two = trained(base, start, strategy, 2, strategy)
        resumed = killed(base, start, f"{strategy}-killed", strategy)
        for stage in STAGES:
            shutil.copytree(resumed[stage], base / f"{strategy}-killed-one" / stage)
        trained(base, start, f"{strategy}-killed", 2, strategy)
        alone = trained(base, start, f"{strategy}-killed-one", 1)
        for stage in STAGES:
            assert sharded(two[stage]) == (strategy == "fsdp2")
            found[stage][strategy] = {
                "rows_equal": updates(one[stage]) == updates(two[stage]) and len(updates(one[stage])) == STEPS,
                "loss": difference(one[stage], two[stage]),
                "weights": apart(Path(loading.resolve(MODEL)), one[stage], two[stage]),
                "resumed": difference(two[stage], resumed[stage]),
                "resumed_on_one": difference(two[stage], alone[stage]),
                "seconds": {"one": seconds(one[stage]), "two": seconds(two[stage])},
            }
    return found


def recipe(base: Path, folder: str, stage: str, count: int, strategy: str) -> Path:
    train = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": STEPS // 2}
    model = {"path": MODEL, "dtype": "float32"}
    return prepared(base, base / folder / stage, stage, count, strategy=strategy, train=train, model=model)


def trained(base: Path, start, folder: str, count: int, strategy: str = "ddp") -> dict[str, Path]:
    """The run directories of all stages, trained to the end from where they are."""
    found = {stage: recipe(base, folder, stage, count, strategy) for stage in STAGES}
    assert start(count, list(found.values())) == [0] * count, "\n".join(map(logs, found.values()))
    return found


def killed(base: Path, start, folder: str, strategy: str) -> dict[str, Path]:
    """The run directories of all stages on two ranks that killed themselves in step 7."""
    found = {stage: recipe(base, folder, stage, 2, strategy) for stage in STAGES}
    for run_dir in found.values():
        assert start(2, [run_dir], KILL_AT="7") == [-9, -9], logs(run_dir)
        assert (run_dir / "checkpoints" / "checkpoint-5").is_dir() and not (run_dir / "result.json").exists()
    return found


def difference(of: Path, other: Path) -> float:
    """The largest difference of the losses of a step."""
    first, second = losses(of), losses(other)
    assert len(first) == len(second) == STEPS and any(first), (first, second)
    return max(abs(a - b) for a, b in zip(first, second))


def seconds(run_dir: Path) -> float:
    """How long a stage took, from its start to its result."""
    return json.loads((run_dir / "result.json").read_text(encoding="utf-8"))["seconds"]


if __name__ == "__main__":
    main()
