"""Mentors whose tokenizer is another one than the student's, and teachers whose log-probabilities are soft labels."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mentorkd.distillation.soft_labels import SoftLabelStore
from mentorkd.errors import RecipeError
from mentorkd.pipeline.graph import compile_stages
from mentorkd.pipeline.preflight import check_models
from mentorkd.pipeline.records import ScoreRecord, TrainRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.learner import ModelConfig
from mentorkd.recipe.load import load_recipe
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.vocabularies import one_vocabulary
from small_recipe import small_recipe
from tiny_models import tiny_tokenizer

CAUSAL = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 512}
CHUNKED = {"rationales": ["teacher", "mentor"], "soft_labels": "mentor"}


def recipe_of(folder: Path, **learners: Any) -> Recipe:
    """The small recipe's T5 mentor, and GPT-2 students with a tokenizer of their own unless they name a model."""
    raw = small_recipe(folder)
    tiny_tokenizer(vocab_size=300, append_eos=False).save_pretrained(folder / "other")
    model = {"tokenizer": str(folder / "other"), "from_config": CAUSAL}
    same = raw["learners"]["student"]["model"]
    raw["learners"] = {"mentor": raw["learners"]["mentor"]} | {
        name: {"model": same if learner.pop("same", False) else model} | learner for name, learner in learners.items()
    }
    raw["training"] |= {"epochs": 2}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return load_recipe(path)


def with_logprobs(file: Path, every: int) -> None:
    """Give every nth recorded rationale a log-probability for each of its words, and the others none."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        row["logprobs"] = None
        if number % every:
            continue
        ends, words = [], row["rationale"].split(" ")
        for word in words:
            ends.append((ends[-1] + 1 if ends else 0) + len(word.encode()))
        row["logprobs"] = {"ends": ends, "values": [-0.1] * len(ends)}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("chunks")
    recipe_of(
        folder,
        student=dict(CHUNKED),
        alike={**CHUNKED, "same": True, "soft_label_store": "chunks", "chunk_temperature": 10},
        own={"rationales": ["teacher", "self"], "soft_labels": "mentor", "own_texts": {"rounds": 1}},
        taught={"rationales": ["teacher", "mentor"], "soft_labels": {"teacher": 1, "mentor": 1}},
    )
    with_logprobs(folder / "data" / "teacher.jsonl", every=2)
    pipeline = Pipeline(load_recipe(folder / "recipe.yaml"), folder / "run")
    pipeline.run(until="evaluate")
    return pipeline


def score_of(pipeline: Pipeline, learner: str, role: str) -> tuple[ScoreRecord, SoftLabelStore]:
    trainings = [stage for stage in pipeline.stages if stage.kind == "train" and stage.learner == learner]
    name = trainings[-1].inputs[role]
    return pipeline.folder.record_of(ScoreRecord, name), SoftLabelStore(pipeline.folder.soft_labels(name))


def test_chunks_are_taken_where_vocabularies_differ(finished: Pipeline) -> None:
    for source in ("teacher", "mentor"):
        record, store = score_of(finished, "student", f"soft_labels/mentor/{source}")
        assert (record.form, record.rows, record.unlabelled_chunks) == ("chunks", store.rows, 0)
        for each in store.ids:
            row = store.row(each)
            assert len(row["log_probs"]) == len(row["tokens"])
            assert (row["log_probs"] <= 0).all()
    assert score_of(finished, "alike", "soft_labels/mentor/teacher")[0].form == "chunks"


def test_the_stored_likelihood_of_a_text_is_the_mentors(finished: Pipeline) -> None:
    """Whatever the student's tokenizer, the chunks of a text have the same sum."""
    stores = [score_of(finished, name, "soft_labels/mentor/teacher")[1] for name in ("student", "alike")]
    shared = set(stores[0].ids) & set(stores[1].ids)
    assert shared
    for each in shared:
        one, other = (float(store.row(each)["log_probs"].sum(dtype=np.float64)) for store in stores)
        assert one == pytest.approx(other, rel=1e-5)


