"""A template with the five numbered lines changed as their comments say."""

import json
import re

import pytest

from r1lab.check import check
from r1lab.recipe import loading, yaml_source

TEMPLATES = [name for name in yaml_source.packaged_recipes() if name.startswith("templates/")]
REWARD = """
import re

def score(completions, answer, **columns):
    found = [re.findall(r"boxed\\{(.*?)\\}", text.rpartition("</think>")[2])[-1:] for text in completions]
    return [float(one == [right]) for one, right in zip(found, answer)]
"""


def changed(name: str) -> str:
    """The template with the text between the first backticks of a numbered comment in place of its line."""
    lines, numbers = [], []
    for line in yaml_source.packaged_recipes()[name].read_text(encoding="utf-8").splitlines():
        if numbered := re.search(r"# (\d): (?:or `([^`]+)`)?", line):
            numbers.append(int(numbered[1]))
            if numbered[2]:
                line = " " * (len(line) - len(line.lstrip())) + numbered[2]
        lines.append(line)
    assert numbers == [1, 2, 3, 4, 5]
    return "\n".join(lines)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_takes_own_data_and_an_own_reward_and_passes_the_check(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file, first in (("train.jsonl", 0), ("test.jsonl", 64)):
        rows = [{"prompt": f"What is {n} + {n + 1}?", "answer": str(2 * n + 1)} for n in range(first, first + 64)]
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(REWARD)
    (tmp_path / "mine.yaml").write_text(changed(name))
    recipe = loading.load(["mine.yaml"], inputs=True)
    assert recipe.data.model_extra["path"] == str(tmp_path / "train.jsonl")
    assert recipe.rewards[0].name.endswith("mine.py:score") and recipe.eval.tasks[0].builder == "rows"
    lines = check.lines(["mine.yaml"])
    assert [line for line in lines if line.startswith("error") and "bitsandbytes is not installed" not in line] == []
    assert any(line.startswith("ok      data: 64 rows checked") for line in lines)
