from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from mentorkd.errors import RunError
from mentorkd.files import digest_path, fingerprint, write_json
from mentorkd.pipeline.records import EvaluateRecord
from mentorkd.pipeline.run_folder import RunFolder, Stage

RECORD = EvaluateRecord(predictions={"correct": 1}, engine="transformers")


def stage(mark: str = "f1", name: str = "learners/a/seed-1/train") -> Stage:
    return Stage(name, "evaluate", "learners/a/seed-1", {}, mark)


def make(folder: RunFolder, which: Stage, **files: str) -> None:
    workdir = folder.begin(which)
    for name, text in files.items():
        (workdir / "out" / name).write_text(text)
    folder.publish(which, RECORD)


def test_a_fingerprint_ignores_the_order_of_keys_and_sees_every_value() -> None:
    assert fingerprint({"a": 1, "b": [2, None]}) == fingerprint({"b": [2, None], "a": 1})
    marks = {fingerprint(v) for v in ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": True}, {"a": None}, {"b": 1}, [1], "1")}
    assert len(marks) == 8


@pytest.mark.parametrize("value", [{1, 2}, Path("x"), object(), float("nan"), {"a": b"x"}])
def test_a_fingerprint_refuses_what_has_no_stable_form(value: Any) -> None:
    with pytest.raises(RunError, match="cannot fingerprint"):
        fingerprint(value)


def test_a_folder_digest_sees_content_and_names_but_not_the_readme(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = digest_path(tmp_path)
    (tmp_path / "README.md").write_text("hello")
    assert digest_path(tmp_path) == before
    (tmp_path / "config.json").write_text("{ }")
    assert digest_path(tmp_path) != before


def test_a_published_stage_is_finished_under_its_own_fingerprint_only(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        make(folder, stage("f1"), metrics="1")
    record = folder.finished(stage("f1"))
    assert record is not None
    assert record.outputs == ["metrics"]
    assert folder.finished(stage("f2")) is None
    assert (tmp_path / "learners/a/seed-1/metrics").read_text() == "1"
    assert not any((tmp_path / ".work").iterdir())


def test_publishing_again_replaces_outputs(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        make(folder, stage("f1"), metrics="1")
        make(folder, stage("f2"), metrics="2")
    assert folder.finished(stage("f1")) is None
    assert folder.finished(stage("f2")) is not None
    assert (tmp_path / "learners/a/seed-1/metrics").read_text() == "2"


def test_a_missing_output_makes_a_stage_unfinished(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        make(folder, stage(), metrics="1")
    (tmp_path / "learners/a/seed-1/metrics").unlink()
    assert folder.finished(stage()) is None


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_commit_is_rolled_forward_after_a_kill_at_any_point(tmp_path: Path, moved: int) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        make(folder, stage("f1"), a="old", b="old")
        workdir = folder.begin(stage("f2"))
        for name in ("a", "b"):
            (workdir / "out" / name).write_text("new")
        about = {"stage": stage().name, "fingerprint": "f2", "target": "learners/a/seed-1", "outputs": ["a", "b"]}
        write_json(workdir / "commit.json", RECORD.as_json() | about)
        for name in ("a", "b")[:moved]:  # the kill came after so many outputs were moved
            (tmp_path / "learners/a/seed-1" / name).unlink()
            (workdir / "out" / name).rename(tmp_path / "learners/a/seed-1" / name)
    with folder.lock():
        assert folder.finished(stage("f2")) is not None
    assert {(tmp_path / "learners/a/seed-1" / name).read_text() for name in ("a", "b")} == {"new"}


def test_unpublished_work_is_handed_out_again_and_other_fingerprints_are_cleared(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        (folder.begin(stage("f1")) / "checkpoint").write_text("half")
        assert folder.begun(stage("f1"))
        assert (folder.begin(stage("f1")) / "checkpoint").read_text() == "half"
        assert not (folder.begin(stage("f2")) / "checkpoint").exists()
        assert not folder.begun(stage("f1"))


def test_names_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        (folder.begin(stage(name="learners/a/seed-1/train")) / "x").write_text("1")
        folder.begin(stage(name="learners/a/seed-1/tra"))
        assert folder.begun(stage(name="learners/a/seed-1/train"))


def test_forgetting_a_stage_makes_it_run_from_its_beginning(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        make(folder, stage(), metrics="1")
        folder.begin(stage())
        folder.forget(stage())
    assert folder.finished(stage()) is None
    assert not folder.begun(stage())


def test_a_damaged_mark_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        make(folder, stage(), metrics="1")
    next((tmp_path / ".stages").glob("*.json")).write_text("{")
    with pytest.raises(RunError, match="remove it and the stage"):
        folder.finished(stage())


def test_a_mark_of_another_version_is_there_and_not_finished(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        make(folder, stage(), metrics="1")
    write_json(folder.mark(stage().name), {"kind": "evaluate", "fingerprint": "f1", "target": "", "outputs": []})
    assert folder.finished(stage()) is None
    with pytest.raises(RunError, match="is not finished yet"):
        folder.record(stage().name)


def _hold(path: str, held: Any, release: Any) -> None:
    with RunFolder(Path(path)).lock():
        held.set()
        release.wait(30)


def test_two_processes_never_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), held, release))
    other.start()
    try:
        assert held.wait(30)
        with pytest.raises(RunError, match="another process is writing"), RunFolder(tmp_path).lock():
            pass
    finally:
        release.set()
        other.join()
    with RunFolder(tmp_path).lock():
        pass


def test_events_are_json_lines(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.log("started", stage="prepare")
    folder.log("finished", stage="prepare", seconds=1.5)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["event"] for row in rows] == ["started", "finished"]