def test_students_of_chunks_are_trained_and_compared_with_their_mentor(finished: Pipeline) -> None:
    for name in ("student", "alike"):
        record = finished.folder.record_of(TrainRecord, f"learners/{name}/seed-1/train")
        [row] = record.soft_labels
        assert row["mentor_nll"] > 0
        assert row["agreement"] is None
        divergences = [
            each["divergence"]
            for each in finished.folder.metrics(f"learners/{name}/seed-1/train")
            if "divergence" in each
        ]
        assert divergences[-1] < divergences[0]


def test_the_report_tells_the_form_that_soft_labels_have(finished: Pipeline) -> None:
    finished.run()
    results = json.loads((finished.folder.root / "report" / "results.json").read_text(encoding="utf-8"))
    student, alike = ({row["name"]: row for row in results["learners"]}[name] for name in ("student", "alike"))
    assert student["distillation"] == {"soft_label_store": "chunks", "chunk_temperature": "limit"}
    assert (student["temperature"], alike["distillation"]["chunk_temperature"]) == (None, 10)


def test_own_texts_are_imitated_across_vocabularies(finished: Pipeline) -> None:
    record = finished.folder.record_of(TrainRecord, "learners/own/seed-1/round-1/train")
    scored, store = score_of(finished, "own", "soft_labels/mentor/self")
    assert (scored.form, scored.mentor_too_long) == ("chunks", 0)
    texts = finished.folder.rationales("learners/own/seed-1/round-1/augment")
    assert set(store.ids) <= {text.id for text in texts}
    assert record.own_texts is not None
    assert record.own_texts.writer_kl is None  # a chunk has no distribution


def test_a_teachers_log_probabilities_are_soft_labels_of_its_own_texts(finished: Pipeline) -> None:
    record, store = score_of(finished, "taught", "soft_labels/teacher/teacher")
    assert 0 < record.without_logprobs < record.rows
    assert finished.folder.soft_labels(record.stage).parent.parent == finished.folder.root / "teacher" / "seed-1"
    texts = {text.id: text for text in finished.folder.rationales("annotate")}
    labelled = 0
    for each in store.ids:
        values = store.row(each)["log_probs"]
        assert np.isnan(values[-1])  # the end of the text, which the teacher did not score
        if "logprobs" in texts[each].meta:
            labelled += 1
            known = values[~np.isnan(values)]
            words = len(texts[each].text.split(" "))
            assert float(known.sum(dtype=np.float64)) == pytest.approx(-0.1 * words, abs=0.11)
        else:
            assert np.isnan(values).all()
    assert labelled == record.rows - record.without_logprobs
    train = {stage.name: stage for stage in finished.stages}["learners/taught/seed-1/train"]
    assert "soft_labels/teacher/mentor" not in train.inputs


def test_the_form_is_told_before_anything_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = recipe_of(tmp_path, student=dict(CHUNKED), other=dict(CHUNKED), alike={**CHUNKED, "same": True})
    with caplog.at_level(logging.WARNING):
        check_models(recipe)
    told = [line for line in caplog.messages if "likelihoods of chunks" in line]
    assert told == [
        "mentor has another vocabulary than student, other: their soft labels are likelihoods of chunks (`soft_label_store: chunks`)"
    ]
    forms = {(stage.learner, stage.form) for stage in compile_stages(recipe) if stage.kind == "score"}
    assert forms == {("student", "chunks"), ("alike", "hidden")}  # `other` shares the labels of `student`


