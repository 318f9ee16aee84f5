"""What the command line shows while stages are at work."""

from __future__ import annotations

import io
import json
from dataclasses import fields

import pytest
from rich.console import Console

from made_up_records import train_record
from mentorkd.cli.console import ConsoleReporter, JsonReporter
from mentorkd.pipeline.records import AnnotateRecord, TeacherUsage
from mentorkd.pipeline.run_folder import Stage

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


def test_json_tells_the_stage_of_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    JsonReporter().note("11 rows are too long", ONE)
    assert json.loads(capsys.readouterr().err) == {"event": "note", "stage": ONE.name, "text": "11 rows are too long"}
