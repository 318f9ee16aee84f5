"""Shards of stages: every question in one, their rows merged in the order of the questions, and nothing finished is done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from command_line import Cli
from mentorkd.distillation.soft_labels import SoftLabelStore
from mentorkd.pipeline import shards
from mentorkd.pipeline.records import AnnotateRecord, AugmentRecord, EvaluateRecord, PrepareRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.shards import in_shard, read_in_role
from mentorkd.recipe.load import load_recipe
from mentorkd.recipe.schema import Recipe
from recording_reporter import RecordingReporter
from small_recipe import small_recipe
from tiny_models import tiny_llama, tiny_tokenizer

SHARDS = 2
IN_ROUNDS = {"rationales": ["teacher", "self"], "own_texts": {"rounds": 1}, "soft_labels": "mentor"}
MADE = ("data", "teacher", "budget", "learners")
"""Where the stages of a run publish, apart from its report."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    """Numbers of threads may change the last bit of a sum."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with a cross-fitted mentor, and with a learner of own texts."""
    folder = tmp_path_factory.mktemp("shards")
    raw = small_recipe(folder)
    learners = raw["learners"]
    learners["mentor"]["folds"] = 2
    learners["imitator"] = {"model": learners["student"]["model"], "rationales": ["teacher"], "soft_labels": "mentor"}
    learners["own"] = {"model": learners["student"]["model"], **IN_ROUNDS}
    del learners["vanilla"]
    raw["training"] |= {"epochs": 2, "select_on": "last"}
    raw["sampling"] |= {"max_new_tokens": 8}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return folder


def recipe_of(folder: Path, number: int | str = SHARDS, *more: str) -> Recipe:
    return load_recipe(folder / "recipe.yaml", [f"shards={number}", *more])


@pytest.fixture(scope="module")
def cut(folder: Path) -> Pipeline:
    """A finished run whose stages are cut, one stage after the other."""
    pipeline = Pipeline(recipe_of(folder), folder / "cut")
    pipeline.run()
    return pipeline


@pytest.fixture(scope="module")
def whole(folder: Path) -> Pipeline:
    """A finished run of the same recipe in whole stages."""
    pipeline = Pipeline(recipe_of(folder, 1), folder / "whole")
    pipeline.run()
    return pipeline


def made(run: Path) -> dict[str, bytes]:
    """What the stages made, by path."""
    files = [file for part in MADE for file in (run / part).rglob("*") if file.is_file()]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def shards_of(pipeline: Pipeline, kind: str) -> dict[str, list[Stage]]:
    """All shards of the stages of a kind, by the name of the whole."""
    found: dict[str, list[Stage]] = {}
    for stage in pipeline.stages:
        if stage.kind == kind and stage.shard is not None:
            found.setdefault(stage.whole, []).append(stage)
    return found


def test_the_stages_that_use_a_model_are_cut_and_a_recorded_teacher_is_not(cut: Pipeline) -> None:
    stages = {stage.name: stage for stage in cut.stages}
    assert {stage.kind for stage in stages.values() if stage.shard} == {"augment", "score", "evaluate"}
    assert stages["annotate"].merged == []
    for kind in ("augment", "score", "evaluate"):
        for name, parts in shards_of(cut, kind).items():
            assert [part.shard for part in parts] == [(number, SHARDS) for number in range(SHARDS)]
            assert (name in stages) == (kind != "score")


@pytest.mark.parametrize(("kind", "split"), [("augment", "train"), ("evaluate", "test")])
def test_each_question_is_in_one_shard_and_the_rows_are_merged_in_order(cut: Pipeline, kind: str, split: Any) -> None:
    read = cut.folder.rationales if kind == "augment" else cut.folder.predictions
    questions = [question.id for question in cut.folder.questions("prepare", split)]
    assert shards_of(cut, kind)
    for name, parts in shards_of(cut, kind).items():
        written = [[row.question_id for row in read(part.name)] for part in parts]
        assert all(written), "every shard has questions, so that the test sees them"
        assert sorted({each for rows in written for each in rows}) == sorted(questions)
        assert sum(len(set(rows)) for rows in written) == len(questions)
        merged = read(name)
        assert list(dict.fromkeys(row.question_id for row in merged)) == questions
        rows = [row for part in parts for row in read(part.name)]
        assert sorted(map(repr, rows)) == sorted(map(repr, merged))


