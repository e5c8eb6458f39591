"""docs/architecture.md names every module."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FOLDERS = sorted(path.parent for path in (ROOT / "r1lab").rglob("__init__.py")) + [ROOT / "rewards", ROOT / "data"]


def listed_elsewhere(folder: Path) -> set[str]:
    """Modules that the documentation lists elsewhere: of public rewards and builders, and of stages."""
    if folder.name == "stages":
        from r1lab.recipe.schema import STAGES

        return set(STAGES)
    if folder.name in ("rewards", "data"):
        body = ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
        return {node.module.rpartition(".")[2] for node in body if isinstance(node, ast.ImportFrom)}
    return set()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_architecture_names_every_module(folder):
    text = TEXT
    if folder.name != "r1lab":
        (text,) = re.findall(rf"(?m)^\| `{folder.name}/`.*$", TEXT)
    modules = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")}
    named = set(re.findall(r"`(\w+)\.py`", text))
    assert sorted(modules - named - listed_elsewhere(folder)) == []
