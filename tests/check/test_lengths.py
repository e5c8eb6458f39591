"""What `check` reports on lengths and the limits that would truncate them."""

import json

from r1lab.check.lengths import percentiles


def write(rows):
    with open("rows.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return {"builder": "rows", "path": "rows.jsonl"}


def test_percentiles_of_one_and_of_many():
    assert percentiles([7]) == "median 7, 95th percentile 7, maximum 7 tokens"
    assert percentiles(list(range(1, 101))) == "median 50, 95th percentile 96, maximum 100 tokens"


def test_a_limit_below_the_worked_solutions(found, grpo):
    data = write(
        {"prompt": f"{n}?", "answer": str(n + 500), "solution": "one step after another " * (50 if n % 2 else 1)}
        for n in range(40)
    )
    rewards = [{"name": "exact_match"}]
    (line,) = found(grpo(data=data, rewards=rewards, rollout={"max_completion_length": 48}), "warning")
    assert "rollout.max_completion_length: 48: 50% of worked solutions are longer and would be truncated: set " in line
    enough = int(line.rpartition(" ")[2])
    assert found(grpo(data=data, rewards=rewards, rollout={"max_completion_length": enough}), "warning") == []


def test_prompts_and_completions_beyond_the_model_and_the_engine(found, grpo):
    (line,) = found(grpo(rollout={"max_completion_length": 1000}), "error")
    assert "the model's context is 1,024 tokens, and 100% of the prompts exceed it with a completion of 1000" in line
    fits = int(line.split(" to ")[-1].split()[0])
    assert found(grpo(rollout={"max_completion_length": fits}), "error") == []
    assert found(grpo(rollout={"max_completion_length": fits + 1}), "error")
    (line,) = found(grpo(rollout={"max_completion_length": 256, "max_model_length": 300}), "error")
    assert "rollout.max_model_length: 300: too short for 100% of the prompts" in line
    enough = int(line.rpartition(" ")[2])
    assert found(grpo(rollout={"max_completion_length": 256, "max_model_length": enough}), "error") == []


def test_rows_of_sft_beyond_max_length(found):
    data = write({"prompt": f"{n}?", "completion": "word " * (200 if n < 30 else 5)} for n in range(40))
    recipe = {
        "stage": "sft",
        "model": {"path": "embedded:tiny-qwen2"},
        "data": data,
        "train": {"learning_rate": 1e-4, "max_length": 100},
        "prompt": {"template": "r1-zero"},
    }
    (line,) = [line for line in found(recipe, "error") if "max_length" in line]
    assert "train.max_length: 100: 100% of the rows are longer and would be left out" in line
    recipe["train"]["max_length"] = 230
    (line,) = [line for line in found(recipe, "warning") if "max_length" in line]
    assert "230: 75% of the rows are longer and would be left out" in line
