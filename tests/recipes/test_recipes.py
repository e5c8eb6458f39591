"""Every recipe that r1lab carries is in order."""

from pathlib import Path

import pytest

from r1lab.recipe import batch
from r1lab.recipe import loading as recipes
from r1lab.recipe.schema import is_trained

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


@pytest.mark.parametrize("path", RECIPES)
def test_an_update_of_a_packaged_recipe_is_the_same_on_any_hardware(path):
    recipe = recipes.load([str(ROOT / path)])
    for stage in getattr(recipe, "stages", [recipe]):
        if not is_trained(stage):
            continue
        assert batch.of(stage).rows == stage.train["global_batch_size"], stage.name
        fits = [ranks for ranks in (1, 2, 4, 8) if not batch.problems(stage, ranks)]
        # What was measured on one device keeps its micro-batches, some of which are a whole update.
        assert fits == [1, 2, 4, 8] if stage.launch.gpus > 1 else 1 in fits, stage.name
