from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentorkd.errors import DamagedError
from mentorkd.files import digest_path
from mentorkd.files.seals import (
    FileSeal,
    Table,
    damage_in,
    read_sealed,
    seal_files,
    seal_folder,
    write_sealed,
    write_sealed_table,
)

VALUE = {"a": 1, "b": [0.1, None, "é\u2028"], "c": {"2": True, "10": ()}, 7: "seven"}


def test_a_sealed_object_comes_back(tmp_path: Path) -> None:
    write_sealed(tmp_path / "x.json", VALUE)
    assert read_sealed(tmp_path / "x.json") == json.loads(json.dumps(VALUE))
    assert "seal" in json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))


def test_an_object_without_a_seal_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert read_sealed(tmp_path / "x.json") == {"a": 1}


def test_no_flipped_bit_changes_a_value(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_sealed(file, VALUE)
    whole, expected, found = file.read_bytes(), read_sealed(file), 0
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        try:
            value = read_sealed(file)
        except DamagedError:
            found += 1
        else:  # white space
            assert value == expected
    assert found > 0.8 * 8 * len(whole)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 100_000, '{"a": 1, "seal": "x"}'])
def test_anything_else_is_damaged(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DamagedError, match=r"x\.json is damaged"):
        read_sealed(tmp_path / "x.json")


def test_damage_to_a_file_is_described(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(random.Random(0).randbytes(3_000_000))
    seal = FileSeal.of(file)
    assert seal.damage(file) is None
    data = bytearray(file.read_bytes())
    data[2_999_999] ^= 1
    file.write_bytes(data)
    assert seal.damage(file) == "has changed since it was written (its SHA-256 differs)"
    file.write_bytes(data[:1_500_000])
    assert seal.damage(file) == "has 1,500,000 bytes, expected 3,000,000"
    file.unlink()
    assert seal.damage(file) == "is missing"


def test_a_sealed_folder_names_what_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x").write_text("abc")
    (folder / "y").write_text("d")
    before = digest_path(folder)
    assert damage_in(folder) is None  # it has no hashes
    seal_folder(folder)
    assert (digest_path(folder), damage_in(folder)) == (before, None)
    assert seal_files(folder).keys() == {"sub/x", "y"}
    (folder / "sub" / "x").write_text("abd")
    assert damage_in(folder) == f"{folder / 'sub' / 'x'} has changed since it was written (its SHA-256 differs)"
    (folder / ".hashes.json").write_text("{")
    assert "is damaged" in str(damage_in(folder))
    assert damage_in(tmp_path / "absent") is None


def test_hashes_in_another_form_are_damage(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    for value in ({"x": "a word"}, {"x": {"size": 1}}):
        write_sealed(tmp_path / ".hashes.json", value)
        assert "is damaged (expected the size and hash of each file)" in (damage_in(tmp_path) or "")


@given(
    st.dictionaries(st.text(max_size=3), st.integers() | st.lists(st.text(max_size=3), max_size=2), max_size=3),
    st.dictionaries(
        st.text(max_size=3), st.dictionaries(st.text(max_size=2), st.none() | st.text(max_size=3), max_size=2)
    ),
    st.sampled_from(["stages", "a", "\u00e9"]),
)
def test_a_table_is_written_and_sealed_as_the_whole_object_is(
    tmp_path_factory: pytest.TempPathFactory, head: dict[str, Any], rows: dict[str, Any], key: str
) -> None:
    folder = tmp_path_factory.mktemp("table")
    head = {name: value for name, value in head.items() if name not in (key, "seal")} | {"name": "run"}
    write_sealed_table(folder / "table.json", head, key, Table(list(rows), rows.__getitem__))
    write_sealed(folder / "whole.json", {**head, key: rows})
    assert (folder / "table.json").read_text() == (folder / "whole.json").read_text()
    assert read_sealed(folder / "table.json") == {**head, key: rows}
