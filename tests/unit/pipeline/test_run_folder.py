from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mentorkd.errors import DamagedError, RunError
from mentorkd.files import digest_path, fingerprint, write_json
from mentorkd.hub import HubModels
from mentorkd.pipeline import run_folder
from mentorkd.pipeline.records import EvaluateRecord
from mentorkd.pipeline.run_folder import STATUS, RunFolder, Stage, copy_at_rest, sealed

RECORD = EvaluateRecord(predictions={"correct": 1}, engine="transformers")


def stage(mark: str = "f1", name: str = "learners/a/seed-1/train") -> Stage:
    return Stage(name, "evaluate", "learners/a/seed-1", {}, mark)


def make(folder: RunFolder, which: Stage, **files: str) -> None:
    workdir = folder.begin(which)
    for name, text in files.items():
        (workdir / "out" / name).write_text(text)
    folder.publish(which, workdir, sealed(RECORD, which, workdir))


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


def test_the_characters_of_patterns_in_a_name_mean_themselves(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        folder.begin(stage(name="learners/a[1]/train"))
        assert folder.begun(stage(name="learners/a[1]/train"))
        assert not folder.begun(stage(name="learners/?[1]/train"))


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


def test_a_changed_mark_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        make(folder, stage(), metrics="1")
    mark = folder.mark(stage().name)
    mark.write_text(mark.read_text().replace('"correct": 1', '"correct": 3'))
    with pytest.raises(DamagedError, match=r"its seal differs.*remove it and the stage"):
        folder.record(stage().name)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"seal": 1}'])
