"""The overlay: decisions about rationales, appended to a file and read again."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mentorkd.data.overlay import Decision, append_decision, identity, in_effect, read_overlay
from mentorkd.errors import DataError
from mentorkd.records import Rationale

FIRST, SECOND = (Rationale.create("q", f"text {n}", "1", "correct", "teacher", n) for n in range(2))
ROW: dict[str, Any] = {
    "rationale_id": "r",
    "question_id": "q",
    "source": "teacher",
    "sample": 0,
    "action": "reject",
    "by": "ann",
    "at": "2026-11-30T12:00:00+00:00",
    "why": "",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recipe.overlay.jsonl"


def reject(rationale: Rationale = FIRST) -> Decision:
    return Decision.on(rationale, "reject", by="ann", why=" no steps ")


def test_a_decision_is_read_as_it_was_written(file: Path) -> None:
    decision = Decision.on(FIRST, "edit", by="ann", why="a sign", text="1 - 2 = -1\n\u2028→ é")
    append_decision(file, decision)
    assert read_overlay(file) == {FIRST.id: decision}
    assert (decision.question_id, decision.source, decision.sample) == ("q", "teacher", 0)
    assert decision.at.endswith("+00:00")
    assert len(file.read_bytes().splitlines()) == 1


def test_the_last_decision_of_a_rationale_holds(file: Path) -> None:
    for decision in (reject(), reject(SECOND), Decision.on(FIRST, "restore", by="bo", why="it has")):
        append_decision(file, decision)
    assert {key: each.action for key, each in read_overlay(file).items()} == {FIRST.id: "restore", SECOND.id: "reject"}
    assert list(in_effect(file)) == [SECOND.id]
    assert len(file.read_text().splitlines()) == 3


def test_a_file_that_is_not_there_has_no_decision(file: Path) -> None:
    assert read_overlay(file) == in_effect(file) == in_effect(None) == {}


def test_the_identity_of_decisions_is_what_they_do() -> None:
    other = replace(reject(), by="bo", why="", at="2027-01-01T00:00:00+00:00")
    assert identity([reject(), reject(SECOND)]) == identity([reject(SECOND), other])
    assert identity([reject()]) != identity([Decision.on(FIRST, "edit", by="ann", why="", text="new")])


def test_a_line_without_its_end_is_not_glued_to_the_next(file: Path) -> None:
    file.write_text(json.dumps(ROW))
    append_decision(file, reject())
    assert set(read_overlay(file)) == {"r", FIRST.id}


def test_decisions_of_several_writers_are_all_there(file: Path) -> None:
    rationales = [Rationale.create("q", "x" * 5000, None, "wrong", "teacher", n) for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: append_decision(file, reject(each)), rationales))
    assert set(read_overlay(file)) == {each.id for each in rationales}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        (b"\xff{}", "not UTF-8"),
        ("[1]", "got list, expected a decision with the fields"),
        ({**ROW, "extra": 1}, "expected a decision with the fields"),
        ({key: value for key, value in ROW.items() if key != "why"}, "expected a decision with the fields"),
        ({**ROW, "sample": "0"}, "`sample`: got '0', expected int"),
        ({**ROW, "sample": True}, "`sample`: got True, expected int"),
        ({**ROW, "action": "drop"}, "`action`: got 'drop', expected one of reject, restore, edit"),
        ({**ROW, "source": "mentor"}, "`source`: got 'mentor', expected 'teacher'"),
        ({**ROW, "action": "edit"}, "`text` and `action: edit` need each other"),
        ({**ROW, "action": "edit", "text": " "}, "`text` and `action: edit` need each other"),
        ({**ROW, "why": "ab\ud800"}, "`why`: got half a character at position 2 (a lone surrogate); correct the text"),
        ({**ROW, "rationale_id": "\udc00"}, "`rationale_id`: got half a character at position 0"),
        ({**ROW, "text": "new"}, "`text` and `action: edit` need each other"),
    ],
)
def test_a_line_that_is_no_decision_is_named_by_its_row(file: Path, line: Any, message: str) -> None:
    bad = line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
    file.write_bytes(json.dumps(ROW).encode() + b"\n\n" + bad + b"\n")
    with pytest.raises(DataError) as caught:
        read_overlay(file)
    assert str(caught.value).startswith(f"{file}, row 3: ")
    assert message in str(caught.value)


def test_a_decision_that_could_not_be_read_again_is_not_written(file: Path) -> None:
    with pytest.raises(DataError, match="`source`: got 'mentor'"):
        append_decision(file, reject(replace(FIRST, source="mentor")))
    with pytest.raises(DataError, match="`by`: got half a character at position 0"):
        append_decision(file, replace(reject(), by="\udc80"))
    assert not file.exists()
