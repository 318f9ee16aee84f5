"""Every recipe that is shipped loads, and names files that the paper's data really has."""

from __future__ import annotations

from pathlib import Path

import pytest

from mentorkd.paper.tasks import find_task
from mentorkd.pipeline.plan import estimate
from mentorkd.recipe.graph import arms
from mentorkd.recipe.load import dump_recipe, load_recipe, parse_recipe
from places import ROOT

RECIPES = sorted([*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("src/mentorkd/**/*.yaml")])
PAPER = ("date", "last_letter", "shuffled", "svamp")


def test_there_are_recipes() -> None:
    assert {f"{name}.yaml" for name in PAPER} <= {path.name for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_and_survives_its_dump(path: Path) -> None:
    recipe = load_recipe(path, check_files=False)
    assert parse_recipe(dump_recipe(recipe), source="dump", base=Path("/")) == recipe
    assert path.stem in (recipe.name, "recipe")


def test_shipped_recipes_have_three_seeds() -> None:
    """One seed compares two trained models, not two learners."""
    recipes = [load_recipe(path, check_files=False) for path in RECIPES]
    assert len(recipes) >= 7
    assert {recipe.name: len(recipe.seeds) for recipe in recipes if len(recipe.seeds) != 3} == {}


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_of_the_paper_finds_its_files_in_the_papers_data(name: str, shared_data: Path) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", [f"data.root={shared_data / 'mentor-kd'}"])
    task = find_task(recipe.task.name)
    assert task is not None
    assert (recipe.task.train, recipe.task.test, recipe.teacher.rationales) == (task.train, task.test, task.teacher)


def test_the_decompositions_arm_by_epochs_has_the_updates_that_its_epochs_come_to(
    shared_data: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(ROOT / "recipes" / "decomposition.yaml", [f"data.root={shared_data / 'mentor-kd'}"])
    updates = recipe.learners["teacher-only-by-epochs"].training.updates
    [matched] = [note for note in estimate(recipe, tmp_path).notes if "match: updates" in note]
    assert f"they would do {updates} to" in matched
    assert set(arms(recipe)) == recipe.learners.keys() - {"mentor"}
