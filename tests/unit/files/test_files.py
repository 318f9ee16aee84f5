from __future__ import annotations

import json
from pathlib import Path

import pytest

from mentorkd.files import fingerprint, fingerprint_list, journal_line, read_journal


@pytest.mark.parametrize("values", [[], [1], [["q", "ü\u2028"], ["b", None], {"z": 1, "a": 2}]])
def test_a_list_has_one_fingerprint_as_a_whole_and_value_by_value(values: list[object]) -> None:
    assert fingerprint_list(iter(values)) == (len(values), fingerprint(values))


def test_a_journal_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "j") == []
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize("torn", ["", '["c', '["c", 3]'])
def test_read_journal_drops_a_torn_last_line(torn: str, tmp_path: Path) -> None:
    """Line separators inside a text (U+2028) are no line ends."""
    journal = tmp_path / "j"
    rows = [{"a": 1}, ["b\u2028", None]]
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    journal.write_text(whole + torn, encoding="utf-8")
    assert read_journal(journal) == rows
    assert journal.read_text(encoding="utf-8") == whole
    with journal.open("a", encoding="utf-8") as file:
        file.write('{"d": 4}\n')
    assert read_journal(journal) == [*rows, {"d": 4}]


def test_read_journal_drops_half_a_character(tmp_path: Path) -> None:
    journal = tmp_path / "j"
    journal.write_bytes(b'"a"\n"\xc3')
    assert read_journal(journal) == ["a"]
    assert journal.read_bytes() == b'"a"\n'


@pytest.mark.parametrize("damaged", ['{"b', '"b"\t00000000', '"b"\t', '"b"\tx'])
def test_read_journal_leaves_a_damaged_line_out_and_says_so_once(
    damaged: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = tmp_path / "j"
    journal.write_text(f'"a"\n{damaged}\n"c"\n', encoding="utf-8")
    assert read_journal(journal) == ["a", "c"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{journal}: 1 of 3 lines are damaged, and are left out; their work is done again"
    ]
    assert read_journal(journal) == ["a", "c"]
    assert len(caplog.records) == 1


def test_every_flipped_bit_of_a_journal_is_found(tmp_path: Path) -> None:
    journal = tmp_path / "j"
    lines = [journal_line(value).encode() for value in ({"key": "é", "n": [1, 2.5]}, ["k", None])]
    whole = b"".join(lines)
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        journal.write_bytes(data)
        values = read_journal(journal)
        assert all(value in ({"key": "é", "n": [1, 2.5]}, ["k", None]) for value in values)
        # Case does not matter in a checksum's digits.
        assert len(values) <= 1 or data.lower() == whole.lower()
