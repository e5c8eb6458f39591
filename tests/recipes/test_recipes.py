"""Every recipe that r1lab carries is in order."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from r1lab import listing
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
def test_the_first_lines_of_a_packaged_recipe_say_what_it_shows_what_it_needs_and_whether_it_was_run(path):
    title, hardware, here, *_ = (ROOT / path).read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ") and len(title) <= 96, "`r1lab ls recipes` prints it on one line of 100 columns"
    assert f"r1lab run {path.removeprefix('recipes/').removesuffix('.yaml')}" in hardware
    assert here.startswith("# Run here: in full") or here == "# Run here: no, only scaled down with --tiny"
    needs = re.match(r"# Hardware: (?:[12] CPU cores?|1 NVIDIA GPU|(?:(\d+) nodes x )?(\d+) x \d+ GB)\b", hardware)
    assert needs, hardware
    recipe = recipes.load([str(ROOT / path)])
    ranks = max(stage.launch.ranks for stage in getattr(recipe, "stages", [recipe]))
    assert ranks == int(needs[1] or 1) * int(needs[2] or 1)


def test_each_recipe_takes_two_lines_of_a_terminal_of_100_columns():
    lines = listing.page(["recipes"], runs_dir=ROOT / "runs", width=100).splitlines()
    assert len(lines) == 2 * len(RECIPES) + 1 and max(map(len, lines)) <= 100
    assert not any("…" in line for line in lines)


NEEDS = {name: (needs, ran == "run here") for name, _, ran, needs, _ in listing.recipes()}


def rows_of_tables(page: str) -> list[dict[str, str]]:
    """The rows of a page's tables that have a column `hardware`, as cells by column."""
    found, columns = [], []
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line[1:-1].split("|")] if line.startswith("| ") else []
        if not line.startswith("|"):
            columns = []
        elif not columns:
            columns = cells
        elif cells and "hardware" in columns:
            found.append(dict(zip(columns, cells, strict=True)))
    return found


def test_the_tables_of_recipes_name_the_hardware_of_each_header():
    rows = [row for row in rows_of_tables("docs/recipes.md") if row["recipe"].startswith("`")]
    listed = {row["recipe"].strip("`"): (row["hardware"], row["run here"].startswith("in full")) for row in rows}
    assert len(rows) == len(RECIPES) and listed == NEEDS


def test_the_table_of_the_readme_has_each_recipe_in_the_row_of_its_hardware():
    rows = [row for row in rows_of_tables("README.md") if "recipes" in row]
    parts = [(part, row) for row in rows for part in re.findall(r"`([^`]+)`", row["recipes"])]
    for name, (needs, full) in NEEDS.items():
        row = next((row for part, row in parts if part == name), None)
        row = row or next(row for part, row in parts if fnmatch(name, part))
        hardware = "1 or 2 CPU cores" if "CPU" in needs else "1 GPU" if needs.startswith("1 ") else "several GPUs"
        assert (row["hardware"], row["run here"].startswith("in full")) == (hardware, full), name
    several = sum("CPU" not in needs and not needs.startswith("1 ") for needs, _ in NEEDS.values())
    assert f"{several} of the {len(NEEDS)} recipes ask for several GPUs" in (ROOT / "README.md").read_text()


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