def test_merged_records_have_the_sums_of_the_shards(cut: Pipeline) -> None:
    for kind, record, field in (("augment", AugmentRecord, "rationales"), ("evaluate", EvaluateRecord, "predictions")):
        for name, parts in shards_of(cut, kind).items():
            merged = cut.folder.record_of(record, name)
            each = [cut.folder.record_of(record, part.name) for part in parts]
            for verdict, count in getattr(merged, field).items():
                assert count == sum(getattr(one, field)[verdict] for one in each)
            assert (merged.tokens, merged.engine) == (None, each[0].engine)
            assert all(one.tokens for one in each)


@pytest.mark.slow
def test_two_at_a_time_make_the_same_bytes(folder: Path, cut: Pipeline) -> None:
    manifest = Pipeline(recipe_of(folder), folder / "two").run(jobs=2)
    assert set(manifest["stages"]) == {stage.name for stage in cut.stages}
    assert made(folder / "two") == made(folder / "cut")


def test_soft_labels_in_shards_are_those_of_one_store(cut: Pipeline, whole: Pipeline) -> None:
    def stores(pipeline: Pipeline, source: str, fold: int) -> list[SoftLabelStore]:
        (train,) = [stage for stage in pipeline.stages if stage.name == "learners/imitator/seed-1/train"]
        role = f"soft_labels/mentor/{source}" + (f"/{fold}" if fold else "")
        return [SoftLabelStore(pipeline.folder.soft_labels(name)) for name in read_in_role(train.inputs, role)]

    for fold in (0, 1):
        (one,), parts = stores(whole, "teacher", fold), stores(cut, "teacher", fold)
        assert len(parts) == SHARDS
        assert sorted(each for part in parts for each in part.ids) == sorted(one.ids)
        for part in parts:
            for rationale in part.ids:
                row, other = part.row(rationale), one.row(rationale)
                np.testing.assert_array_equal(row["labels"], other["labels"])
                states = [torch.from_numpy(each["hidden"].copy()).view(torch.bfloat16).float() for each in (row, other)]
                torch.testing.assert_close(*states, rtol=0.02, atol=1e-3)


