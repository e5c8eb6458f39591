"""What tells one evaluation from another."""

import shutil

import pytest

from r1lab import models, provenance
from r1lab.errors import UserError


def test_a_copy_has_the_same_fingerprint_and_one_weight_another(tmp_path):
    first = provenance.fingerprint("embedded:tiny-qwen2")
    shutil.copytree(models.resolve("embedded:tiny-qwen2"), tmp_path / "copy")
    assert first.startswith("sha256:") and provenance.fingerprint(str(tmp_path / "copy")) == first
    weights = tmp_path / "copy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert provenance.fingerprint(str(tmp_path / "copy")) not in (first, None)


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer.json", "config.json"])
def test_what_else_decides_an_answer_is_in_it(tmp_path, file):
    shutil.copytree(models.resolve("embedded:tiny-qwen2"), tmp_path / "copy")
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


def test_prompts_are_told_apart_by_their_bytes():
    first = provenance.prompts_digest(["a", "b"])
    assert first["questions"] == 2 and first["first"] == "a"
    for other in (["ab"], ["b", "a"], ["a", "b "]):
        assert provenance.prompts_digest(other)["sha256"] != first["sha256"]
    assert provenance.prompts_digest([[{"role": "user", "content": "ä\ud800"}]])["bytes"] > 0
