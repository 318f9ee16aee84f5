"""Trainings to a plateau: what a recipe may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from mentorkd.errors import RecipeError
from mentorkd.recipe.aliases import later_training
from mentorkd.recipe.graph import matched_arms
from mentorkd.recipe.load import dump_recipe, parse_recipe
from mentorkd.recipe.schema import Recipe

TEXT = """\
name: demo
task: {name: svamp, train: a, test: b}
teacher: {rationales: c}
learners:
  mentor: {model: big, training: {updates: 300}}
  vanilla: {model: small}
  student: {model: small, rationales: [teacher, mentor], soft_labels: mentor}
training: {updates: 1200, epochs: 40, patience: 0.25, cooldown: 0.2, validate_every: auto}
match: plateau
"""


def parse(*overrides: str) -> Recipe:
    return parse_recipe(TEXT, source="test", base=Path("/"), overrides=overrides)


def test_arms_have_one_limit_and_no_budget() -> None:
    recipe = parse()
    assert {name: learner.training.updates for name, learner in recipe.learners.items()} == {
        "mentor": 300,  # no arm, so it may have a limit of its own
        "vanilla": 1200,
        "student": 1200,
    }
    assert matched_arms(recipe) == []
    assert parse_recipe(dump_recipe(recipe), source="stored", base=Path("/")) == recipe


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("learners.vanilla.training.updates=600", "one limit for all arms, got `training.updates` vanilla 600, student 1200"),
        ("learners.vanilla.training.updates=null", "missing: `match: plateau` needs it of every arm; give a limit"),
        ("learners.student.training.patience=null", "missing: `match: plateau` needs it of every arm; give a share"),
        ("training.select_on=last", "needs validation to find the plateau, and `select_on` is last"),
        ("training.select_on=test", "needs validation to find the plateau, and `select_on` is test"),
        ("training.schedule=linear", "`schedule: linear` changes the rate before the cool-down"),
        ("learners.vanilla.rationales=[teacher, self]", "each training of a learner with `self` has a fixed share"),
        ("protocol=paper", "the paper's protocol trains to the end; remove `patience`"),
        ("training.validate_every=0", "got 0; expected auto, or a whole number of at least 1"),
        ("training.patience=1", "got 1; expected a number below 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_combined_is_one_line(override: str, fault: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(override)
    assert any(fault in line.message for line in caught.value.faults), caught.value


def test_early_stop_alone_goes_with_any_schedule_and_any_match() -> None:
    recipe = parse("match=updates", "training={patience: 0.5, schedule: linear}")
    assert matched_arms(recipe) == ["vanilla", "student"]


def test_the_papers_protocol_validates_after_every_epoch() -> None:
    overrides = ("protocol=paper", "match=epochs", "training={validate_every: auto}")
    assert [learner.training.validate_every for learner in parse(*overrides).learners.values()] == [1, 1, 1]


def test_a_recipe_without_the_keys_hashes_as_before() -> None:
    old = parse("match=updates", "training={epochs: 4}").learners["vanilla"].training.model_dump()
    assert {"patience", "cooldown"}.isdisjoint(later_training(old))
    assert later_training(old)["validate_every"] == 1
