"""Every recipe that r1lab carries is in order."""

from pathlib import Path

import pytest

from r1lab.recipe import loading as recipes

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES)
def test_a_packaged_recipe_loads_and_its_resolved_form_is_the_same_recipe(path, tmp_path):
    recipe = recipes.load([str(ROOT / path)])
    again = tmp_path / "config.yaml"
    again.write_text(recipes.dumps(recipe), encoding="utf-8")
    assert recipes.resolved(recipes.load([str(again)])) == recipes.resolved(recipe)


@pytest.mark.parametrize("path", RECIPES)
def test_a_packaged_recipe_says_in_its_first_line_what_it_shows_and_how_it_is_run(path):
    first, second, *_ = (ROOT / path).read_text(encoding="utf-8").splitlines()
    name = path.removeprefix("recipes/").removesuffix(".yaml")
    assert first.startswith("# ") and f"r1lab run {name}" in second
