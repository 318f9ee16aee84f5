"""`protocol: paper` does as the paper does wherever the recipe says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mentorkd.recipe.load import dump_recipe, parse_recipe
from mentorkd.recipe.schema import Recipe

TEXT = """\
name: demo
task: {name: svamp, train: a, test: b}
teacher: {rationales: c}
learners:
  mentor: {model: big}
  student: {model: small, rationales: [teacher, mentor], soft_labels: mentor}
"""


def parse(*overrides: str, text: str = TEXT) -> Recipe:
    return parse_recipe(text, source="test", base=Path("/"), overrides=overrides)


def test_fair_is_the_default() -> None:
    recipe = parse()
    student = recipe.learners["student"]
    assert (recipe.protocol, recipe.match, student.training.select_on) == ("fair", "updates", "validation")
    assert (student.tau_squared, student.training.max_grad_norm, recipe.task.validation_share) == (True, 1.0, 0.1)


def test_the_paper_chooses_on_the_test_set_after_equal_epochs() -> None:
    recipe = parse("protocol=paper")
    assert (recipe.match, recipe.task.validation_share) == ("epochs", 0.0)
    assert recipe.teacher.select.deduplicate is False
    for learner in recipe.learners.values():
        assert (learner.training.select_on, learner.training.max_grad_norm) == ("test", 0.0)
        assert learner.select.deduplicate is False
        assert learner.sampling.top_k == 50  # the default of transformers, which the published script samples with
    assert recipe.learners["student"].tau_squared is False
    assert parse(text=dump_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    "setting",
    ["match=tokens", "training.max_grad_norm=0.5", "learners.student.tau_squared=true", "teacher.select.deduplicate=true",
     "sampling.top_k=0"],
)  # fmt: skip
def test_what_the_recipe_says_stands(setting: str) -> None:
    key, _, value = setting.partition("=")
    told = parse("protocol=paper", setting).model_dump()
    for part in key.split("."):
        told = told[part]
    assert str(told).lower() == value


def test_a_learner_that_is_chosen_by_validation_keeps_its_validation_questions() -> None:
    assert parse("protocol=paper", "learners.student.training.select_on=validation").task.validation_share == 0.1
    assert parse("protocol=paper", "training.select_on=validation").task.validation_share == 0.1
    assert parse("protocol=paper", "task.validation=v.json").task.validation_share == 0.1


def test_the_paper_can_be_swept() -> None:
    recipe = parse("protocol=paper", "sweep.student.kd_weight=[0, 1]")
    assert {recipe.learners[f"student@kd_weight={w}"].tau_squared for w in (0, 1)} == {False}
