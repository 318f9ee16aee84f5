"""Threads and GPUs of stages: by the recipe, else fixed by the machine and the number of jobs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from mentorkd.errors import RecipeError
from mentorkd.pipeline import resources
from mentorkd.pipeline.graph import compile_stages
from mentorkd.pipeline.resources import groups_of_gpus, room, share_of_cores, wanted
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.load import load_recipe
from mentorkd.recipe.schema import Recipe
from small_recipe import write_small_recipe

SHARED = {"train": {"cpus": 2, "gpus": 1}, "augment": {"gpus": 0.5}}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_recipe(tmp_path_factory.mktemp("resources"))


def with_resources(file: Path, *overrides: str) -> Recipe:
    keys = [f"resources.{kind}.{key}={value}" for kind, values in SHARED.items() for key, value in values.items()]
    return load_recipe(file, [*keys, *overrides])


def stage(kind: str, learner: str = "", mentor: str = "") -> Stage:
    return Stage(kind, kind, kind, {}, "f", learner=learner, mentor=mentor)


def test_a_learner_has_its_own_resources_where_it_names_them(file: Path) -> None:
    recipe = with_resources(file, "learners.mentor.resources.train.cpus=4", "learners.mentor.resources.score.gpus=1")
    assert (wanted(recipe, stage("train", "student")).cpus, wanted(recipe, stage("train", "student")).gpus) == (2, 1)
    assert (wanted(recipe, stage("train", "mentor")).cpus, wanted(recipe, stage("train", "mentor")).gpus) == (4, 1)
    assert wanted(recipe, stage("augment", "mentor")).gpus == 0.5
    assert wanted(recipe, stage("score", "student", "mentor")).gpus == 1, "a mentor scores, for its student"
    assert wanted(recipe, stage("evaluate", "student")).cpus is None
    assert wanted(recipe, stage("report")).cpus is None


def test_resources_change_no_fingerprint(file: Path) -> None:
    plain, other = (compile_stages(recipe) for recipe in (load_recipe(file), with_resources(file)))
    assert [each.fingerprint for each in plain] == [each.fingerprint for each in other]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("resources.train.cpus=0", "got 0; expected a number of at least 1"),
        ("resources.train.gpus=1.5", "got 1.5; expected a share of one GPU, or a whole number"),
        ("resources.report.cpus=1", "resources.report"),
    ],
)
def test_resources_that_make_no_sense_are_refused(file: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(file, [override])


def test_threads_are_a_share_of_the_cores_whatever_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with caplog.at_level(logging.WARNING):
        assert [share_of_cores(jobs) for jobs in (1, 2, 3, 16)] == [None, 4, 2, 1]
        assert not caplog.messages
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        assert share_of_cores(2) == 4
        assert not caplog.messages
        assert share_of_cores(4) == 4
    assert caplog.messages == [
        "OMP_NUM_THREADS gives each of 4 jobs 4 threads; its share of 8 cores is 2 (`resources` of the recipe goes before both)"
    ]


@pytest.mark.parametrize(
    ("visible", "processes", "groups"),
    [("0,1,2,3", 1, ["0", "1", "2", "3"]), ("0,1,2,3", 2, ["0,1", "2,3"]), ("5", 2, ["5"]), ("", 1, [])],
)
def test_gpus_are_grouped_for_the_largest_training(
    file: Path, monkeypatch: pytest.MonkeyPatch, visible: str, processes: int, groups: list[str]
) -> None:
    recipe: Any = load_recipe(file, [f"learners.mentor.training.processes={processes}"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(resources, "cores", lambda: 3)
    assert groups_of_gpus(recipe) == groups
    assert room(recipe) == (len(groups) or 3)
    assert groups_of_gpus(recipe.model_copy(update={"device": "cpu"})) == []


def test_a_learner_that_is_not_trained_needs_no_group(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    untrained = ["learners.vanilla.rationales=[]", "learners.vanilla.training.processes=2"]
    assert groups_of_gpus(load_recipe(file, untrained)) == ["0", "1"]
