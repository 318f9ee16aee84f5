"""Rows on the disk are the list that they were made of, without its memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from tempfile import gettempdir

import pytest

from mentorkd.data.encoding import Example
from mentorkd.data.rows import Rows, choose, where
from mentorkd.errors import DataError, MachineError, explaining
from mentorkd.records import Rationale, write_jsonl

EXAMPLES = [
    Example("r0", [1, 2], [3, 1], group="q", task="explain", answer=(0, 1), source="teacher", weight=0.3),
    Example("r1", [70_000], [5, 6, 1]),
    Example("r2 ü", [], [1]),
]
RATIONALES = [
    Rationale.create(
        f"q{n // 2}", f"text {n}\u2028 ü", str(n), "correct", "teacher", n % 2, {"row": n, "p": [None, -0.5]}
    )
    for n in range(6)
]


def test_rows_are_the_objects_that_were_written() -> None:
    rows = Rows.of(Example, iter(EXAMPLES))
    assert list(rows) == EXAMPLES == [rows[n] for n in range(len(rows))]
    assert rows[-1] == EXAMPLES[-1]
    with pytest.raises(IndexError):
        rows[3]
    assert not Rows.of(Example, [])
    assert list(Rows.of(Example, [])) == []


def test_slices_and_choices_are_rows_of_the_same_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "r.jsonl", RATIONALES)
    rows = Rows.of_jsonl(tmp_path / "r.jsonl", Rationale)
    (tmp_path / "r.jsonl").unlink()
    assert list(rows[1:5:2]) == RATIONALES[1:5:2]
    assert list(rows.at([4, 0])) == [RATIONALES[4], RATIONALES[0]]
    assert list(rows[1:].at([0, 3])[1:]) == [RATIONALES[4]]


def test_a_choice_of_a_list_is_a_list_and_of_rows_rows() -> None:
    rows = Rows.of(Rationale, RATIONALES)
    chosen = where(rows, lambda each: each.sample == 1)
    assert isinstance(chosen, Rows)
    assert list(chosen) == where(RATIONALES, lambda each: each.sample == 1) == RATIONALES[1::2]
    assert list(choose(rows, [5, 1])) == choose(RATIONALES, [5, 1]) == [RATIONALES[5], RATIONALES[1]]


@pytest.mark.parametrize(
    ("line", "message"), [(b"{}\n", "row 2: got \\[\\], expected a Rationale"), (b"{\n", "row 2: not JSON")]
)
def test_a_line_that_is_no_record_is_named_when_it_is_read(line: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_jsonl(path, RATIONALES[:1])
    path.write_bytes(path.read_bytes() + line)
    rows = Rows.of_jsonl(path, Rationale)
    assert len(rows) == 2
    assert rows[0] == RATIONALES[0]
    with pytest.raises(DataError, match=message):
        rows[1]


def test_a_row_takes_the_memory_of_two_numbers() -> None:
    count = 20_000
    tracemalloc.start()
    rows = where(Rows.of(Example, (EXAMPLES[n % 3] for n in range(count))), lambda each: True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == count
    assert peak / count < 40


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_by_the_folder_of_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w+b", buffering=0) as full:
        monkeypatch.setattr("mentorkd.data.rows.TemporaryFile", lambda: full)
        with pytest.raises(MachineError, match=f"{gettempdir()}: "), explaining(folder=Path("run")):
            Rows.of(Example, EXAMPLES)
