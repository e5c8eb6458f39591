"""Thinking budgets in a recipe: where they cannot be enforced, and rows that get a budget in their prompt."""

import pytest

from r1lab.errors import UserError
from r1lab.recipe import loading
from r1lab.stages.rows import eval_tasks

TEXT = """
stage: eval
name: e
model: {path: embedded:tiny-qwen2}
prompt: {template: r1-zero}
rewards: [{name: knights_knaves}]
eval: {tasks: [{builder: knights_knaves, people: [2], budget: {lowest: 48}}], size: 3, budgets: [0, 64]}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "e.yaml").write_text(TEXT, encoding="utf-8")
    return lambda *changes: loading.load([str(tmp_path / "e.yaml"), *changes], inputs=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["eval.budgets=[0, 512]"], "eval.budgets: 512: completions have at most 256 tokens"),
        (["rollout.engine=server", "rollout.url=http://x/v1"], "eval.budgets: a server does not continue tokens"),
        (["tools=[calculator]"], "eval.budgets: an episode has thinking in each of its turns"),
        (["eval.budgets=[-1]"], "eval.budgets"),
    ],
)
def test_budgets_that_cannot_be_enforced_are_refused(recipe, changes, message):
    with pytest.raises(UserError) as caught:
        recipe(*changes)
    assert any(message in problem for problem in caught.value.problems), caught.value.problems


def test_a_task_with_a_budget_has_it_in_its_prompts_and_a_reward_for_it_needs_no_other_column(recipe):
    rows = eval_tasks(recipe())["knights_knaves"]
    assert [row["budget"] for row in rows] == [48] * 3
    assert all(row["prompt"] == f"{row['question']} Think for 48 tokens." for row in rows)
    rewards = "rewards=[{name: knights_knaves}, {name: budget}]"
    assert recipe(rewards).rewards[1].name == "budget"
