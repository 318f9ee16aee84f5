"""What commit 7b4a6c6 finished stays finished: no stage of its runs is carried out again (see tests/fixtures/README.md)."""

from __future__ import annotations

import json
import logging
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from mentorkd.pipeline.graph import compile_stages
from mentorkd.pipeline.records import ArmUpdates, BudgetRecord, OwnLength
from mentorkd.pipeline.run import Pipeline, open_run
from mentorkd.quickstart.task import write_task
from mentorkd.recipe.aliases import BIRTH_NAMES, warn_of_old_name
from mentorkd.recipe.load import load_recipe
from old_recipes import OLD_RECIPES, old_recipe
from places import FIXTURES

FINGERPRINTS = json.loads((FIXTURES / "fingerprints.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    write_task(folder / "data", seed=7, train=40, validation=6, test=10, annotated=24, samples=2)
    return folder


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    with tarfile.open(FIXTURES / "finished_run.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "finished_run"
    planned = Pipeline(load_recipe(folder / "recipe.yaml"), folder / "run").plan()
    assert len(planned) == 24
    assert [p.stage.name for p in planned if p.state != "done"] == ["report"]
    kinds = {p.stage.kind for p in planned}
    assert kinds == {"prepare", "annotate", "budget", "score", "train", "search", "augment", "evaluate", "report"}


def test_a_missing_output_is_made_again(tmp_path: Path) -> None:
    with tarfile.open(FIXTURES / "finished_run.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "finished_run"
    shutil.rmtree(folder / "run/learners/mentor/seed-1/model")
    planned = Pipeline(load_recipe(folder / "recipe.yaml"), folder / "run").plan()
    assert [p.stage.name for p in planned if p.state != "done"] == ["learners/mentor/seed-1/train", "report"]


def test_nobody_is_warned_of_keys_that_mentorkd_wrote(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tarfile.open(FIXTURES / "finished_run.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    run = tmp_path / "finished_run" / "run"
    assert "steps: false" in (run / "recipe.yaml").read_text(encoding="utf-8")
    warn_of_old_name.cache_clear()
    with caplog.at_level(logging.WARNING):
        open_run(run)
        load_recipe(run / "recipe.yaml", check_files=False)
    assert caplog.messages == []
    load_recipe(run / "recipe.yaml", ["teacher.select.steps=true"], check_files=False)
    assert len(caplog.messages) == 1
    warn_of_old_name.cache_clear()


def test_the_stored_recipe_reads_micro_batches_as_its_version_did(tmp_path: Path) -> None:
    with tarfile.open(FIXTURES / "finished_run.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "finished_run"
    for file, split in (("run/recipe.yaml", "none"), ("recipe.yaml", "auto")):
        recipe = load_recipe(folder / file, check_files=False)
        assert {learner.training.split for learner in recipe.learners.values()} == {split}


@pytest.mark.parametrize("name", OLD_RECIPES)
def test_fingerprints_are_those_of_old_runs(name: str, data: Path) -> None:
    assert fingerprints(old_recipe(name, "data"), data) == _without_report(FINGERPRINTS[name])


@pytest.mark.parametrize(
    "name", ["filter false equations", "filter perplexity of a learner", "filter perplexity of a model"]
)
def test_a_new_name_of_a_key_has_the_fingerprints_of_the_old_one(name: str, data: Path) -> None:
    raw = old_recipe(name, "data")
    current = {old: new for new, old in BIRTH_NAMES.items()}
    select = raw["learners"]["mentor"]["select"]
    raw["learners"]["mentor"]["select"] = {current[key]: value for key, value in select.items()}
    assert fingerprints(raw, data) == _without_report(FINGERPRINTS[name])


def fingerprints(raw: dict[str, Any], data: Path) -> dict[str, str]:
    path = data / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    recipe = load_recipe(path)
    arms = {learner: ArmUpdates(rows=1, own=OwnLength(9, 9), updates=9) for learner in recipe.learners}
    budget = BudgetRecord(match="updates", number=9, arms=arms)
    stages = compile_stages(recipe, lambda stage: budget if stage.kind == "budget" else None)
    return _without_report({stage.name: stage.fingerprint for stage in stages})


def _without_report(marks: dict[str, str]) -> dict[str, str]:
    """All stages but the report, which is written again in seconds wherever its code changed."""
    return {name: mark for name, mark in marks.items() if name != "report"}
