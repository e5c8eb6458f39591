"""What `check` says of a training set: tasks, duplicates, rows that are in an evaluation."""

import json


def write(rows, name="rows.jsonl"):
    with open(name, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return {"builder": "rows", "path": name}


def question(n, task=None):
    words = f"A farmer with {n} cows and {n * 7} hens sells {n + 3} eggs a day to each of his {n % 5} neighbours"
    return {"prompt": f"{words}; how many eggs are that in {n} weeks?", "answer": str(n), "task": task}


def test_rows_that_say_the_same(found, grpo):
    data = write([question(n % 20) for n in range(60)])
    (line,) = found(grpo(data=data, rewards=[{"name": "exact_match"}]), "warning")
    assert "40 of 60 rows are exact duplicates: set data.deduplicate: true" in line
    assert found(grpo(data={**data, "deduplicate": True}, rewards=[{"name": "exact_match"}]), "warning") == []


def test_shares_of_tasks_and_a_reward_for_none_of_them(found, grpo):
    data = write([question(n, "farm" if n % 4 else "eggs") for n in range(40)])
    rewards = [{"name": "exact_match"}, {"name": "format", "tasks": ["knights_knaves"], "weight": 0.1}]
    lines = found(grpo(data=data, rewards=rewards))
    assert any("40 rows checked; tasks: farm 75%, eggs 25%" in line for line in lines)
    (line,) = [line for line in lines if line.startswith("error")]
    assert "rewards.1.tasks: format is for knights_knaves, but the rows have" in line
    (line,) = [
        line for line in found(grpo(data=write([question(1)], "one.jsonl"), rewards=rewards)) if "checked" in line
    ]
    assert "data: 1 row checked; " in line
    rewards = [{"name": "exact_match", "tasks": ["farm"]}]
    (line,) = [line for line in found(grpo(data=data, rewards=rewards), "error") if "no reward" in line]
    assert "no reward applies to rows of eggs" in line


def test_training_rows_that_are_in_the_evaluation(found, grpo):
    train, test = write([question(n) for n in range(40)]), write([question(n) for n in range(35, 60)], "held.jsonl")
    rewards = [{"name": "exact_match"}]
    stages = [
        grpo(name="zero", data=train, rewards=rewards),
        {"name": "after", "stage": "eval", "model": {"path": "@zero/model"}, "rewards": rewards,
         "prompt": {"template": "r1-zero"}, "rollout": {"engine": "transformers"},
         "eval": {"tasks": [test], "size": 25}},
    ]  # fmt: skip
    (line,) = found({"stages": stages}, "error")
    assert "5 of 40 training prompts are in the evaluation after, such as 'A farmer with 35 cows" in line
    stages[0]["data"] = {**train, "decontaminate": {"against": [test], "n": 13}}
    assert found({"stages": stages}, "error") == []


def test_puzzles_of_a_generator_are_apart_by_construction(found, grpo):
    tasks = [{"builder": "knights_knaves", "people": [2, 3]}]
    stages = [
        grpo(name="zero"),
        {"name": "after", "stage": "eval", "model": {"path": "@zero/model"}, "rewards": [{"name": "knights_knaves"}],
         "prompt": {"template": "r1-zero"}, "rollout": {"engine": "transformers"},
         "eval": {"tasks": tasks, "size": 150}},
    ]  # fmt: skip
    assert found({"stages": stages}, "error") == []
