"""What the command line shows while stages are at work."""

from __future__ import annotations

import ast
import io
import json
import logging
from dataclasses import fields

import pytest
from rich.console import Console

from made_up_records import own_texts, train_record
from mentorkd.cli.console import ConsoleReporter, JsonReporter, open_reporter, say, show_json, show_table
from mentorkd.pipeline.records import (
    AnnotateRecord,
    AugmentRecord,
    RoundOutcome,
    RoundsRecord,
    ScoreRecord,
    StageRecord,
    TeacherUsage,
)
from mentorkd.pipeline.run_folder import Stage
from mentorkd.records import Verdict
from places import SOURCE

ONE, OTHER = (
    Stage(name, "train", "", {}, "") for name in ("learners/mentor/seed-1/train", "learners/vanilla/seed-1/train")
)


def test_every_stage_at_work_has_a_bar_and_leaves_a_line() -> None:
    reporter, shown = ConsoleReporter(), io.StringIO()
    reporter.console = Console(file=shown, force_terminal=True, width=120, color_system=None)
    reporter.started(ONE, 3, 9)
    reporter.started(OTHER, 5, 9)
    reporter.progress(OTHER, 4, 30)
    reporter.progress(ONE, 7, 40)
    assert reporter._bars is not None
    reporter._bars.refresh()
    last = shown.getvalue().rpartition("3/9")[2]
    assert ONE.name in last
    assert "7/40" in last
    assert f"5/9 {OTHER.name}" in last
    assert "4/30" in last
    reporter.finished(ONE, train_record(seconds=1.5))
    assert f"✓  3/9 {ONE.name}" in shown.getvalue()
    reporter.note("11 rows are too long", OTHER)
    reporter.finished(OTHER, train_record(seconds=2.5))
    assert "! 11 rows are too long" in shown.getvalue()
    assert reporter._bars is None


def test_the_check_of_models_is_shown_until_a_stage_starts() -> None:
    reporter, shown = ConsoleReporter(), io.StringIO()
    reporter.console = Console(file=shown, force_terminal=True, width=120, color_system=None)
    reporter.checking()
    assert reporter._bars is not None
    reporter._bars.refresh()
    assert "checking models" in shown.getvalue()
    reporter.started(ONE, 1, 9)
    assert [row.description for row in reporter._bars.tasks] == [f"[dim] 1/9[/dim] {ONE.name}"]
    reporter.close()


def test_dollars_are_written_as_in_the_report() -> None:
    usage = {field.name: 1 for field in fields(TeacherUsage)} | {"dollars": 0.25}
    record = AnnotateRecord(
        rationales={"correct": 1, "wrong": 0, "no_answer": 0}, faults=[], asked=TeacherUsage(**usage)
    )
    reporter, shown = ConsoleReporter(), io.StringIO()
    reporter.console = Console(file=shown, width=200)
    reporter.started(ONE, 1, 9)
    reporter.finished(ONE, record)
    assert " $0.25 " in shown.getvalue()


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"correct": 1, "wrong": 3, "no_answer": 0}, "4 rationales (25.0 % correct) "),
        ({"correct": 1, "wrong": 3, "no_answer": 0, "ungraded": 6}, "10 rationales (25.0 % of 4 graded correct) "),
        ({"correct": 0, "wrong": 0, "no_answer": 0, "ungraded": 6}, "6 rationales ·"),
    ],
)
def test_the_share_of_correct_texts_is_one_of_graded_texts(counts: dict[Verdict, int], words: str) -> None:
    reporter, shown = ConsoleReporter(), io.StringIO()
    reporter.console = Console(file=shown, width=200)
    reporter.started(ONE, 1, 9)
    reporter.finished(ONE, AugmentRecord(rationales=counts, engine="transformers"))
    assert words in shown.getvalue()


def line_of(record: StageRecord) -> str:
    reporter, shown = ConsoleReporter(), io.StringIO()
    reporter.console = Console(file=shown, width=200)
    reporter.started(ONE, 1, 9)
    reporter.finished(ONE, record)
    return shown.getvalue()


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({}, "9 rows, 1.0 MB"),
        ({"chunks": 1500, "unlabelled_chunks": 0}, "9 rows, 1,500 chunks, 1.0 MB"),
        ({"chunks": 1500, "unlabelled_chunks": 7}, "9 rows, 1,500 chunks (7 without a likelihood), 1.0 MB"),
    ],
)
def test_a_store_of_chunks_tells_how_many_have_no_likelihood(counts: dict[str, int], words: str) -> None:
    assert words in line_of(ScoreRecord(rows=9, form="chunks", bytes=2**20, **counts))


