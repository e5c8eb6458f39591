"""A model's folder that cannot be loaded is one line, before anything is loaded."""

import json
import shutil

import pytest

from r1lab.models import loading
from r1lab.models.folders import folder_problems, quantized_by, shapes


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(loading.EMBEDDED / "tiny-qwen2", tmp_path / "model")


def test_a_whole_folder_has_no_problem(folder):
    assert folder_problems(folder) == []
    assert shapes(folder)["model.embed_tokens.weight"] == [564, 128]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model.safetensors", POINTER, "is a Git LFS pointer without the weights: run `git lfs pull`"),
        ("model.safetensors", b"", "is truncated (0 bytes)"),
        ("model.safetensors", b"not safetensors at all", "is not a safetensors file, or is truncated (22 bytes)"),
        ("config.json", b'{"model_type": "qwen2",', "config.json is not JSON ("),
        ("config.json", b"\xff\xfe", "config.json is not text"),
        ("config.json", b"[]", "config.json is not a JSON object"),
        ("config.json", b"{}", "config.json has no model_type"),
        ("model.safetensors.index.json", b"{}", "does not list the files of the weights"),
    ],
)
def test_a_damaged_file_is_named(folder, file, content, said):
    (folder / file).write_bytes(content)
    (line,) = folder_problems(folder)
    assert line.startswith(f"{folder}: {file}") and said in line


def test_weights_that_are_cut_off_are_counted(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    (line,) = folder_problems(folder)
    assert line.endswith(f"has {len(whole) // 2:,} bytes and should have {len(whole):,}: copy it again")


def test_the_method_of_quantized_weights(folder):
    assert quantized_by(folder) is None and quantized_by(None) is None
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    assert quantized_by(folder) == "gptq"
