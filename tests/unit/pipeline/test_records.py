"""Records of stages: what marks hold is read into the dataclass of its kind, and written back as it was."""

from __future__ import annotations

import json
import tarfile

import pytest

from mentorkd.pipeline import records, stages
from mentorkd.pipeline.graph import CODE_VERSIONS
from mentorkd.pipeline.records import (
    RECORDS,
    AnnotateRecord,
    EvaluateRecord,
    FilterRow,
    PrepareRecord,
    SearchRecord,
    TeacherUsage,
    TrainRecord,
    count_splits,
    count_verdicts,
    read_record,
    sum_usage,
    sum_verdicts,
)
from mentorkd.pipeline.stages import step_of
from mentorkd.recipe.aliases import RECORDED_NAMES
from mentorkd.recipe.learner import SelectConfig
from mentorkd.records import Question, Rationale
from places import FIXTURES

with tarfile.open(FIXTURES / "finished_run.tar.gz") as archive:
    MARKS = {
        member.name.rpartition("/")[2]: json.load(archive.extractfile(member))
        for member in archive
        if "/.stages/" in member.name
    }
"""The marks of a run that commit 7b4a6c6 finished, by file name."""
USAGE = {
    **dict.fromkeys(("questions", "solved", "samples", "replies", "correct", "cut", "refused", "empty"), 1),
    **dict.fromkeys(("malformed", "lost", "requests", "cached", "input_tokens", "output_tokens"), 2),
    "accuracy": 1.0,
    "dollars": 0.25,
    "unsure_dollars": 0.0,
}


def mark(kind: str) -> dict:
    return next(mark for mark in MARKS.values() if mark["kind"] == kind)


def test_marks_of_every_kind_are_there() -> None:
    assert len(MARKS) == 24
    assert {mark["kind"] for mark in MARKS.values()} == RECORDS.keys() - {
        "rounds",
        "curate",
        "sample",
    }  # the run is older than these


@pytest.mark.parametrize("name", MARKS)
def test_a_mark_is_read_into_the_record_of_its_kind_and_written_back_equal(name: str) -> None:
    record = read_record(MARKS[name])
    assert type(record) is RECORDS[MARKS[name]["kind"]]
    assert json.loads(json.dumps(record.as_json())) == MARKS[name]


def test_nested_values_are_read_into_dataclasses() -> None:
    trained, searched = read_record(mark("train")), read_record(mark("search"))
    assert isinstance(trained, TrainRecord)
    assert trained.encoding.kept == trained.rows == trained.filters[-1].after
    assert isinstance(searched, SearchRecord)
    assert searched.search.chosen in [trial.values for trial in searched.search.tried]


def test_the_account_of_a_teacher_is_written_only_if_one_was_asked() -> None:
    recorded = read_record(mark("annotate"))
    assert isinstance(recorded, AnnotateRecord)
    assert recorded.asked is None
    assert {"asked", "tokens"}.isdisjoint(recorded.as_json())
    asked = {**mark("annotate"), "asked": USAGE, "tokens": 4}
    record = read_record(asked)
    assert isinstance(record, AnnotateRecord)
    assert record.asked == TeacherUsage(**USAGE)
    assert record.as_json() == asked


@pytest.mark.parametrize("more", [{"counted_in": "tokens"}, {"equations": 3, "unread": 0}, {}])
def test_a_filter_row_has_the_facts_of_its_filter_alone(more: dict) -> None:
    row = {"source": "teacher", "filter": "length", "before": 2, "after": 1, **more}
    record = read_record({**mark("train"), "filters": [row]})
    assert isinstance(record, TrainRecord)
    assert record.filters == [FilterRow(**row)]
    assert record.as_json()["filters"] == [row]


@pytest.mark.parametrize("old", RECORDED_NAMES)
def test_a_filter_that_an_earlier_version_recorded_has_the_name_of_today(old: str) -> None:
    row = {"source": "teacher", "filter": old, "before": 2, "after": 1}
    record = read_record({**mark("train"), "filters": [row]})
    assert isinstance(record, TrainRecord)
    (filters,) = record.filters
    assert filters.filter == RECORDED_NAMES[old]
    assert filters.filter in SelectConfig.model_fields