def test_one_vocabulary_is_told_from_files(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, student=dict(CHUNKED), alike={**CHUNKED, "same": True})
    mentor, student, alike = (recipe.learners[name].model for name in ("mentor", "student", "alike"))
    assert one_vocabulary(mentor, alike) is True
    assert one_vocabulary(mentor, student) is False
    assert (
        one_vocabulary(mentor, ModelConfig(name="not-converted-yet.gguf")) is False
    )  # the mentor is an encoder-decoder model
    copied = tmp_path / "copied"
    tiny_tokenizer(vocab_size=300, append_eos=False).save_pretrained(copied)
    ended = json.loads((copied / "tokenizer_config.json").read_text())
    (copied / "tokenizer_config.json").write_text(
        json.dumps({**ended, "eos_token": "<s>"})
    )  # another end, one vocabulary
    assert one_vocabulary(student, student.model_copy(update={"tokenizer": str(copied)})) is True
    absent = student.model_copy(update={"tokenizer": "nobody/has-this"})
    assert one_vocabulary(student, absent) is None


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {**CHUNKED, "divergence": "mse"},
            "`mse` compares whole distributions, and mentor gives likelihoods of chunks",
        ),
        ({**CHUNKED, "divergence": {"mentor": "reverse_kl"}}, "`reverse_kl` compares whole distributions"),
        (
            {"rationales": ["teacher"], "soft_labels": "teacher", "divergence": "mse"},
            "teacher gives likelihoods of chunks (the teacher's log-probabilities)",
        ),
        (
            {**CHUNKED, "divergence": "hidden_states", "soft_label_store": "online"},
            "is an encoder-decoder model, and one is not; take one kind",
        ),
        ({**CHUNKED, "shuffle_soft_labels": True}, "needs whole distributions, and mentor gives likelihoods of chunks"),
        ({**CHUNKED, "label_smoothing": 0.1}, "needs whole distributions, and mentor gives likelihoods of chunks"),
        ({**CHUNKED, "soft_label_store": "hidden"}, "is an encoder-decoder model, and one is not"),
        ({**CHUNKED, "soft_label_store": "top_k"}, "is an encoder-decoder model, and one is not"),
    ],
)
def test_what_chunks_cannot_do_is_told_before_anything_runs(
    tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    recipe = recipe_of(tmp_path, student=changes)
    with pytest.raises(RecipeError) as caught:
        check_models(recipe)
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("teacher", "changes", "fault"),
    [
        ({}, {"rationales": ["mentor"]}, "the teacher's log-probabilities are those of its own texts"),
        ({}, {"soft_label_store": "hidden"}, "a teacher has likelihoods of its texts alone"),
        (
            {},
            {
                "rationales": ["teacher", "mentor"],
                "soft_labels": {"teacher": 1, "mentor": 1},
                "kd_weight": {"teacher": 0, "mentor": 0.3},
            },
            "0 on the teacher's own texts, the only ones that it labels",
        ),
        ({}, {"temperature": 2}, "a divergence of distributions, and chunks have likelihoods; remove it"),
        ({}, {"tau_squared": False}, "a divergence of distributions, and chunks have likelihoods; remove it"),
        ({}, {"mentor_reads": "gold"}, "a learner in `soft_labels`, and the teacher has answered already"),
        ({}, {"search": {"temperature": [1, 2]}}, "a divergence of distributions, and chunks have likelihoods"),
        (
            {},
            {"rationales": ["mentor"], "soft_labels": "mentor", "soft_label_store": "chunks", "temperature": 2},
            "a divergence of distributions, and chunks have likelihoods",
        ),
        ({"kind": "openai", "model": "m", "base_url": "http://localhost:1"}, {}, "set `logprobs: true`"),
    ],
)
def test_what_a_teacher_cannot_label_is_told(
    tmp_path: Path, teacher: dict[str, Any], changes: dict[str, Any], fault: str
) -> None:
    recipe_of(tmp_path, student={"rationales": ["teacher"]})
    raw = yaml.safe_load((tmp_path / "recipe.yaml").read_text(encoding="utf-8"))
    raw["learners"]["student"] |= {"soft_labels": "teacher", **changes}
    raw["teacher"] = teacher or raw["teacher"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "recipe.yaml")
    assert fault in str(caught.value)


def test_recorded_rationales_without_log_probabilities_are_no_soft_labels(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, student={"rationales": ["teacher"], "soft_labels": "teacher"})
    with pytest.raises(Exception, match="no rationale of the teacher has log-probabilities"):
        Pipeline(recipe, tmp_path / "run").run(until="annotate")
