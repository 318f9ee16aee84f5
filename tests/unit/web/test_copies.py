"""Copies of tables in the user's cache: made once, whole or not there, and the oldest removed."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("duckdb", reason="duckdb is installed by pip install 'mentorkd[view]'")

import duckdb

from made_up_written import made_up_written, opened, run_file
from mentorkd.errors import DamagedError
from mentorkd.web import copies
from mentorkd.web.copies import Making, Tables, cache_folder, remove_oldest, write_copy
from mentorkd.web.table import RationaleTable, View


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(copies, "IN_MEMORY", 0)
    return tmp_path / "cache"


def test_a_copy_is_made_once_for_equal_files(cache: Path, tmp_path: Path) -> None:
    written, *_ = made_up_written(tmp_path)
    making = Making(written, cache / written.key)
    assert 0 <= making.progress <= 1
    making.wait()
    assert making.error is None
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [written.key]
    table = Tables(cache).get(written)
    assert isinstance(table, RationaleTable)
    assert len(table.order(View())) == 40
    tables = Tables(cache)
    assert tables.get(written) is tables.get(written)


def test_the_key_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    written, other = made_up_written(tmp_path)[0], made_up_written(tmp_path / "b")[0]
    assert written.key == other.key
    file = other.readers[0].selection.path
    file.write_text(file.read_text() + "\n")
    changed = replace(other, readers=[replace(other.readers[0], selection=run_file(file))])
    assert written.key != changed.key
    assert written.key != replace(written, curated=None).key


def test_several_makers_at_once_make_one_copy(cache: Path, tmp_path: Path) -> None:
    written, *_ = made_up_written(tmp_path)
    steps: list[str] = []
    makers = [
        threading.Thread(target=write_copy, args=(written, cache / written.key, duckdb.connect(), steps.append))
        for _ in range(4)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert steps == ["texts", "questions", "facts"]
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [written.key]


def test_what_fails_is_told_and_tried_again(cache: Path, tmp_path: Path) -> None:
    written, *_ = made_up_written(tmp_path)
    file = written.texts[1].file.path
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    tables = Tables(cache)
    with pytest.raises(DamagedError, match=r"mentor-1.jsonl has"):
        opened(tables, written)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    file.write_bytes(content)
    assert len(opened(tables, written)) == 40


@pytest.mark.parametrize("name", ["facts.parquet", "texts.arrow", "questions.arrow", "starts.npz"])
@pytest.mark.parametrize("kept", [0, 0.5, -1])
def test_a_copy_that_cannot_be_read_is_made_again(cache: Path, tmp_path: Path, name: str, kept: float) -> None:
    written, *_ = made_up_written(tmp_path)
    opened(Tables(cache), written)
    file = cache / written.key / name
    whole = file.read_bytes()
    if kept < 0:
        file.unlink()
    else:
        file.write_bytes(whole[: int(kept * len(whole))])
    tables = Tables(cache)
    assert isinstance(tables.get(written), Making)
    assert len(opened(tables, written).order(View(search="apples"))) > 0
    assert file.stat().st_size > 0


def test_facts_that_are_damaged_inside_are_made_again(cache: Path, tmp_path: Path) -> None:
    written, *_ = made_up_written(tmp_path)
    opened(Tables(cache), written)
    file = cache / written.key / "facts.parquet"
    whole = bytearray(file.read_bytes())
    whole[4:400] = bytes(396)
    file.write_bytes(whole)
    assert isinstance(Tables(cache).get(written), Making)


def test_a_copy_of_files_that_have_changed_is_not_opened(cache: Path, tmp_path: Path) -> None:
    written, *_ = made_up_written(tmp_path)
    opened(Tables(cache), written)
    file = written.readers[0].selection.path
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(DamagedError, match=r"selection.jsonl has .* bytes, expected"):
        Tables(cache).get(written)
    assert (cache / written.key).is_dir()


def test_the_copies_that_were_not_used_for_longest_are_removed(tmp_path: Path) -> None:
    for number, name in enumerate(("first", "second", "third", ".half.tmp", ".old.tmp")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "facts.parquet").write_bytes(b"x" * 100)
        if name != ".half.tmp":
            os.utime(tmp_path / name, (number, number))
    remove_oldest(tmp_path, keep=tmp_path / "first", most=200)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".half.tmp", "first", "third"]


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mentorkd" / "tables"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mentorkd" / "tables"
