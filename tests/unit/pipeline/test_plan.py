"""Estimates of stages from the data alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mentorkd.pipeline.plan import Estimates, estimate
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from mentorkd.recipe.yaml import dump_yaml
from small_recipe import small_recipe


def plan(folder: Path, **task: Any) -> dict[str, dict[str, float]]:
    """The estimates of a recipe with a cross-fitted mentor and learners with own texts, by stage."""
    settings = small_recipe(folder)
    learners = settings["learners"]
    learners["mentor"]["folds"] = 2
    own = {"model": learners["student"]["model"], "own_texts": {"rounds": 2}, "rationales": ["teacher", "self"]}
    learners["star"] = own
    learners["own"] = own | {"soft_labels": "mentor", "own_texts": {"rounds": 2, "samples": 4}}
    settings["task"] |= task
    path = folder / "own.yaml"
    path.write_text(dump_yaml(settings), encoding="utf-8")
    recipe = load_recipe(path)
    estimates: Estimates = estimate(recipe, folder / "run")
    return {stage.name: estimates.of(stage) for stage in Pipeline(recipe, folder / "run").stages}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    return plan(tmp_path_factory.mktemp("plan"))


def test_rounds_share_the_updates_of_their_learner(rows: dict[str, dict[str, float]]) -> None:
    vanilla = rows["learners/vanilla/seed-1/train"]["updates"]
    for name in ("star", "own"):
        parts = [rows[f"learners/{name}/seed-1/round-{number}/train"]["updates"] for number in range(3)]
        assert sum(parts) == vanilla
        assert max(parts) - min(parts) <= 1
        assert rows[f"learners/{name}/seed-1/rounds"] == {}


def test_a_round_reads_what_the_learner_writes_for_it(rows: dict[str, dict[str, float]]) -> None:
    first, second = (rows[f"learners/own/seed-1/round-{number}/train"] for number in (0, 1))
    written = rows["learners/own/seed-1/round-1/augment"]["rows"]
    assert written == rows["prepare"]["rows"] * 4 - 16 * 4  # four samples of each of the training questions
    assert second["rows"] == first["rows"] + written
    assert second["tokens"] > 0


def test_folds_share_the_questions(rows: dict[str, dict[str, float]]) -> None:
    whole = rows["learners/vanilla/seed-1/train"]["rows"]
    assert [rows[f"learners/mentor/seed-1/fold-{fold}/train"]["rows"] for fold in (0, 1)] == [whole / 2, whole / 2]
    scored = [row["rows"] for name, row in rows.items() if "/score/own.round-1" in name]
    assert scored == [rows["learners/own/seed-1/round-1/augment"]["rows"] / 2] * 2


def test_unlabelled_questions_are_for_imitated_own_texts(tmp_path: Path, rows: dict[str, dict[str, float]]) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text(
        "".join(json.dumps({"question": f"What is {n} plus {n}?"}) + "\n" for n in range(1000, 1005)), encoding="utf-8"
    )
    these = plan(tmp_path, unlabelled=str(more))
    place = "learners/{}/seed-1/round-1/augment"
    assert these[place.format("own")]["rows"] == rows[place.format("own")]["rows"] + 5 * 4
    assert these[place.format("star")] == rows[place.format("star")]
    scored = [row["rows"] for name, row in these.items() if "/score/own.round-1" in name]
    assert scored[0] - scored[1] == 5 * 4  # the first mentor scores them


def test_arms_of_own_texts_alone_have_no_epochs_to_compare(tmp_path: Path) -> None:
    settings = small_recipe(tmp_path)
    settings["learners"]["alone"] = {**settings["learners"]["vanilla"], "rationales": ["self"]}
    path = tmp_path / "own.yaml"
    notes = []
    for epochs in (3, 100):
        settings["learners"]["alone"]["training"] = {"epochs": epochs}
        path.write_text(dump_yaml(settings), encoding="utf-8")
        notes.append(estimate(load_recipe(path), tmp_path / "run").notes)
    [note] = {note for each in notes for note in each if note.startswith("arms get equal")}
    least, most = note.partition("they would do ")[2].removesuffix(" updates").split(" to ")
    assert 3 < int(least) < int(most) < 100


def test_processes_make_updates_as_accumulation_does(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(small_recipe(tmp_path)), encoding="utf-8")
    updates = {}
    for setting in ("processes=1", "processes=2", "gradient_accumulation=2"):
        recipe = load_recipe(path, [f"training.{setting}"])
        estimates = estimate(recipe, tmp_path / "run")
        trainings = [stage for stage in Pipeline(recipe, tmp_path / "run").stages if stage.kind == "train"]
        updates[setting] = [estimates.of(stage)["updates"] for stage in trainings]
    assert updates["processes=2"] == updates["gradient_accumulation=2"] != updates["processes=1"]