def test_a_round_shows_its_own_texts_and_its_way_to_the_mentor() -> None:
    first, second = line_of(train_record(own_texts=own_texts())).splitlines()
    assert "8 rows, 5 updates · 80 own texts (25.0 % correct) · validation 50.0 %" in first
    assert second.strip() == (
        "22 tokens · 12 % no end · KL to the mentor 0.707 → 0.616 · entropy 1.500 → 1.400 · overlap 45 % · staleness 0.082"
    )
    assert max(map(len, (first, second))) <= 120
    alone = line_of(train_record(own_texts=own_texts(writer_kl=None, trained_kl=None, overlap=None)))
    assert "no end · entropy 1.500 → 1.400 · staleness" in alone


def test_the_choice_of_a_round_shows_which_is_best() -> None:
    outcomes = [
        RoundOutcome(number=number, updates=5, target_tokens=9, seconds=1.0, validation_accuracy=accuracy)
        for number, accuracy in enumerate((0.2, 0.5, 0.3))
    ]
    record = RoundsRecord(**vars(train_record(own_texts=own_texts())) | {"kind": "rounds", "rounds": outcomes})
    assert "5 updates · best of rounds 0 to 2: 1 · 80 own texts" in line_of(record)


EVIL = "red \x1b[31m[bold]text[/bold]\x9b0m \u202egnp.exe\u202c"
SHOWN = r"red \u001b[31m[bold]text[/bold]\u009b0m \u202egnp.exe\u202c"


def test_what_data_holds_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL)
    say(EVIL, error=True)
    show_json({"text": EVIL})
    show_table(EVIL, ["name", EVIL], [[EVIL, EVIL]], whole=True)
    ConsoleReporter().note(EVIL, ONE)
    JsonReporter().note(EVIL, ONE)
    out, err = capsys.readouterr()
    first, second, *table = out.splitlines()
    assert (first, json.loads(second)) == (SHOWN, {"text": EVIL})
    assert "\n".join(table).count(SHOWN) == 4
    lines = err.splitlines()
    assert lines[:2] == [SHOWN, f"! {SHOWN}"]
    assert json.loads(lines[2])["text"] == EVIL
    assert not set(out + err) & set("\x1b\x9b\u202e\u202c")


def test_a_stage_name_is_shown_and_not_obeyed() -> None:
    reporter, shown = ConsoleReporter(), io.StringIO()
    reporter.console = Console(file=shown, width=200, color_system=None)
    stage = Stage(EVIL, "evaluate", "", {}, "")
    reporter.started(stage, 1, 1)
    reporter.finished(stage, train_record(seconds=1.5))
    assert SHOWN in shown.getvalue()


def test_every_command_prints_through_the_console() -> None:
    """A bare `print` would show a terminal escape that data or an error holds."""
    bare = [
        f"{path.name}:{node.lineno}"
        for path in sorted((SOURCE / "cli").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert len(bare) == 1, bare
    assert bare[0].startswith("console.py")


def test_quiet_hides_stages_and_no_note(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = ConsoleReporter(quiet=True)
    reporter.checking()
    reporter.skipped(OTHER)
    reporter.started(ONE, 3, 9)
    reporter.note("11 rows are too long", ONE)
    reporter.finished(ONE, train_record(seconds=1.5))
    reporter.close()
    assert capsys.readouterr().err == "! 11 rows are too long\n"


def test_json_tells_the_stage_of_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    JsonReporter().note("11 rows are too long", ONE)
    assert json.loads(capsys.readouterr().err) == {"event": "note", "stage": ONE.name, "text": "11 rows are too long"}


@pytest.mark.parametrize("as_json", [True, False])
def test_an_open_reporter_shows_what_is_warned_of(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("mentorkd.teachers.cache")
    with open_reporter(quiet=True, as_json=as_json):
        logger.warning("%d lines are damaged \x1b[31m", 2)
    printed = capsys.readouterr().err
    if as_json:
        text = "2 lines are damaged \x1b[31m"
        assert json.loads(printed) == {"event": "note", "stage": None, "text": text}
    else:
        assert printed == "! 2 lines are damaged \\u001b[31m\n"
    assert "\x1b" not in printed
    assert not logging.getLogger("mentorkd").handlers
