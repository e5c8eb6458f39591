"""What `check` says of a stage's section that replaces a shared one."""

import pytest

from r1lab.check.shared import replaced_findings
from r1lab.recipe import loading as recipes
from r1lab.recipe import yaml_source

PIPELINE = """
name: two
model: {path: "embedded:tiny-qwen2"}
data: {builder: knights_knaves, size: 8}
prompt: {template: r1-zero}
rewards: [{name: knights_knaves}]
rollout: {max_completion_length: 448, temperature: 0.7}
eval: {tasks: [{builder: knights_knaves, people: 3}], temperature: 0.7, num_samples: 2}
stages:
  - {name: base, stage: eval, eval: EVAL}
  - {name: drawn, stage: sample, rollout: ROLLOUT}
  - {name: more, stage: sample}
  - {name: after, stage: eval}
"""


def messages(tmp_path, **own: str) -> list[str]:
    text = PIPELINE
    for name, section in own.items():
        text = text.replace(f"{name}: {name.upper()}", f"{name}: {section}")
    path = tmp_path / "two.yaml"
    path.write_text(text.replace(", eval: EVAL", "").replace(", rollout: ROLLOUT", ""), encoding="utf-8")
    stages = recipes.load([str(path)]).stages
    return [
        stage._document.problem((*stage._keys, *f.keys), f.message)
        for stage in stages
        for f in replaced_findings(stage)
    ]


def test_what_a_section_leaves_out_is_said_with_its_place(tmp_path):
    found = messages(tmp_path, rollout="{num_generations: 2}")
    assert all("two.yaml:11: stages.drawn.rollout: replaces the shared" in text for text in found)
    assert [text.partition(", so ")[2] for text in found] == [
        "max_completion_length is 256 here: write max_completion_length here too",
        "temperature is 1.0 here: write temperature here too",
    ]
    (tasks, *more) = messages(tmp_path, eval="{size: 4}")
    assert "so tasks is not set here" in tasks and len(more) == 2


def test_what_is_written_or_shared_is_not_a_finding(tmp_path):
    assert messages(tmp_path) == []
    assert messages(tmp_path, rollout="{max_completion_length: 256, temperature: 0.7}") == []


@pytest.mark.parametrize("name", sorted(yaml_source.packaged_recipes()))
def test_no_packaged_recipe_leaves_a_value_out(name):
    recipe = recipes.load([name])
    assert [found for stage in getattr(recipe, "stages", [recipe]) for found in replaced_findings(stage)] == []
