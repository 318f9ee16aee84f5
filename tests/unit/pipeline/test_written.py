"""What a run's teacher and learners wrote, as files: of a finished run, of one that goes on, and of one whose recipe has changed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from finished import copy_run
from mentorkd.data.overlay import Decision, append_decision
from mentorkd.errors import DamagedError, RunError
from mentorkd.files.seals import read_sealed, write_sealed
from mentorkd.pipeline.opened import OpenedRun
from mentorkd.pipeline.records import TrainRecord
from mentorkd.pipeline.run import open_run
from mentorkd.pipeline.run_folder import RunFolder
from mentorkd.pipeline.written import Written, find_written
from mentorkd.recipe.load import dump_recipe
from mentorkd.records import Rationale, read_jsonl

LEARNERS = ["mentor@seed-1", "vanilla@seed-1", "student@seed-1"]


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return copy_run(small_run / "run", tmp_path / "run")


def written(run: Path) -> Written:
    return find_written(OpenedRun(run))


def forget(run: Path, *stages: str) -> None:
    folder = RunFolder(run)
    for stage in stages:
        folder.mark(stage).unlink()


def with_overlay(run: Path) -> Path:
    """Give the run's recipe an overlay."""
    recipe = open_run(run).recipe
    overlay = run.parent / "curated.jsonl"
    teacher = recipe.teacher.model_copy(update={"overlay": str(overlay)})
    (run / "recipe.yaml").write_text(dump_recipe(recipe.model_copy(update={"teacher": teacher})))
    return overlay


def test_a_file_that_is_missing_is_not_to_be_removed(run: Path) -> None:
    file = written(run).texts[0].file
    file.path.unlink()
    with pytest.raises(DamagedError, match=r"rationales.jsonl is missing; `mentorkd run` makes it again"):
        file.check()


def test_a_finished_run(run: Path) -> None:
    found = written(run)
    assert [(text.author.name, text.rows) for text in found.texts] == [("teacher", 48), ("mentor@seed-1", 80)]
    assert [reader.name for reader in found.readers] == LEARNERS
    assert [sorted(reader.reads) for reader in found.readers] == [[0], [0], [0, 1]]
    assert (found.curated, found.without_log, found.rows) == (None, [], 128)
    for text in found.texts:
        text.file.check()


def test_a_run_that_goes_on_has_what_is_finished(run: Path) -> None:
    forget(run, "report", *(f"learners/{name}/seed-1/train" for name in ("vanilla", "student")))
    assert [reader.name for reader in written(run).readers] == LEARNERS[:1]
    forget(run, "learners/mentor/seed-1/augment")
    assert [text.author.name for text in written(run).texts] == ["teacher"]
    forget(run, "annotate")
    with pytest.raises(RunError, match="has no rationales yet; the first come with the stage annotate"):
        written(run)


def test_decisions_that_wait_leave_what_the_last_run_made(run: Path) -> None:
    overlay, before = with_overlay(run), written(run)
    rationale = read_jsonl(run / "teacher" / "rationales.jsonl", Rationale)[0]
    append_decision(overlay, Decision.on(rationale, "reject", by="ann", why=""))
    assert written(run) == before
    open_run(run).run(until="curate")
    after = written(run)
    assert after.curated is not None
    assert [(reader.name, reader.curated) for reader in after.readers] == [(name, False) for name in LEARNERS]
    assert after.key != before.key


def test_learners_that_read_other_texts_than_those_of_now_are_left_out(run: Path) -> None:
    folder = RunFolder(run)
    raw = yaml.safe_load((run / "recipe.yaml").read_text())
    raw["learners"]["student"]["training"]["epochs"] += 1
    (run / "recipe.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    assert [
        reader.name for reader in written(run).readers
    ] == LEARNERS  # trained with other settings, on the same texts
    later = folder.mark("learners/student/seed-1/train").stat().st_mtime_ns + 10**9
    os.utime(folder.mark("learners/mentor/seed-1/augment"), ns=(later, later))
    assert [reader.name for reader in written(run).readers] == LEARNERS[:2]


def test_a_training_of_an_earlier_version_has_no_log(run: Path) -> None:
    mark = RunFolder(run).mark("learners/vanilla/seed-1/train")
    record = read_sealed(mark)
    record["outputs"].remove("selection.jsonl")
    write_sealed(mark, record)
    found = written(run)
    assert [reader.name for reader in found.readers] == [LEARNERS[0], LEARNERS[2]]
    assert found.without_log == [LEARNERS[1]]


def test_the_log_of_a_search_is_that_of_its_best_trial(run: Path) -> None:
    """Without a training: the marks of a search and its trials, made of the student's."""
    folder, name = RunFolder(run), "learners/student/seed-1"
    trained = folder.record_of(TrainRecord, f"{name}/train")
    trials = [f"{name}/trials/kd_weight={weight}/train" for weight in (0.3, 0.5)]
    for trial in trials:
        write_sealed(folder.mark(trial), replace(trained, stage=trial).as_json())
    tried = [{"values": {"kd_weight": weight}, "validation_accuracy": 0.0} for weight in (0.3, 0.5)]
    fields = {"kind": "search", "stage": f"{name}/search", "needs": trials}
    fields["search"] = {"tried": tried, "chosen": {"kd_weight": 0.5}}  # type: ignore[assignment]
    write_sealed(folder.mark(f"{name}/search"), json.loads(json.dumps(trained.as_json() | fields)))
    forget(run, f"{name}/train")
    raw = yaml.safe_load((run / "recipe.yaml").read_text())
    raw["learners"]["student"]["search"] = {"kd_weight": [0.3, 0.5]}
    raw["learners"]["vanilla"]["search"] = {"learning_rate": [0.01, 0.003]}
    (run / "recipe.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    student = next(reader for reader in written(run).readers if reader.learner == "student")
    assert student.training == trials[1]
    assert student.reads == {0, 1}
