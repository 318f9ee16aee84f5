from __future__ import annotations

import json
import os
import re
import sys
import tracemalloc
from pathlib import Path

import datasets
import pytest

from mentorkd.data.sources import read_rows, source_identity
from mentorkd.errors import DataError, MissingExtraError, RunError, install_command

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "A, or\n“B”?\u2028", "answer": "B"}]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(folder: Path, suffix: str) -> Path:
    path = folder / f"data{suffix}"
    table = datasets.Dataset.from_list(ROWS)
    match suffix:
        case ".json":
            path.write_text(json.dumps(ROWS, indent=2), encoding="utf-8")
        case ".jsonl" | ".ndjson":
            path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n", encoding="utf-8")
        case ".csv" | ".tsv":
            table.to_csv(path, sep="," if suffix == ".csv" else "\t", index=False)
        case ".parquet":
            table.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, suffix))
    assert [dict(row.fields) for row in rows] == ROWS
    assert [row.number for row in rows] == [1, 2]


def test_a_json_file_may_hold_json_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text("".join(json.dumps(row) + "\r\n" for row in ROWS), encoding="utf-8-sig")
    assert [dict(row.fields) for row in read_rows(path)] == ROWS


def test_row_numbers_of_json_lines_are_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert [row.number for row in read_rows(path)] == [2, 4]


