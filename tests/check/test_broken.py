"""Every recipe in tests/broken has a fault that has cost somebody a run, and quotes the lines that `check` prints."""

import json
import shutil
from pathlib import Path

import pytest

from r1lab.check import check, rewards
from r1lab.models import loading
from r1lab.models.scratch import CHAT_TEMPLATE

BROKEN = Path(__file__).parent.parent / "broken"
NAMES = sorted(path.stem for path in BROKEN.glob("*.yaml"))

_NO_SYSTEM = CHAT_TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
_REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
_ENDS = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n\n{% endif %}")
_TAGS = [{"id": 6000 + i, "content": tag, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
          "normalized": False} for i, tag in enumerate(("<think>", "</think>"))]  # fmt: skip
_WORDS = {word: i for i, word in enumerate(("[UNK]", "<|endoftext|>", "What", "is", "+", "?"))}
_BEGINS = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
           {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
           {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>",
           "ids": [0], "tokens": ["<|endoftext|>"]}}}  # fmt: skip

_BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
_CLEANED = {"type": "Replace", "pattern": {"String": " ,"}, "content": ","}

# What the small files of a copy of an embedded model say instead. transformers builds the tokenizers of Qwen2 and
# Llama anew, whatever parts their files name.
_FROM = {"spaces-lost": "tiny-deepseek-v3", "spaces-cleaned": "tiny-deepseek-v3", "begins": "tiny-deepseek-v3"}
MODELS = {
    "no-template": {"chat_template.jinja": None},
    "ends-thinking": {"chat_template.jinja": _ENDS},
    "system-refused": {"chat_template.jinja": _REFUSES + CHAT_TEMPLATE},
    "system-dropped": {"chat_template.jinja": _NO_SYSTEM},
    "stops-elsewhere": {"generation_config.json": {"eos_token_id": 0}},
    "turn-never-ends": {
        "generation_config.json": {"eos_token_id": 0},
        "tokenizer_config.json": {"eos_token": "<|endoftext|>"},
    },
    "pad-is-eos": {"tokenizer_config.json": {"pad_token": "<|im_end|>"}},
    "spaces-lost": {"tokenizer.json": {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}},
    "spaces-cleaned": {"tokenizer.json": {"decoder": {"type": "Sequence", "decoders": [_BYTES, _CLEANED]}}},
    "begins": {
        "tokenizer_config.json": {"bos_token": "<|endoftext|>"},
        "tokenizer.json": {"post_processor": _BEGINS},
    },
    "think-is-special": {"tokenizer.json": {"added_tokens": _TAGS}},
    "knows-little": {
        "tokenizer.json": {
            "model": {"type": "WordLevel", "vocab": _WORDS, "unk_token": "[UNK]"},
            "pre_tokenizer": {"type": "Whitespace"},
            "decoder": None,
            "added_tokens": [],
        },
        "tokenizer_config.json": {"unk_token": "[UNK]", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    },
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A copy of tests/broken with the models that its recipes name."""
    folder = tmp_path_factory.mktemp("broken") / "broken"
    shutil.copytree(BROKEN, folder)
    for name, changes in MODELS.items():
        copy = folder / "models" / name
        shutil.copytree(loading.EMBEDDED / _FROM.get(name, "tiny-qwen2"), copy)
        for file, change in changes.items():
            if change is None:
                (copy / file).unlink()
            elif isinstance(change, str):
                (copy / file).write_text(change, encoding="utf-8")
            else:
                settings = json.loads((copy / file).read_text(encoding="utf-8"))
                if isinstance(change.get("added_tokens"), list) and change["added_tokens"]:
                    change = {"added_tokens": settings["added_tokens"] + change["added_tokens"]}
                (copy / file).write_text(json.dumps(settings | change), encoding="utf-8")
    return folder


def reported(name: str, folder: Path, monkeypatch) -> list[str]:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(rewards, "DEADLINE", 2.0 if name == "reward-hangs" else 60.0)
    return check.lines([f"{name}.yaml"])


@pytest.mark.parametrize("name", NAMES)
def test_check_reports_a_broken_recipe(name, broken, monkeypatch):
    header = (broken / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    wanted = [line.removeprefix("# check: ") for line in header if line.startswith("# check: ")]
    assert header[0].startswith("# peers 2") and wanted
    lines = [" ".join(line.split()).replace(f"{broken}/", "./") for line in reported(name, broken, monkeypatch)]
    for line in wanted:
        assert line in lines, "\n".join(lines)


def test_there_are_enough_of_them():
    assert len(NAMES) >= 40
