"""What tells one evaluation from another."""

import os
import shutil
import sys

import pytest

from r1lab.errors import UserError
from r1lab.evaluation import provenance
from r1lab.models import loading


def test_a_copy_has_the_same_fingerprint_and_one_weight_another(tmp_path):
    first = provenance.fingerprint("embedded:tiny-qwen2")
    shutil.copytree(loading.resolve("embedded:tiny-qwen2"), tmp_path / "copy")
    assert first.startswith("sha256:") and provenance.fingerprint(str(tmp_path / "copy")) == first
    weights = tmp_path / "copy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert provenance.fingerprint(str(tmp_path / "copy")) not in (first, None)


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer.json", "config.json"])
def test_what_else_decides_an_answer_is_in_it(tmp_path, file):
    shutil.copytree(loading.resolve("embedded:tiny-qwen2"), tmp_path / "copy")
    first = provenance.fingerprint(str(tmp_path / "copy"))
    (tmp_path / "copy" / file).write_text((tmp_path / "copy" / file).read_text() + " ")
    assert provenance.fingerprint(str(tmp_path / "copy")) != first


def test_a_model_of_the_hub_has_its_commit(tmp_path, monkeypatch):
    from huggingface_hub import constants

    snapshot = tmp_path / "models--some--model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert provenance.fingerprint("some/model") == f"commit:{'a' * 40}"
    assert provenance.fingerprint("some/other") is None


def test_the_grader_is_its_source_and_a_users_file_is_part_of_it(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("def score(completions): return [1.0 for _ in completions]\n")
    reward = [{"name": f"{mine}:score"}]
    first = provenance.grader_version(reward)
    assert first == provenance.grader_version(reward) != provenance.grader_version([{"name": "accuracy"}])
    mine.write_text("def score(completions): return [0.0 for _ in completions]\n")
    assert provenance.grader_version(reward)["sha256"] != first["sha256"]
    mine.unlink()
    with pytest.raises(UserError, match="mine.py: No such file"):
        provenance.grader_version(reward)


@pytest.fixture
def importable(tmp_path, monkeypatch):
    """A folder whose modules can be imported, and are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("scorers", "helper"):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["{0}/mine.py:score", "scorers.rules.score"])
@pytest.mark.parametrize(
    "changed", ["helper.py", "scorers/__init__.py", "scorers/rules.py", "scorers/parts.py", "scorers/words.py"]
)
def test_what_a_users_reward_imports_is_part_of_the_grader(importable, name, changed):
    (importable / "scorers").mkdir()
    files = {
        "mine.py": "from scorers.rules import score\n",
        "scorers/__init__.py": "",
        "scorers/rules.py": "import json\nfrom math import pi\nfrom torch import nn\nimport helper\n"
        "from .parts import part\n",
        "scorers/parts.py": "from . import words\npart = 1\n",
        "scorers/words.py": "",
        "helper.py": "",
    }
    for file, text in files.items():
        (importable / file).write_text(text)
    rewards = [{"name": name.format(importable)}]
    first = provenance.grader_version(rewards)
    assert first == provenance.grader_version(rewards)
    (importable / changed).write_text(files[changed] + "# changed\n")
    assert provenance.grader_version(rewards)["sha256"] != first["sha256"]


def test_a_reward_of_an_installed_package_has_its_version():
    version = provenance.grader_version([{"name": "trl.rewards.accuracy_reward"}])
    assert "trl" in version["packages"]
    assert version["sha256"] == provenance.grader_version([{"name": "accuracy"}])["sha256"]


def test_weights_are_read_once_per_run_as_long_as_they_stay_as_they_are(tmp_path, monkeypatch):
    shutil.copytree(loading.resolve("embedded:tiny-qwen2"), tmp_path / "model")
    stages = [tmp_path / "run" / name for name in ("01-before", "02-after")]
    for stage in stages:
        stage.mkdir(parents=True)
    (tmp_path / "run" / "recipe.yaml").write_text("")
    reads, read = [], provenance._sha256
    monkeypatch.setattr(provenance, "_sha256", lambda files: reads.append(files) or read(files))
    model = str(tmp_path / "model")
    first = [provenance.fingerprint(model, run_dir=stage) for stage in stages]
    assert len(reads) == 1 and set(first) == {provenance.fingerprint(model)}

    weights = tmp_path / "model" / "model.safetensors"
    data, times = bytearray(weights.read_bytes()), weights.stat()
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size and the same time of writing
    assert provenance.fingerprint(model, run_dir=stages[1]) == provenance.fingerprint(model) != first[0]


def test_prompts_are_told_apart_by_their_bytes():
    first = provenance.prompts_digest(["a", "b"])
    assert first["questions"] == 2 and first["first"] == "a"
    for other in (["ab"], ["b", "a"], ["a", "b "]):
        assert provenance.prompts_digest(other)["sha256"] != first["sha256"]
    assert provenance.prompts_digest([[{"role": "user", "content": "ä\ud800"}]])["bytes"] > 0