def test_a_broken_json_list_names_the_row(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    text = json.dumps([{"input": f"[{i}] {{,", "answer": [i, {"a": "]"}]} for i in range(9)], indent=1)
    path.write_text(text.replace('"answer": [\n   6,', '"answer": [\n   6 6,'))
    with pytest.raises(DataError, match=r"data\.json, row 7 \(line 59\): not JSON \(Expecting ',' delimiter\)"):
        read_rows(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.json", b"[]", "no rows"),
        ("data.json", b"", "no rows"),
        ("data.csv", b"question,answer\n", "no rows"),
        ("data.json", b"[1]", "row 1: got int, expected an object"),
        ("data.json", b'[{"a": 1}, null]', "row 2: got null, expected an object"),
        ("data.json", b'{\n "data": []\n}', "row 1: not JSON .* or a list of them"),
        ("data.json", b'[{"a": 1}, {"a": 1]', r"row 2 \(line 1\): not JSON"),
        ("data.json", b'[{"a": 1}', r"row 2 \(line 1\): not JSON"),
        ("data.json", b"[" + b"9" * 5000 + b"]", "not readable JSON"),
        ("data.jsonl", b'{"a": 1}\n{"a": \n', "row 2: not JSON .*; expected one JSON object a line$"),
        ("data.jsonl", b'{"a": 1}\n"text"\n', "row 2: got str, expected an object"),
        ("data.json", b'[{"a": "\xff"}]', r"not UTF-8 text \(byte 8\)"),
        ("data.csv", b"a,b\n1,2\n1,2,3\n", r"row 2: got 3 cells, expected 2 \(a, b\)"),
        ("data.csv", b"a,b\n1,2\n1\n", "row 2: got 1 cells, expected 2"),
        ("data.csv", b"a,a\n1,2\n", "empty or repeated name"),
        ("data.csv", b"a,\n1,2\n", "empty or repeated name"),
        ("data.csv", b'a,b\n1,2\n1,"2\n', "row 2: not valid CSV"),
        ("data.parquet", b"PAR1", "not a Parquet file"),
        ("data.xlsx", b"", r"unknown file type, expected one of \.json, "),
    ],
)
def test_a_malformed_file_is_one_clear_error(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_and_a_folder_have_different_messages(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file; check the path and `data\.root`"):
        read_rows(tmp_path / "none.json")
    with pytest.raises(DataError, match=f"write hub:{tmp_path} for a Hugging Face data set"):
        read_rows(tmp_path)


def test_a_folder_and_a_pipe_are_named_as_what_they_are(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for read in (read_rows, source_identity):
        with pytest.raises(DataError, match="got a pipe or a device"):
            read(str(tmp_path / "pipe.jsonl"))
        with pytest.raises(DataError, match="got a folder, expected a file"):
            read(str(tmp_path))
    with pytest.raises(RunError, match="is not there; put it back"):
        source_identity(str(tmp_path / "none.json"))


def test_a_hub_name_reads_a_folder_of_data_files(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "train.parquet")
    datasets.Dataset.from_list(ROWS[:1]).to_parquet(tmp_path / "test.parquet")
    assert [dict(row.fields) for row in read_rows(f"hub:{tmp_path}")] == ROWS
    assert [dict(row.fields) for row in read_rows(f"hub:{tmp_path}", split="test")] == ROWS[:1]
    assert len(read_rows(f"hub:{tmp_path}:train", split="test")) == 2
    assert len(read_rows(f"hub:{tmp_path}:train[:1]")) == 1


def test_a_hub_name_chooses_a_configuration(tmp_path: Path) -> None:
    for config, rows in [("main", ROWS), ("small", ROWS[:1])]:
        (tmp_path / config).mkdir()
        datasets.Dataset.from_list(rows).to_json(tmp_path / config / "train.jsonl")
    files = [{"config_name": c, "data_files": f"{c}/train.jsonl"} for c in ("main", "small")]
    (tmp_path / "README.md").write_text(f"---\nconfigs: {json.dumps(files)}\n---\n")
    assert len(read_rows(f"hub:{tmp_path}@main:train")) == 2
    assert len(read_rows(f"hub:{tmp_path}@small")) == 1
    with pytest.raises(DataError, match=r"(?s)Config name is missing.*hub:openai/gsm8k@main:train"):
        read_rows(f"hub:{tmp_path}:train")


def test_a_hub_name_reads_what_save_to_disk_made(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": table, "dev": table}).save_to_disk(tmp_path / "two")
    assert [dict(row.fields) for row in read_rows(f"hub:{tmp_path / 'one'}")] == ROWS
    assert len(read_rows(f"hub:{tmp_path / 'two'}:dev")) == 2
    with pytest.raises(DataError, match="no split `test`, expected one of train, dev"):
        read_rows(f"hub:{tmp_path / 'two'}:test")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:", r"expected hub:NAME\[@CONFIG\]\[:SPLIT\]"),
        ("hub:a@b@c", r"expected hub:NAME\[@CONFIG\]\[:SPLIT\]"),
        ("hub:/nowhere/at/all", "no folder /nowhere/at/all"),
    ],
)
def test_a_bad_hub_name_is_a_clear_error(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(name)


def test_an_unknown_split_is_a_clear_error(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"cannot load the split `test` .*train"):
        read_rows(f"hub:{tmp_path}:test")


@pytest.mark.parametrize(("source", "module"), [("hub:x/y", "datasets"), ("data.parquet", "pyarrow")])
def test_a_missing_extra_says_how_to_install_it(
    source: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    Path("data.parquet").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=re.escape(install_command("data"))):
        read_rows(source)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_rows_can_be_read_again(suffix: str, tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, suffix))
    assert [list(row.fields.items()) for row in rows] == [list(row.fields.items()) for row in rows]
    assert (len(rows), rows.names, rows.first.number) == (2, ["question", "answer"], 1)


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.csv"])
def test_a_file_is_never_all_in_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    line = "question,answer\n" if name == "data.csv" else json.dumps({"question": "q" * 400, "answer": "1"}) + "\n"
    path.write_text(line + (f"{'q' * 400},1\n" if name == "data.csv" else line) * 5000)
    tracemalloc.start()
    rows = read_rows(path)
    count = sum(1 for _ in rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == len(rows) >= 5000
    assert peak < path.stat().st_size / 10


def test_the_byte_that_is_not_text_is_named_far_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 5000 + b'"\xff"\n')
    with pytest.raises(DataError, match=r"not UTF-8 text \(byte 45001\)"):
        read_rows(path)
