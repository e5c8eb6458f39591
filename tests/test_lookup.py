import subprocess
import sys

import pytest

from r1lab import lookup
from r1lab.errors import UserError


def problem(kind, name, **settings):
    with pytest.raises(UserError) as caught:
        lookup.function(kind, name, **settings)
    (line,) = caught.value.problems
    return line


def test_a_name_is_a_reward_or_a_builder_by_where_it_stands():
    from r1lab.data import knights_knaves
    from r1lab.rewards import knights_knaves_reward

    assert lookup.function("rewards", "knights_knaves") is knights_knaves_reward
    assert lookup.function("data", "knights_knaves") is knights_knaves


def test_every_name_that_is_listed_is_found_and_has_a_summary():
    for kind in ("rewards", "data"):
        summaries = lookup.summaries(kind)
        assert list(summaries) == lookup.names(kind) != []
        for name, summary in summaries.items():
            assert summary == (lookup.function(kind, name).__doc__ or "").splitlines()[0]


def test_a_dotted_path_names_any_function():
    assert lookup.function("rewards", "r1lab.rewards.format_reward").__name__ == "format_reward"
    assert problem("rewards", "no_such_package.reward").startswith("no_such_package.reward: cannot import")
    assert "has no function format_rewrd (did you mean `format_reward`?)" in problem(
        "rewards", "r1lab.rewards.format_rewrd"
    )


def test_a_function_in_a_file_is_found_relative_to_the_folder_given_and_loaded_once(tmp_path):
    (tmp_path / "mine.py").write_text("def brevity(completions, **columns):\n    return [0.0 for _ in completions]\n")
    function = lookup.function("rewards", "./mine.py:brevity", base_dir=tmp_path)
    assert function(["a", "b"]) == [0.0, 0.0]
    assert lookup.function("rewards", f"{tmp_path}/mine.py:brevity") is function


def test_a_file_that_is_not_there_or_does_not_load_is_told_in_one_line(tmp_path):
    assert problem("data", "./none.py:rows", base_dir=tmp_path) == f"{tmp_path}/none.py: no such file"
    (tmp_path / "rewards.py").write_text("")
    wrong = problem("rewards", "./reward.py:score", base_dir=tmp_path)
    assert wrong == f"{tmp_path}/reward.py: no such file (did you mean `{tmp_path}/rewards.py`?)"
    (tmp_path / "broken.py").write_text("1 / 0\n")
    assert "does not load: ZeroDivisionError: division by zero" in problem("data", f"{tmp_path}/broken.py:rows")
    (tmp_path / "empty.py").write_text("def rows():\n    return []\n")
    assert "has no function row (did you mean `rows`?)" in problem("data", f"{tmp_path}/empty.py:row")


def test_an_unknown_name_is_answered_with_one_like_it_or_with_all():
    assert "no such reward (did you mean `knights_knaves`?)" in problem("rewards", "knights_knave")
    assert "there are: accuracy, budget, choice, code, " in problem("rewards", "xyz")


def test_settings_of_a_reward_have_defaults_and_columns_have_none():
    def reward(completions, *, answer, prompts, mode="strict", **columns):
        return [0.0]

    def builder(*, path, size=None):
        return []

    assert list(lookup.parameters(reward)) == ["mode"]
    assert lookup.columns(reward) == ["answer"]
    assert list(lookup.parameters(builder)) == ["path", "size"]


def test_columns_are_what_no_grader_provides():
    def reward(completions, prompts, completion_ids, right, trainer_state, **columns):
        return [0.0]

    assert lookup.columns(reward) == ["trainer_state"]


def test_the_light_part_imports_nothing_heavy():
    code = "import sys; from r1lab import lookup; lookup.summaries('rewards'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "datasets", "numpy", "pydantic", "r1lab.rewards"} & set(done.stdout.split())


def test_an_environment_is_a_class(tmp_path):
    (tmp_path / "env.py").write_text("class Shop: ...\ndef shop(): ...\n")
    given = {"kind": "environments", "base_dir": tmp_path}
    assert lookup.function("environments", "./env.py:Shop", base_dir=tmp_path).__name__ == "Shop"
    assert problem(name="./env.py", **given) == "./env.py: names no class: write it as ./env.py:Shop"
    assert problem(name="./env.py:shop", **given).endswith("has no class shop (did you mean `Shop`?)")
    unknown = problem("environments", "none")
    assert "no such environment" in unknown and "./file.py:Class" in unknown
