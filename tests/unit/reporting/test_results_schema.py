"""results.json: round trip, and documentation equal to the schema in the code."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest

from mentorkd.errors import RunError
from mentorkd.reporting import schema
from mentorkd.reporting.build import build_results
from mentorkd.reporting.inputs import StageCost
from mentorkd.reporting.write import read_results, write_report
from places import ROOT

TRIALS = [{"learner": "student", "seed": 42, "values": {"kd_weight": 0.3}, "validation": 0.5, "chosen": True}]


def test_results_survive_the_files(inputs, arms, report):
    assert read_results(report) == build_results(inputs(arms, size=60))


def test_results_are_plain_json(inputs):
    results = build_results(inputs(size=12))
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_what_differs_from_run_to_run_stays_out_of_results_json(inputs, arms, report, tmp_path):
    write_report(
        build_results(
            inputs(arms, size=60, stages={"one": StageCost(kind="train", seconds=9.0)}, serving={}, manifest={"a": 1})
        ),
        tmp_path,
    )
    assert (report / "results.json").read_bytes() == (tmp_path / "results.json").read_bytes()
    assert (report / "run.json").read_bytes() != (tmp_path / "run.json").read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "run.json").unlink(), "no run.json"),
        (lambda folder: (folder / "results.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "results.json").write_text('{"schema": "other/9"}'), "got schema 'other/9'"),
    ],
)
def test_a_damaged_folder_is_refused(report, tmp_path, damage, message):
    folder = tmp_path / "report"
    shutil.copytree(report, folder)
    damage(folder)
    with pytest.raises(RunError, match=message):
        read_results(folder)


def test_a_report_without_run_json_is_read_where_costs_may_be_unknown(report, tmp_path):
    shutil.copytree(report, tmp_path / "report")
    whole = read_results(report)
    assert read_results(tmp_path / "report", run_optional=True) == whole
    (tmp_path / "report" / "run.json").unlink()
    results = read_results(tmp_path / "report", run_optional=True)
    assert {**results, "run": whole["run"]} == whole
    shape(results["run"], schema.RunFacts)
    assert not any(results["run"].values())


ACCOUNT = {
    "questions": 24,
    "solved": 20,
    "samples": 72,
    "replies": 70,
    "correct": 60,
    "accuracy": 60 / 70,
    "cut": 2,
    "refused": 1,
    "empty": 0,
    "malformed": 3,
    "lost": 2,
    "kept": 58,
    "requests": 1075,
    "cached": 10,
    "input_tokens": 12_345,
    "output_tokens": 6789,
    "dollars": 0.0059,
    "unsure_dollars": 0.0,
    "dollars_per_kept": 0.0059 / 58,
}


def schema_rows() -> list[tuple[str, str, str, str]]:
    """(type, field, annotation, meaning) of every field, from the source."""
    nodes = ast.parse(Path(schema.__file__).read_text(encoding="utf-8")).body
    rows = []
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            for field, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign):
                    meaning = text.value.value  # a string under each field, or this fails
                    annotation = ast.unparse(field.annotation).replace(" | ", " or ")
                    rows.append((node.name, field.target.id, annotation, " ".join(meaning.split())))
    return rows


def test_the_document_has_every_field():
    document = (ROOT / "docs" / "results-schema.md").read_text(encoding="utf-8")
    rows = schema_rows()
    assert len(rows) > 80
    for name, field, annotation, meaning in rows:
        section = document.split(f"## {name}\n", 1)[1].split("\n## ", 1)[0]
        assert f"| `{field}` | `{annotation}` | {meaning} |" in section, (
            f"{name}.{field}: update docs/results-schema.md"
        )


def shape(value, annotation):
    """Compare a value with a TypedDict's fields, all the way down."""
    hints = getattr(annotation, "__annotations__", None)
    if hints is not None:
        assert set(value) == set(hints), annotation.__name__
        return
    pytest.fail(f"{annotation} is no TypedDict")


def test_results_have_the_schema_s_keys(inputs, arms):
    results = build_results(inputs(arms, size=40, teacher=ACCOUNT, trials=TRIALS))
    account = results["run"]["teacher"]
    shape(results, schema.Results)
    shape(results["task"], schema.TaskResult)
    shape(results["headline"], schema.Headline)
    shape(results["run"], schema.RunFacts)
    shape(results["differing"]["entries"][0]["answers"][0], schema.ExampleAnswer)
    for rows, kind in [
        (results["learners"], schema.LearnerResult),
        (results["learners"][0]["per_seed"], schema.SeedResult),
        (results["comparisons"], schema.ComparisonResult),
        (results["decompositions"], schema.Decomposition),
        (results["decompositions"][0]["parts"], schema.GainPart),
        (results["soft_labels"], schema.SoftLabelResult),
        (results["trials"], schema.Trial),
        (results["run"]["spent"], schema.LearnerCostResult),
        (results["filters"], schema.FilterCount),
        (results["dropped"], schema.DroppedRows),
        (results["curves"], schema.Curve),
        (results["curves"][0]["training"], schema.TrainingPoint),
        (results["curves"][0]["validation"], schema.ValidationPoint),
        ([results["differing"], results["written"]], schema.Examples),
        (results["differing"]["entries"], schema.Example),
        (results["run"]["costs"], schema.StageCostResult),
        ([account], schema.TeacherAccount),
    ]:
        assert rows
        for row in rows:
            shape(row, kind)


def test_the_teacher_s_account_is_on_both_pages_and_out_of_results_json(inputs, arms, report, tmp_path):
    write_report(build_results(inputs(arms, size=60, teacher=ACCOUNT)), tmp_path)
    for page in ("index.html", "report.md"):
        text = (tmp_path / page).read_text(encoding="utf-8")
        for told in ("24, of which 20 solved", "60 of 70 replies (85.7 %)", "2 cut, 1 refused, 3 malformed"):
            assert told in text
        assert "1,075, and 10 answers from the cache" in text
        assert "$0.000102" in text
    assert (report / "results.json").read_bytes() == (tmp_path / "results.json").read_bytes()
    assert "The teacher" not in (report / "report.md").read_text(encoding="utf-8")
