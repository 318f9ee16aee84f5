"""Tests for mentorkd.sharing.forms.inspect: the archive. tests/end_to_end/test_rechecking.py reads it with the real inspect_ai."""

from __future__ import annotations

import json
import math
from pathlib import Path
from zipfile import ZipFile

import pytest

from mentorkd.sharing.export import export
from mentorkd.sharing.source import Source, open_source

VALUES = {"correct": "C", "wrong": "I", "no_answer": "N"}


@pytest.fixture(scope="module")
def source(small_run: Path) -> Source:
    return open_source(small_run / "run", "student", None)


def write(source: Source, folder: Path) -> Path:
    (log,) = export(source, "inspect", folder).folder.iterdir()
    return log


def test_a_sample_for_each_test_question(source: Source, tmp_path: Path) -> None:
    with ZipFile(write(source, tmp_path / "log")) as archive:
        members = {name: json.loads(archive.read(name)) for name in archive.namelist()}
    header, questions, predictions = members["header.json"], source.test_questions(), source.predictions()
    ids = [question.id for question in questions]
    samples = [members.pop(f"samples/{number}_epoch_1.json") for number in ids]
    assert members.keys() == {"_journal/start.json", "summaries.json", "header.json"}
    assert members["_journal/start.json"] == {key: header[key] for key in ("version", "eval", "plan")}
    assert header["eval"]["dataset"]["sample_ids"] == ids
    assert [summary["id"] for summary in members["summaries.json"]] == ids
    assert header["eval"]["model_generate_config"] == {"max_tokens": 24, "temperature": 0.0}
    for sample, question, prediction in zip(samples, questions, predictions, strict=True):
        assert (sample["input"], sample["target"]) == (question.text, question.answer)
        assert sample["output"]["completion"] == prediction.text
        assert sample["output"]["choices"][0]["stop_reason"] == ("stop" if prediction.finished else "max_tokens")
        score = sample["scores"]["mentorkd/grade"]
        assert (score["value"], score["answer"]) == (VALUES[prediction.verdict], prediction.predicted)
    accuracy = sum(prediction.verdict == "correct" for prediction in predictions) / len(predictions)
    metrics = header["results"]["scores"][0]["metrics"]
    assert metrics["accuracy"]["value"] == accuracy
    assert metrics["stderr"]["value"] == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / (len(ids) - 1)))
    assert header["eval"]["packages"]["mentorkd"]


def test_the_same_results_give_the_same_bytes(source: Source, tmp_path: Path) -> None:
    first, second = write(source, tmp_path / "a"), write(source, tmp_path / "b")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_no_path_of_this_machine_is_in_the_log(source: Source, tmp_path: Path) -> None:
    with ZipFile(write(source, tmp_path / "log")) as archive:
        header = archive.read("header.json").decode()
    assert str(source.pipeline.folder.root.parent) not in header
