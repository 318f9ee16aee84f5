from __future__ import annotations

from pathlib import Path

import pytest

from mentorkd.pipeline import live as live_file
from mentorkd.pipeline.live import LIVE_NAME, Live, LiveFile, read_live
from mentorkd.pipeline.run_folder import Stage

TRAIN = Stage("learners/a/seed-1/train", "train", "", {}, "")


def test_progress_is_written_once_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(live_file.time, "monotonic", lambda: now)
    file = LiveFile(tmp_path)
    for done in range(3, 6):
        file.progress(TRAIN, done, 9)
    assert read_live(tmp_path).progress == {TRAIN.name: (3, 9, 3)}
    now = 101.5
    file.progress(TRAIN, 8, 9)
    assert read_live(tmp_path).progress == {TRAIN.name: (8, 9, 3)}


def test_notes_and_the_end_are_written_at_once(tmp_path: Path) -> None:
    file = LiveFile(tmp_path)
    file.progress(TRAIN, 1, 2)
    file.note("3 rows are too long", TRAIN)
    [(_, stage, text)] = read_live(tmp_path).notes
    assert (stage, text) == (TRAIN.name, "3 rows are too long")
    file.finished(TRAIN)
    file.end(stopped="the disk is full")
    seen = read_live(tmp_path)
    assert (seen.progress, seen.stopped, len(seen.notes)) == ({}, "the disk is full", 1)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"progress": {"a": [1]}, "notes": [], "stopped": null}'])
def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / LIVE_NAME).write_text(text)
    assert read_live(tmp_path) == Live()


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    LiveFile(tmp_path / "missing").note("lost", TRAIN)
