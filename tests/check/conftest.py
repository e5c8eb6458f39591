"""What the tests of checks share: a copy of an embedded model to break, and findings by verdict."""

import json
import shutil
from pathlib import Path

import pytest

from r1lab.check import check
from r1lab.models import loading


@pytest.fixture
def model(tmp_path):
    """Copies an embedded model, with other settings in its small files, and gives its folder."""

    def copy(*, name="tiny-qwen2", template=None, tokenizer=None, generation=None, config=None) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(loading.EMBEDDED / name, folder)
        if template == "":
            (folder / "chat_template.jinja").unlink()
        elif template is not None:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        for file, change in (
            ("tokenizer_config.json", tokenizer),
            ("generation_config.json", generation),
            ("config.json", config),
        ):
            if change:
                settings = json.loads((folder / file).read_text(encoding="utf-8")) | change
                (folder / file).write_text(json.dumps(settings), encoding="utf-8")
        return folder

    return copy


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Checks a recipe given as a dict, and gives the lines of a verdict."""
    monkeypatch.chdir(tmp_path)

    def lines(settings: dict, verdict: str | None = None) -> list[str]:
        Path("r.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
        given = check.lines(["r.yaml"])
        return [line for line in given if verdict is None or line.startswith(verdict)]

    return lines


@pytest.fixture
def grpo():
    """A grpo recipe that is in order, with sections replaced."""

    def settings(**sections) -> dict:
        return {
            "stage": "grpo",
            "model": {"path": "embedded:tiny-qwen2"},
            "data": {"builder": "knights_knaves", "people": [2, 3], "size": 64},
            "prompt": {"template": "r1-zero"},
            "rewards": [{"name": "knights_knaves"}],
            "rollout": {"engine": "transformers"},
            "train": {"learning_rate": 2.0e-4, "per_device_train_batch_size": 16, "max_steps": 60},
        } | sections

    return settings
