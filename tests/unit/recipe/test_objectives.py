from __future__ import annotations

from typing import get_args

import pytest

from mentorkd.recipe.learner import Learner
from mentorkd.recipe.objectives import OBJECTIVES, ObjectiveName, ObjectiveSpec


def test_every_name_of_an_objective_has_its_declaration() -> None:
    assert tuple(OBJECTIVES) == get_args(ObjectiveName)


@pytest.mark.parametrize(("name", "spec"), OBJECTIVES.items())
def test_the_recipes_schema_shows_every_objective(name: str, spec: ObjectiveSpec) -> None:
    properties = Learner.model_json_schema()["properties"]
    assert f"`{name}` ({spec.label}): {spec.summary}." in properties["objective"]["description"]
    weight = f"`{name}` {spec.weight:g}"
    assert (weight in properties["objective_weight"]["description"]) == ("objective_weight" in spec.settings)
    assert all(setting in properties for setting in spec.settings)
