"""Copies on a node's own disk: made once, and checked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from made_up_records import train_record
from mentorkd.errors import DamagedError
from mentorkd.files.seals import seal_files
from mentorkd.pipeline.records import ScoreRecord
from mentorkd.pipeline.run_folder import RunFolder, Stage, sealed
from mentorkd.pipeline.scratch import Scratch


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "weights").write_bytes(b"w" * 1000)
    (tmp_path / "model" / "sub" / "config.json").write_text("{}")
    return tmp_path / "model"


def test_a_copy_is_made_once_and_equals_its_source(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, seals = Scratch(tmp_path / "local"), seal_files(source)
    copied = scratch.copy(source, "train@f1", seals)
    assert seal_files(copied) == seals
    monkeypatch.setattr(shutil, "copytree", lambda *_: pytest.fail("copied again"))
    assert scratch.copy(source, "train@f1", seals) == copied


def test_copies_of_other_content_lie_apart(source: Path, tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "local")
    first = scratch.copy(source, "train@f1", {})
    (source / "weights").write_bytes(b"v" * 1000)
    second = scratch.copy(source, "train@f2", {})
    assert (first / "weights").read_bytes() != (second / "weights").read_bytes()


@pytest.mark.parametrize(
    ("seals", "damaged", "message"), [(True, b"x" * 1000, "SHA-256 differs"), (False, b"x" * 9, "has 9 bytes")]
)
def test_a_damaged_copy_is_refused_and_made_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seals: bool, damaged: bytes, message: str
) -> None:
    scratch, expected = Scratch(tmp_path / "local"), seal_files(source) if seals else {}
    copytree = shutil.copytree

    def copy_badly(old: Path, new: Path, *more: Any) -> None:
        copytree(old, new, *more)  # which calls itself for each folder
        if (Path(new) / "weights").exists():
            (Path(new) / "weights").write_bytes(damaged)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", copy_badly)
        with pytest.raises(DamagedError, match=message):
            scratch.copy(source, "train@f1", expected)
    assert seal_files(scratch.copy(source, "train@f1", expected)) == seal_files(source)


def test_a_run_folder_reads_models_and_soft_labels_from_copies(tmp_path: Path) -> None:
    here = RunFolder(tmp_path / "run")
    train = Stage("learners/a/seed-1/train", "train", "learners/a/seed-1", {}, "f1")
    score = Stage("learners/a/seed-1/score/x", "score", "learners/a/seed-1/soft_labels", {}, "f2")
    made = [(train, "model/weights", train_record()), (score, "x/data", ScoreRecord(rows=1, form="hidden", bytes=1))]
    with here.lock():
        for stage, output, record in made:
            workdir = here.begin(stage)
            (workdir / "out" / output).parent.mkdir()
            (workdir / "out" / output).write_text("content")
            here.publish(stage, workdir, sealed(record, stage, workdir))
    on_node = RunFolder(tmp_path / "run", scratch=Scratch(tmp_path / "local"))
    for place in (on_node.model(train.name) / "weights", on_node.soft_labels(score.name) / "data"):
        assert place.is_relative_to(tmp_path / "local")
        assert place.read_text() == "content"
    assert here.model(train.name).is_relative_to(tmp_path / "run")