def test_a_training_on_shards_is_that_on_one_store(cut: Pipeline, whole: Pipeline) -> None:
    losses = [[row["loss"] for row in each.folder.metrics("learners/imitator/seed-1/train")] for each in (cut, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_report_counts_each_shard_once(cut: Pipeline, whole: Pipeline) -> None:
    facts = json.loads((cut.folder.root / "report" / "run.json").read_text())
    costs = {row["name"]: row for row in facts["costs"]}
    assert list(costs) == [stage.name for stage in whole.stages if stage.kind != "report"]
    for key in ("seconds", "tokens"):
        records = [cut.folder.record(stage.name) for stage in cut.stages if stage.kind != "report"]
        total = sum(getattr(record, key) or 0 for record in records)
        assert sum(row[key] or 0 for row in costs.values()) == pytest.approx(total)
    for row in facts["spent"]:
        (names,) = row["stages"].values()
        evaluated = costs[f"learners/{row['learner']}/seed-1/evaluate"]
        assert evaluated["name"] in names
        assert evaluated["needs"] == ["prepare", costs[evaluated["name"]]["needs"][1]]
        parts = shards_of(cut, "evaluate")[evaluated["name"]]
        assert evaluated["tokens"] == sum(cut.folder.record(part.name).tokens or 0 for part in parts)
    (written,) = [row for row in facts["rounds"] if row["learner"] == "own" and row["round"] == 1]
    parts = [*shards_of(cut, "augment")["learners/own/seed-1/round-1/augment"]]
    merged = cut.folder.record("learners/own/seed-1/round-1/augment")
    seconds = merged.seconds + sum(cut.folder.record(part.name).seconds for part in parts)
    assert written["writing_seconds"] == pytest.approx(seconds)


def test_a_changed_number_redoes_what_it_reaches(folder: Path, cut: Pipeline) -> None:
    planned = {p.stage.name: p.state for p in Pipeline(recipe_of(folder, SHARDS + 1), cut.folder.root).plan()}
    unreached = {"prepare", "annotate", *(f"learners/mentor/seed-1/fold-{fold}/train" for fold in (0, 1))}
    assert {name for name, state in planned.items() if state == "done"} == unreached
    assert {name for name, state in planned.items() if state == "runs"} > set(shards_of(cut, "augment"))


@pytest.mark.parametrize("number", [SHARDS, "auto"])
def test_what_is_finished_as_a_whole_stays_finished(
    folder: Path, whole: Pipeline, number: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_QUESTIONS", 7)
    planned = Pipeline(recipe_of(folder, number), whole.folder.root).plan()
    assert [p.stage.name for p in planned] == [stage.name for stage in whole.stages]
    assert {p.state for p in planned} == {"done"}


def test_a_missing_output_of_a_whole_stage_is_made_again_as_a_whole(folder: Path, whole: Pipeline) -> None:
    file = whole.folder.output("learners/mentor/seed-1/augment", "rationales.jsonl")
    text = file.read_bytes()
    file.unlink()
    planned = Pipeline(recipe_of(folder), whole.folder.root).plan()
    file.write_bytes(text)
    assert [p.stage.name for p in planned] == [stage.name for stage in whole.stages]
    assert [p.stage.name for p in planned if p.state != "done"] == ["learners/mentor/seed-1/augment"]


def test_what_was_finished_as_a_whole_runs_in_shards_if_it_is_forced(folder: Path, whole: Pipeline) -> None:
    reporter, name = RecordingReporter(), "learners/own/seed-1/evaluate"
    pipeline = Pipeline(recipe_of(folder), whole.folder.root, reporter)
    pipeline.run(force=[name], until="evaluate")
    assert reporter.ran == [*(f"{name}/shard-{number}" for number in range(SHARDS)), name]
    reporter.ran.clear()
    pipeline.run(force=[name], until="evaluate")
    assert reporter.ran == [*(f"{name}/shard-{number}" for number in range(SHARDS)), name]


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


class KillingReporter(RecordingReporter):
    """Kills the run in the second shard of the first stage of a kind, after its first progress."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def progress(self, stage: Any, done: int, total: int) -> None:
        if (stage.kind, stage.shard and stage.shard[0]) == (self.kind, 1) and done > 0:
            raise Killed


def test_a_run_that_is_killed_in_shards_goes_on_there(folder: Path, cut: Pipeline, tmp_path: Path) -> None:
    done: set[str] = set()
    for kind in ("augment", "score"):
        reporter = KillingReporter(kind)
        with pytest.raises(Killed):
            Pipeline(recipe_of(folder), tmp_path / "run", reporter).run(until="score")
        assert reporter.ran[-2:] == [f"{reporter.ran[-1].rpartition('/')[0]}/shard-{number}" for number in range(2)]
        assert not done & set(reporter.ran)
        done |= set(reporter.ran[:-1])
    last = RecordingReporter()
    Pipeline(recipe_of(folder), tmp_path / "run", last).run(until="score")
    assert last.ran[0] == reporter.ran[-1]
    assert not done & set(last.ran)
    files, expected = made(tmp_path / "run"), made(cut.folder.root)
    assert files == {name: expected[name] for name in files}
    assert sum("/shards/score" in name for name in files) == sum("/shards/score" in name for name in expected)


def test_a_local_teacher_is_cut_by_the_number_of_questions_that_the_same_run_counts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_QUESTIONS", 14)
    tokenizer = tiny_tokenizer(append_eos=False)
    tiny_llama(tokenizer).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    settings = {"kind": "local", "model": str(tmp_path / "teacher"), "max_tokens": 8, "engine": "transformers"}
    settings |= {"samples": 2, "until_correct": {"want": 1, "tries": 3}}
    recipe = recipe_of(folder, "auto", f"teacher={json.dumps(settings)}")
    killing, reporter = KillingReporter("annotate"), RecordingReporter()
    with pytest.raises(Killed):
        Pipeline(recipe, tmp_path / "run", killing).run(until="annotate")
    pipeline = Pipeline(recipe, tmp_path / "run", reporter)
    pipeline.run(until="annotate")
    counts = pipeline.folder.record_of(PrepareRecord, "prepare").questions
    assert (counts["train"], counts["test"]) == (40, 10)
    parts = [f"annotate/shard-{number}" for number in range(3)]
    assert killing.ran == ["prepare", *parts[:2]]
    assert reporter.ran == [*parts[1:], "annotate"]
    assert not shards_of(pipeline, "evaluate")
    rows = pipeline.folder.rationales("annotate")
    questions = [question.id for question in pipeline.folder.questions("prepare", "train")]
    assert list(dict.fromkeys(row.question_id for row in rows)) == questions
    record = pipeline.folder.record_of(AnnotateRecord, "annotate")
    each = [pipeline.folder.record_of(AnnotateRecord, part) for part in parts]
    assert record.asked is not None
    assert (record.asked.questions, record.asked.samples, record.tokens) == (len(questions), len(rows), None)
    assert sum(record.rationales.values()) == len(rows) == sum(one.asked.replies for one in each if one.asked)
    assert record.asked.input_tokens + record.asked.output_tokens == sum(one.tokens or 0 for one in each)


def test_the_plan_groups_shards_and_lists_them_in_json(cli: Cli, folder: Path, cut: Pipeline) -> None:
    plan = ("plan", folder / "recipe.yaml", f"shards={SHARDS}", "--run", cut.folder.root)
    table = cli(*plan).out
    lines = [line.split("│") for line in table.splitlines() if "augment" in line and "mentor" in line]
    (shards_line, merged) = [[cell.strip() for cell in line[1:-1]] for line in lines]
    assert shards_line[0] == f"learners/mentor/seed-1/augment/shard-0..{SHARDS - 1}"
    assert shards_line[3:5] == ["done", "40 a shard"]
    assert merged[0] == "learners/mentor/seed-1/augment"
    assert merged[4:7] == ["80", "", ""]
    rows = {row["stage"]: row for row in json.loads(cli(*plan, "--json").out)["stages"]}
    assert list(rows) == [stage.name for stage in cut.stages]
    parts = [rows[f"learners/mentor/seed-1/augment/shard-{number}"] for number in range(SHARDS)]
    assert sum(part["rows"] for part in parts) == 80 == rows["learners/mentor/seed-1/augment"]["rows"]
    assert shards_line[6] == f"{sum(part['tokens'] for part in parts):,}"


def test_more_shards_than_questions_leave_some_without_any(folder: Path, tmp_path: Path) -> None:
    raw = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    raw["learners"] = {name: raw["learners"][name] for name in ("mentor", "imitator")}
    raw["learners"]["mentor"]["folds"], raw["shards"] = 1, 5
    raw["task"] |= {"limit_train": 4, "limit_test": 3}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    pipeline = Pipeline(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run")
    pipeline.run(until="evaluate")
    for name, parts in shards_of(pipeline, "evaluate").items():
        counts = [len(pipeline.folder.predictions(part.name)) for part in parts]
        assert 0 in counts
        assert sum(counts) == len(pipeline.folder.predictions(name)) == 3
    (parts,) = shards_of(pipeline, "score").values()
    assert 0 in [SoftLabelStore(pipeline.folder.soft_labels(part.name)).rows for part in parts]


def test_a_shard_is_decided_by_the_id_alone(cut: Pipeline) -> None:
    questions = cut.folder.questions("prepare", "train")
    parts = [in_shard(questions, (number, 4)) for number in range(4)]
    assert sorted(question.id for part in parts for question in part) == sorted(question.id for question in questions)
    for number, part in enumerate(parts):
        assert in_shard(part[::-1], (number, 4)) == part[::-1]
    assert in_shard(questions, None) == questions