def test_a_damaged_commit_is_told_once_and_its_stage_goes_on(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        (folder.begin(stage()) / "checkpoint").write_text("half")
        (folder.begin(stage()) / "commit.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with RunFolder(tmp_path).lock():
                assert (RunFolder(tmp_path).begin(stage()) / "checkpoint").read_text() == "half"
    assert ["commit.json is damaged" in record.getMessage() for record in caplog.records] == [True]
    assert folder.finished(stage()) is None


def test_outputs_reach_the_disk_before_the_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, events = RunFolder(tmp_path), []
    for name in ("sync", "sync_one", "write_sealed"):
        real = getattr(run_folder, name)

        def called(path: Path, *rest: Any, name: str = name, real: Any = real) -> None:
            events.append((name, path.relative_to(tmp_path).parts[-1] if path != tmp_path else "."))
            real(path, *rest)

        monkeypatch.setattr(run_folder, name, called)
    with folder.lock():
        make(folder, stage(), metrics="1")
    assert events == [
        ("sync", "out"),
        ("write_sealed", "commit.json"),
        *[("sync_one", part) for part in ("seed-1", "a", "learners", ".")],
        ("sync_one", ".stages"),
    ]


def test_a_mark_names_every_file_with_its_size_and_hash(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        workdir = folder.begin(stage())
        (workdir / "out" / "model" / "sub").mkdir(parents=True)
        (workdir / "out" / "model" / "sub" / "x").write_text("abc")
        (workdir / "out" / "empty").write_text("")
        folder.publish(stage(), workdir, sealed(RECORD, stage(), workdir))
    files = folder.record(stage().name).files
    assert files is not None
    assert {name: seal.bytes for name, seal in files.items()} == {"model/sub/x": 3, "empty": 0}
    assert files["model/sub/x"].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_changed_output_is_refused_when_it_is_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        make(folder, stage(), **{"rationales.jsonl": "", "metrics.jsonl": '{"step": 1}\n'})
    assert folder.metrics(stage().name) == [{"step": 1}]
    file = tmp_path / "learners/a/seed-1/metrics.jsonl"
    file.write_text('{"step": 2}\n')
    with pytest.raises(DamagedError, match="has changed since it was written"):
        RunFolder(tmp_path).metrics(stage().name)
    assert RunFolder(tmp_path, verify=False).metrics(stage().name) == [{"step": 2}]
    file.unlink()
    assert RunFolder(tmp_path).finished(stage()) is None


def test_a_torn_log_of_a_training_without_a_hash_is_told(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, verify=False)
    with folder.lock():
        make(folder, stage(), **{"metrics.jsonl": '{"step": 1}\n{"st'})
    with pytest.raises(DamagedError, match=r"metrics.jsonl is damaged \(no JSON\); remove it"):
        folder.metrics(stage().name)


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


@pytest.mark.parametrize("key", ["sdal", "more"])
def test_damaged_knowledge_of_hub_models_is_told_with_what_to_do(key: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        folder.keep_hub_models(HubModels({"a/b@main": ["c" * 40]}))
    file = folder.known_hub_models
    text = file.read_text()
    if key == "sdal":  # a flipped bit in the name of the seal's key
        file.write_text(text.replace('"seal"', '"sdal"'))
    else:
        write_json(file, {"more": 1})
    with pytest.raises(DamagedError, match=r"hub.json is damaged \(.*\); remove it and `mentorkd run` records"):
        _ = folder.hub_models


def test_an_attempt_elsewhere_is_never_shared(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        first = folder.begin(stage(), remote=True)
        (first / "journal").write_text("a")
        (first / STATUS).write_text("where the first attempt runs")
        lost = (first / "journal").open("a")
        second = folder.begin(stage(), remote=True)
        assert second != first
        assert not (second / STATUS).exists()
        assert (second / "journal").read_text() == "a"
        lost.write("b")  # a lost machine came back
        lost.close()
        assert (second / "journal").read_text() == "a"
        (second / "out" / "x").write_text("x")
        folder.publish(stage(), second, sealed(RECORD, stage(), second))
    assert not any((tmp_path / ".work").iterdir())
    assert (tmp_path / "learners/a/seed-1/x").read_text() == "x"


def test_an_attempt_here_goes_on_in_a_copy_of_one_elsewhere(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        elsewhere = folder.begin(stage(), remote=True)
        (elsewhere / "journal").write_text("a")
        here = folder.begin(stage())
        assert here != elsewhere
        assert (here / "journal").read_text() == "a"
        assert folder.begin(stage()) == here
        assert folder.begun(stage())


def test_of_a_folder_that_is_written_to_the_checkpoints_alone_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, copy = tmp_path / "old", shutil.copytree
    (old / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    (old / "checkpoints" / "checkpoint-5" / "weights").write_text("w")
    (old / "store").write_text("a")

    def copy_while_it_grows(source: Path, target: Path, *more: Any, **options: Any) -> None:
        copy(source, target, *more, **options)
        with (old / "store").open("a") as file:
            file.write("b")

    monkeypatch.setattr(shutil, "copytree", copy_while_it_grows)
    copy_at_rest(old, tmp_path / "new")
    made = [file.relative_to(tmp_path / "new").as_posix() for file in (tmp_path / "new").rglob("*") if file.is_file()]
    assert made == ["checkpoints/checkpoint-5/weights"]


def test_a_status_that_is_written_again_and_again_does_not_hinder_a_copy(tmp_path: Path) -> None:
    old, done = tmp_path / "old", threading.Event()
    old.mkdir()
    (old / "journal").write_text("a")

    def write() -> None:
        while not done.is_set():
            (old / STATUS).write_text(str(time.monotonic_ns()))

    writer = threading.Thread(target=write)
    writer.start()
    copy_at_rest(old, tmp_path / "new")
    done.set()
    writer.join()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["journal"]


def test_the_name_of_an_attempt_elsewhere_never_comes_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.lock():
        first = folder.begin(stage(), remote=True)
        folder.publish(stage(), first, sealed(RECORD, stage(), first))
        folder.forget(stage())
        assert folder.begin(stage(), remote=True) != first


def test_a_look_at_the_lock_tells_who_holds_it_and_disturbs_nobody(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.is_running()
    assert not list(tmp_path.iterdir())
    with folder.lock():
        assert RunFolder(tmp_path).is_running()
    assert not folder.is_running()
    looking, ended = threading.Event(), threading.Event()

    def look() -> None:
        while not ended.is_set():
            folder.is_running()
            looking.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        assert looking.wait(5)
        for _ in range(20):
            with RunFolder(tmp_path).lock():
                pass
    finally:
        ended.set()
        watcher.join()
