"""Where the environments of a stage run, and what its prompts show."""

from types import SimpleNamespace

import pytest

from r1lab.environments.host import LocalHost
from r1lab.environments.processes import ProcessHost
from r1lab.errors import UserError
from r1lab.models import loading
from r1lab.recipe.acting import Environment
from r1lab.recipe.sections import Prompt
from r1lab.stages.playing import longest, setting_of


def stage(environment=None, tools=(), template="r1-zero"):
    return SimpleNamespace(
        environment=environment, tools=list(tools), prompt=Prompt(template=template),
        rollout=SimpleNamespace(max_completion_length=50),
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return loading.load_tokenizer("embedded:tiny-qwen2")


def test_a_stage_without_an_environment_plays_no_episodes(tokenizer):
    assert setting_of(stage(), tokenizer, 100) is None


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ({"environment": Environment(name="number_guess")}, LocalHost),
        ({"tools": ["calculator"]}, LocalHost),
        ({"tools": ["python"]}, ProcessHost),
        ({"environment": Environment(name="number_guess", workers=1)}, ProcessHost),
        ({"tools": ["python"], "environment": Environment(workers=0)}, LocalHost),
    ],
)
def test_where_environments_run(tokenizer, given, host):
    made = setting_of(stage(**given), tokenizer, 100)
    assert isinstance(made.host, host)
    made.host.close()


def test_the_prompt_shows_the_tools_and_what_the_environment_says(tokenizer):
    made = setting_of(stage(tools=["calculator"]), tokenizer, 100)
    text = tokenizer.decode(made.begin({"prompt": "How much?"}, "Two numbers."))
    assert "calculator" in text and "How much?\n\nTwo numbers." in text
    assert made.limits.own_tokens == made.limits.turn_tokens == 50


def test_a_tool_of_a_user_without_types_is_an_error(tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def weather(city):\n    return city\n")
    with pytest.raises(UserError, match="tools: weather"):
        setting_of(stage(tools=["./mine.py:weather"]), tokenizer, 100)


def test_the_longest_episode_has_all_replies():
    assert longest(None, 10, 50) == 60
    assert longest(Environment(name="x", max_turns=3, max_reply_length=20), 10, 50) == 60 + 2 * (20 + 64)
