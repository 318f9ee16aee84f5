"""Controls in a recipe: another source's questions, shuffled soft labels, label smoothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finished import copy_run
from mentorkd.pipeline.graph import compile_stages
from mentorkd.pipeline.records import TrainRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.pipeline.selection_log import SELECTION
from mentorkd.recipe.graph import arms
from mentorkd.recipe.load import load_recipe, parse_recipe
from mentorkd.reporting.write import read_results
from small_recipe import small_recipe

IMITATION = {"rationales": ["teacher", "mentor"], "soft_labels": "mentor", "temperature": 2.0}
SHORT = {"updates": 2, "epochs": 1}
CONTROLS: dict[str, dict[str, Any]] = {
    "blurred": {**IMITATION, "shuffle_soft_labels": True, "label_smoothing": 0.2, "training": SHORT},
    # The teacher is none of its sources.
    "reworded": {"rationales": ["mentor"], "reads": {"mentor": {"questions": "teacher"}}, "training": SHORT},
}


@pytest.fixture(scope="module")
def run(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("controls")
    copy_run(small_run / "run", folder / "run")
    raw = small_recipe(folder)
    model = raw["learners"]["student"]["model"]
    raw["learners"] |= {name: {"model": model} | learner for name, learner in CONTROLS.items()}
    (folder / "recipe.yaml").write_text(json.dumps(raw))
    pipeline = Pipeline(load_recipe(folder / "recipe.yaml"), folder / "run")
    pipeline.run()
    return pipeline


def record(run: Pipeline, learner: str) -> TrainRecord:
    stage = run.stage_of("train", learner, 1)
    assert stage is not None
    return run.folder.record_of(TrainRecord, stage)


def test_controls_share_all_stages_before_their_training(run: Pipeline) -> None:
    assert {stage.kind for stage in run.stages if stage.learner in CONTROLS} == {"train", "evaluate"}
    assert set(CONTROLS) < set(arms(run.recipe))


def test_the_mentors_rows_are_on_the_questions_that_the_teacher_has(run: Pipeline) -> None:
    [count] = [row for row in record(run, "reworded").filters if row.filter == "questions"]
    assert (count.source, count.before) == ("mentor", 2 * 40)
    mentor, train = run.stage_of("augment", "mentor", 1), run.stage_of("train", "reworded", 1)
    assert mentor is not None
    assert train is not None
    known = {row.question_id for row in run.folder.rationales("annotate") if row.verdict == "correct"}
    written = run.folder.rationales(mentor)
    assert 0 < count.after == sum(row.question_id in known for row in written) < count.before
    log = [json.loads(line) for line in (run.folder.model(train).parent / SELECTION).read_text().splitlines()]
    dropped = {line["rationale_id"] for line in log if line["dropped_by"] == "questions"}
    assert dropped == {row.id for row in written if row.question_id not in known}


def test_another_limit_is_another_training(run: Pipeline) -> None:
    """The source that limits is an input, whatever its name, and so are its filters."""

    def training(**changes: Any) -> str:
        raw = json.loads((run.folder.root.parent / "recipe.yaml").read_text())
        raw["learners"]["reworded"] |= changes
        recipe = parse_recipe(json.dumps(raw), source="test", base=run.folder.root.parent)
        [stage] = [each for each in compile_stages(recipe) if each.name == "learners/reworded/seed-1/train"]
        return stage.fingerprint

    limits = [{"questions": "teacher"}, {"questions": "gold"}, {"questions": "vanilla"}, {}]
    marks = [training(reads={"mentor": limit}) for limit in limits]
    assert len(set(marks)) == len(limits)
    assert marks[0] == training()
    assert marks[0] != training(reads={"mentor": {"questions": "teacher", "diverse": 1}})


def test_the_report_tells_controls_apart(run: Pipeline) -> None:
    results = read_results(run.folder.root / "report")
    learners = {each["name"]: each for each in results["learners"]}
    assert learners["blurred"]["distillation"]["shuffle_soft_labels"] is True
    assert "shuffle_soft_labels" not in learners["student"]["distillation"]
    assert learners["blurred"]["settings"]["label_smoothing"] == 0.2
    assert learners["reworded"]["filters"]["mentor"]["questions"] == "teacher"
    assert "shuffled soft labels of mentor" in (run.folder.root / "report" / "report.md").read_text()
    of_labels = {row["learner"]: row["mentor_nll"] for row in results["soft_labels"]}
    assert of_labels["blurred"] > of_labels["student"]  # the distributions of other tokens
