"""What the report says of a learner's model: one key for one model, in runs of any version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finished import copy_run
from mentorkd.files import fingerprint
from mentorkd.hub import HubModels
from mentorkd.pipeline.run import open_run
from mentorkd.pipeline.stages.report import read_inputs
from mentorkd.recipe.aliases import LATER_KEYS
from mentorkd.recipe.learner import ModelConfig

NAME, FIRST, SECOND = "someone/tiny", "a" * 40, "b" * 40


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return copy_run(small_run / "run", tmp_path / "run")


def key_of(run: Path, hub: HubModels, **model: Any) -> str:
    """The key that a run which knows these commits gives to a model."""
    pipeline = open_run(run)
    report, recipe = pipeline.stages[-1], pipeline.recipe
    vanilla = recipe.learners["vanilla"].model_copy(update={"model": ModelConfig(name=NAME, **model)})
    pipeline.folder.keep_hub_models(hub)
    other = recipe.model_copy(update={"learners": {**recipe.learners, "vanilla": vanilla}})
    [info] = [each for each in read_inputs(other, pipeline.folder, report, {}).learners if each.name == "vanilla"]
    return info.model_key


def test_a_hub_model_is_known_by_the_commit_that_the_run_used(run: Path) -> None:
    main = f"{NAME}@main"
    first = key_of(run, HubModels({main: [FIRST]}))
    assert key_of(run, HubModels({main: [SECOND]})) != first
    assert key_of(run, HubModels({main: [SECOND, FIRST]})) == first
    assert key_of(run, HubModels({f"{NAME}@v1": [FIRST]}), revision="v1") == first
    assert key_of(run, HubModels({f"{NAME}@{FIRST}": [FIRST]}), revision=FIRST) == first


def test_keys_of_later_versions_count_only_where_they_are_set(run: Path) -> None:
    settings = ModelConfig(name=NAME).model_dump()
    before = fingerprint({key: settings[key] for key in settings.keys() - LATER_KEYS})
    assert key_of(run, HubModels()) == before
    assert key_of(run, HubModels(), chat_date="2025-01-01") != before
