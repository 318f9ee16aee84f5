"""Finished trainings whose weights an earlier version may have restored wrongly run again, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mentorkd.pipeline.outdated import CONVERTED
from mentorkd.pipeline.run import Pipeline, Reporter
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.load import load_recipe

VANILLA = "learners/vanilla/seed-1"


def aged(run: Path, learner: str, model_type: str) -> None:
    """Make the finished training of a learner one of an earlier version, of a model of this type."""
    mark = run / f".stages/learners.{learner}.seed-1.train.json"
    record = json.loads(mark.read_text())
    assert record.pop("checkpoint_format", 2) == 2
    for later in ("seal", "files"):
        record.pop(later, None)
    mark.write_text(json.dumps(record))
    config = run / f"learners/{learner}/seed-1/model/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": model_type}))


def waiting(pipeline: Pipeline) -> list[str]:
    return [planned.stage.name for planned in pipeline.plan() if planned.state != "done"]


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []
        self.ran: list[str] = []

    def note(self, text: str, stage: Stage) -> None:
        self.notes.append((stage.name, text))

    def started(self, stage: Stage, number: int, total: int) -> None:
        self.ran.append(stage.name)


def test_an_old_training_of_a_converted_family_runs_again_with_all_that_needs_it(small_run: Path) -> None:
    reporter = Notes()
    pipeline = Pipeline(load_recipe(small_run / "recipe.yaml"), small_run / "run", reporter)
    before = {stage.name: stage.fingerprint for stage in pipeline.stages}
    assert waiting(pipeline) == []

    aged(small_run / "run", "vanilla", "t5")
    assert waiting(pipeline) == []

    aged(small_run / "run", "vanilla", "gpt_neox")
    mine = [f"{VANILLA}/train", f"{VANILLA}/evaluate", "report"]
    assert waiting(pipeline) == mine
    pipeline.run()
    assert reporter.ran == mine
    assert reporter.notes == [
        (f"{VANILLA}/train", f"{VANILLA}/train runs again: an earlier version restored other weights")
    ]
    assert waiting(pipeline) == []
    assert {stage.name: stage.fingerprint for stage in pipeline.stages} == before

    aged(small_run / "run", "mentor", "mixtral")
    assert set(waiting(pipeline)) == {name for name in before if not name.startswith(("prepare", "annotate"))}


@pytest.mark.parametrize("name", ["t5", "mt5", "gpt2", "llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3"])
def test_families_without_conversion_are_not_in_the_list(name: str) -> None:
    assert name not in CONVERTED