@pytest.mark.parametrize("lacking", ["needs", "made_by", "cpu_seconds", "gpu_seconds", "accelerator", "soft_labels"])
def test_a_mark_of_an_earlier_version_may_lack_what_came_later(lacking: str) -> None:
    old = {key: value for key, value in mark("train").items() if key != lacking}
    record = read_record(old)
    assert isinstance(record, TrainRecord)
    assert not getattr(record, lacking)
    assert old.items() <= record.as_json().items()


def test_keys_of_a_later_version_are_left_out() -> None:
    record = read_record({**mark("prepare"), "since": 1})
    assert isinstance(record, PrepareRecord)
    assert record.as_json() == mark("prepare")


@pytest.mark.parametrize("old", [{}, {"kind": "distil"}, {"kind": "train", "fingerprint": "f"}])
def test_a_mark_of_another_form_has_no_record(old: dict) -> None:
    assert read_record(old) is None


def test_every_kind_has_a_function_a_record_and_a_code_version() -> None:
    assert set(RECORDS) == set(CODE_VERSIONS)
    steps = {kind: step_of(kind) for kind in RECORDS}
    assert {kind: step.__name__ for kind, step in steps.items()} == {kind: kind for kind in RECORDS}
    assert {step.__module__ for step in steps.values()} == {f"{stages.__name__}.{kind}" for kind in RECORDS}
    declared = {kind: step.__annotations__["return"] for kind, step in steps.items()}
    assert {kind: getattr(records, name) for kind, name in declared.items()} == RECORDS


def test_verdicts_are_counted_with_those_that_never_occur() -> None:
    rationales = [Rationale.create("q", "t", None, verdict, "s", 0) for verdict in ("wrong", "no_answer", "wrong")]
    counts = count_verdicts(rationales)
    assert counts == {"correct": 0, "wrong": 2, "no_answer": 1}
    record = EvaluateRecord(predictions=counts, engine="transformers")
    assert read_record(record.as_json()) == record


def test_what_has_no_gold_answer_is_counted_where_it_occurs() -> None:
    texts = [Rationale.create("q", "t", "1", verdict, "s", 0) for verdict in ("ungraded", "correct", "ungraded")]
    assert count_verdicts(texts) == {"correct": 1, "wrong": 0, "no_answer": 0, "ungraded": 2}
    questions = [Question.create(text, "", "unlabelled") for text in "ab"] + [Question.create("c", "1", "train")]
    assert count_splits(questions) == {"train": 1, "validation": 0, "test": 0, "unlabelled": 2}
    assert count_splits(questions[2:]) == {"train": 1, "validation": 0, "test": 0}
    record = PrepareRecord(questions=count_splits(questions), faults=[])
    assert read_record(record.as_json()) == record


def test_counts_of_several_records_are_added() -> None:
    counts = [{"correct": 1, "wrong": 0, "no_answer": 2}, {"correct": 2, "wrong": 0, "no_answer": 0, "ungraded": 1}]
    assert sum_verdicts(counts) == {"correct": 3, "wrong": 0, "no_answer": 2, "ungraded": 1}


def test_what_a_teacher_did_is_added_and_the_accuracy_is_that_of_all() -> None:
    one = TeacherUsage(**USAGE)
    other = TeacherUsage(**USAGE | {"replies": 3, "correct": 0, "accuracy": 0.0, "dollars": None})
    total = sum_usage([one, other])
    assert (total.questions, total.replies, total.correct, total.accuracy) == (2, 4, 1, 0.25)
    assert (total.input_tokens, total.dollars, total.unsure_dollars) == (4, None, 0.0)
    without = TeacherUsage(**dict.fromkeys(USAGE, 0) | {"accuracy": None})
    assert sum_usage([without, without]) == without
