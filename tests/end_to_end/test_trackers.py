"""Experiment trackers hear of every training by its learner and seed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from mentorkd.errors import RecipeError
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from small_recipe import small_recipe, write_small_recipe

needs_tensorboard = pytest.mark.skipif(
    find_spec("tensorboard") is None, reason="tensorboard is not installed; pip install tensorboard"
)


@needs_tensorboard
def test_tensorboard_has_a_run_for_every_learner_and_seed_with_its_losses(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    raw = small_recipe(tmp_path)
    raw["learners"] = {"vanilla": raw["learners"]["vanilla"]}
    raw["training"] |= {"epochs": 1, "report_to": ["tensorboard"]}
    raw |= {"seeds": [1, 2], "search": {"learning_rate": [1e-2, 1e-3]}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(raw))
    pipeline = Pipeline(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run")
    trained = [stage.target.removeprefix("learners/") for stage in pipeline.stages if stage.kind == "train"]
    assert {name.partition("/trials/")[0] for name in trained} == {"vanilla/seed-1", "vanilla/seed-2"}
    logs = tmp_path / "run" / "tensorboard"
    (logs / trained[0]).mkdir(parents=True)
    (logs / trained[0] / "events.out.tfevents.1.old").touch()  # of a training that is made anew
    pipeline.run(until="train")
    found = {file.parent.relative_to(logs).as_posix(): file for file in logs.rglob("*") if file.is_file()}
    assert sorted(found) == sorted(trained)
    assert len([file for file in logs.rglob("*") if file.is_file()]) == 4  # the trials of a search have their own
    for name, file in found.items():
        events = EventAccumulator(str(file)).Reload()
        told = {event.step: event.value for event in events.Scalars("train/loss")}
        lines = (tmp_path / "run" / "learners" / name / "metrics.jsonl").read_text().splitlines()
        logged = {row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}
        assert told == pytest.approx(logged, rel=1e-5)


def test_a_tracker_that_is_not_there_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_small_recipe(tmp_path)
    with pytest.raises(RecipeError, match="expected one of tensorboard, trackio, wandb, mlflow"):
        load_recipe(recipe, ["training.report_to=[tensorbored]"])
    monkeypatch.setattr("mentorkd.pipeline.preflight.find_spec", lambda name: None)
    pipeline = Pipeline(load_recipe(recipe, ["training.report_to=[trackio]"]), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"training.report_to: trackio is not installed; .* pip install trackio"):
        pipeline.run()
    assert not (tmp_path / "run" / "data").exists()
