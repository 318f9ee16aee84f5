from __future__ import annotations

import json
from pathlib import Path

import pytest

from mentorkd.errors import RunError
from mentorkd.files import read_journal


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


def test_read_journal_names_a_damaged_line(tmp_path: Path) -> None:
    journal = tmp_path / "j"
    journal.write_text('"a"\n{"b\n"c"\n', encoding="utf-8")
    with pytest.raises(RunError, match=r"j: line 2 is damaged \(no JSON\); remove the file and run again"):
        read_journal(journal)
