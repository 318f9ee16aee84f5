from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest
import yaml

from finished import copy_run
from mentorkd.data.overlay import Decision, append_decision
from mentorkd.pipeline.live import LIVE_NAME, LiveFile
from mentorkd.pipeline.opened import OpenedRun
from mentorkd.pipeline.run import open_run
from mentorkd.pipeline.run_folder import RunFolder, Stage
from mentorkd.web.answers import read_answers
from mentorkd.web.live import fingerprint_of, read_state
from web_client import web_client

TRAIN, EVALUATE = "learners/student/seed-1/train", "learners/student/seed-1/evaluate"


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    """A finished run of its own."""
    return copy_run(small_run / "run", tmp_path / "run")


def forget(run: Path, *stages: str) -> None:
    for stage in stages:
        RunFolder(run).mark(stage).unlink()


def started(run: Path, stage: str, seconds_ago: float) -> None:
    with (run / "log.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time() - seconds_ago, "event": "started", "stage": stage}) + "\n")


def test_a_finished_run(run: Path) -> None:
    state = read_state(OpenedRun(run))
    assert (state.state, state.left, state.unknown, state.stopped) == ("finished", None, 0, None)
    assert {row.state for row in state.stages} == {"done"}
    records = OpenedRun(run).records.values()
    assert state.seconds == pytest.approx(sum(record.seconds for record in records))
    assert state.tokens == sum(record.tokens or 0 for record in records)
    assert [line.text for line in state.log][-2] == "started"
    assert state.log[-1].text.startswith("finished after ")


def test_a_run_that_was_stopped_says_why_and_what_is_next(run: Path) -> None:
    forget(run, TRAIN, EVALUATE, "report")
    LiveFile(run).end(stopped="the disk is full")
    state = read_state(OpenedRun(run))
    assert (state.state, state.stopped) == ("stopped", "the disk is full")
    states = {row.stage: row.state for row in state.stages}
    assert [states[stage] for stage in (TRAIN, EVALUATE, "report")] == ["next", "waits", "waits"]
    left = {row.stage: row.left for row in state.stages}
    records = OpenedRun(run).records
    others = [records[f"learners/{name}/seed-1/train"].seconds for name in ("mentor", "vanilla")]
    assert left[TRAIN] == pytest.approx(sum(others) / 2)
    assert left["report"] is None  # no report has ever finished
    assert (state.left, state.unknown) == (pytest.approx(left[TRAIN] + left[EVALUATE]), 1)  # type: ignore[operator]


def test_a_running_stage_is_projected_by_its_own_progress(run: Path) -> None:
    forget(run, TRAIN, EVALUATE, "report")
    with RunFolder(run).lock():
        started(run, EVALUATE, 50)  # of an earlier process, which is not taken for a running one
        os.utime(run / "recipe.yaml", (time.time() - 40,) * 2)
        started(run, TRAIN, 30)
        log = (run / "log.jsonl").read_text().splitlines()
        (run / "log.jsonl").write_text("\n".join([*log[:-2], log[-1], '{"time": 17']))
        steps = {"progress": {TRAIN: [20, 40, 10]}, "notes": [], "stopped": None}  # it resumed at step 10
        (run / LIVE_NAME).write_text(json.dumps(steps))
        state = read_state(OpenedRun(run))
    assert state.state == "running"
    row = next(row for row in state.stages if row.stage == TRAIN)
    assert (row.state, row.done, row.total) == ("running", 20, 40)
    assert row.started == pytest.approx(time.time() - 30, abs=5)
    assert row.left == pytest.approx(60, abs=10)
    assert [row.state for row in state.stages if row.stage == EVALUATE] == ["waits"]
    assert read_state(OpenedRun(run)).state == "stopped"  # its process has ended


def test_what_a_page_shows_has_a_fingerprint(run: Path) -> None:
    seen = [fingerprint_of(run)]
    assert fingerprint_of(run) == seen[0]
    started(run, TRAIN, 0)
    seen.append(fingerprint_of(run))
    LiveFile(run).note("a note", Stage(TRAIN, "train", "", {}, ""))
    seen.append(fingerprint_of(run))
    (run / ".work" / "x@1").mkdir(parents=True)
    seen.append(fingerprint_of(run))
    (run / ".work" / "x@1" / "history.jsonl").write_text("{}\n")
    seen.append(fingerprint_of(run))
    with RunFolder(run).lock():
        seen.append(fingerprint_of(run))
    assert len(set(seen)) == len(seen)


def test_a_run_without_its_data_shows_what_is_finished(run: Path) -> None:
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(re.sub("root: .*", "root: /nowhere", recipe))
    opened = OpenedRun(run)
    assert opened.fault is not None
    assert "/nowhere" in opened.fault
    assert read_state(opened).state == "finished"
    assert len(opened.records) == 13
    assert opened.stage("train", "student", 1) == TRAIN
    assert opened.stage("evaluate", "student", 2) is None
    forget(run, "report")
    assert read_state(OpenedRun(run)).state == "stopped"


def test_a_decision_leaves_a_finished_run_as_it_is(run: Path) -> None:
    """The page shows what was published, and says what the next `mentorkd run` does again."""
    pipeline = open_run(run)
    overlay = run.parent / "curated.jsonl"
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["teacher"]["overlay"] = str(overlay)
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    curves = web_client(run).get("/run/run/").text.count("<polyline")
    before, was = read_state(OpenedRun(run)), OpenedRun(run)
    rationale = next(iter(pipeline.folder.rationales("annotate")))
    append_decision(overlay, Decision.on(rationale, "reject", by="me", why=""))
    opened = OpenedRun(run)
    after = read_state(opened)
    assert len(opened.records) < len(was.records) == len(opened.published) == 13
    assert (after.state, after.seconds, after.tokens) == ("finished", before.seconds, before.tokens)
    assert before.again is None
    assert re.fullmatch("[0-9]+ stages run again at the next `mentorkd run`: 1 decision waits", after.again or "")
    assert [opened.stage(kind, "student", 1) for kind in ("train", "evaluate")] == [TRAIN, EVALUATE]
    assert read_answers(opened).learners == read_answers(was).learners == ["mentor", "vanilla", "student"]
    page = web_client(run).get("/run/run/").text
    assert page.count("<polyline") == curves > 0
    assert "1 decision waits" in page
    LiveFile(run).end(stopped="the disk is full")
    assert read_state(OpenedRun(run)).state == "stopped"
