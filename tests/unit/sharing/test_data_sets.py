"""Data sets of a run: every rationale as it was written, and pairs by the rule, as `datasets` loads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub.repocard import DatasetCard

from mentorkd.errors import RunError
from mentorkd.pipeline.written import RunFile
from mentorkd.recipe.learner import Learner
from mentorkd.records import Question, Rationale, read_jsonl, write_jsonl
from mentorkd.sharing.export import export
from mentorkd.sharing.forms.pairs import Prompting
from mentorkd.sharing.source import open_source


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both forms of the finished small run."""
    folder = tmp_path_factory.mktemp("exported")
    source = open_source(small_run / "run", "student", None)
    for form in ("dataset", "pairs"):
        export(source, form, folder / form)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def load(folder: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    return {split: rows.to_list() for split, rows in datasets.load_dataset(str(folder), name).items()}


def rationales_of(run: Path) -> list[Rationale]:
    files = [run / "teacher" / "rationales.jsonl", run / "learners" / "mentor" / "seed-1" / "rationales.jsonl"]
    return [each for file in files for each in read_jsonl(file, Rationale)]


def test_the_data_set_has_every_rationale_of_every_author(small_run: Path, exported: Path) -> None:
    questions = {each.id: each for each in read_jsonl(small_run / "run" / "data" / "questions.jsonl", Question)}
    loaded = load(exported / "dataset", "rationales")
    rows = [row for split in loaded.values() for row in split]
    assert {split: {row["split"] for row in of} for split, of in loaded.items()} == {split: {split} for split in loaded}
    written = {each.id: each for each in rationales_of(small_run / "run")}
    assert len(rows) == len(written) > 100
    for row in rows:
        rationale, question = written[row["id"]], questions[row["question_id"]]
        assert (row["rationale"], row["verdict"]) == (rationale.text, rationale.verdict)
        assert (row["predicted"], row["sample"]) == (rationale.predicted, rationale.sample)
        assert (row["question"], row["answer"], row["split"]) == (question.text, question.answer, question.split)
        assert (row["source"], row["seed"]) in [("teacher", None), ("mentor", 1)]
        assert json.loads(row["meta"]) == rationale.meta
        assert row["tokens"] == rationale.meta.get("tokens")
    loaded = load(exported / "dataset", "questions")
    assert {split: len(of) for split, of in loaded.items()} == {"train": 40, "validation": 6, "test": 10}


def test_the_data_set_card_is_one(exported: Path) -> None:
    card = DatasetCard.load(exported / "dataset" / "README.md")
    facts = card.data.to_dict()
    assert facts["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in facts["configs"]] == ["rationales", "questions"]
    assert "license" not in facts  # nobody told
    assert "| mentor@seed-1 | t5 1x24 from scratch |" in card.text


def test_pairs_follow_the_rule(small_run: Path, exported: Path) -> None:
    (rows,) = load(exported / "pairs", "pairs").values()
    questions = {each.id: each for each in read_jsonl(small_run / "run" / "data" / "questions.jsonl", Question)}
    expected: list[tuple[str, str]] = []
    for question in questions.values():
        own = [each for each in rationales_of(small_run / "run") if each.question_id == question.id]
        first = {(each.verdict, " ".join(each.text.split())): each for each in reversed(own)}
        right, wrong = (
            sorted((each for (verdict, _), each in first.items() if verdict == wanted), key=own.index)
            for wanted in ("correct", "wrong")
        )
        if question.split == "train":
            expected += [(chosen.id, rejected.id) for chosen, rejected in zip(right, wrong, strict=False)]
    assert sorted((row["meta"]["chosen"]["id"], row["meta"]["rejected"]["id"]) for row in rows) == sorted(expected)
    assert len(expected) > 10
    for row in rows:
        question = questions[row["meta"]["question_id"]]
        assert row["prompt"] == question.text
        assert row["chosen"].endswith(f" --> {question.answer}")
        assert not row["rejected"].endswith(f" --> {question.answer}")


def test_a_chat_model_gets_messages_and_a_causal_one_the_separator() -> None:
    learner = Learner.model_validate({"model": {"name": "x"}, "prompt": "Q: {question}"})
    question = Question.create("What is 2 + 3?", "5", "train")
    right, wrong = (
        Rationale.create(question.id, text, predicted, "correct", "teacher", 0)
        for text, predicted in (("2 + 3 = 5.", "5"), ("2 + 3 = 6.", "6"))
    )
    chat = Prompting(learner, chat=True, separator="").pair(question, right, wrong)
    assert chat["prompt"] == [{"role": "user", "content": "Q: What is 2 + 3?"}]
    assert chat["rejected"] == [{"role": "assistant", "content": "2 + 3 = 6. --> 6"}]
    plain = Prompting(learner, chat=False, separator="\nAnswer:\n").pair(question, right, wrong)
    assert plain == {
        "prompt": "Q: What is 2 + 3?\nAnswer:\n",
        "chosen": "2 + 3 = 5. --> 5",
        "rejected": "2 + 3 = 6. --> 6",
    }


def test_messages_load_as_messages(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mentorkd.sharing.forms.pairs.kind_of", lambda model: "causal")
    monkeypatch.setattr("mentorkd.sharing.forms.pairs.stored_templates", lambda folder: ["{{ messages }}"])
    export(open_source(small_run / "run", "student", None), "pairs", tmp_path / "pairs")
    (rows,) = load(tmp_path / "pairs", "pairs").values()
    for key, role in (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant")):
        assert {(len(row[key]), row[key][0]["role"], *sorted(row[key][0])) for row in rows} == {
            (1, role, "content", "role")
        }


def test_a_rationale_that_has_changed_is_not_exported(small_run: Path, tmp_path: Path) -> None:
    source = open_source(small_run / "run", "student", None)
    file = small_run / "run" / "teacher" / "rationales.jsonl"
    text = file.read_bytes()
    try:
        file.write_bytes(text.replace(b"correct", b"ungrade", 1))
        with pytest.raises(RunError, match="has changed since it was written"):
            export(source, "dataset", tmp_path / "changed")
    finally:
        file.write_bytes(text)
    assert not (tmp_path / "changed").exists()


def test_what_people_rejected_is_left_out(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(small_run / "run", "student", None)
    written, first, *others = (
        source.written(),
        *read_jsonl(small_run / "run" / "teacher" / "rationales.jsonl", Rationale),
    )
    write_jsonl(tmp_path / "curated.jsonl", others)
    curated = RunFile("curate", tmp_path / "curated.jsonl", "0" * 64, None)
    monkeypatch.setattr(type(source), "written", lambda self: replace(written, curated=curated))
    export(source, "dataset", tmp_path / "curated")
    loaded = load(tmp_path / "curated", "rationales")
    ids = [row["id"] for split in loaded.values() for row in split if row["source"] == "teacher"]
    assert ids == [each.id for each in others]
    assert first.id not in ids


def test_no_pairs_give_one_clear_line(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(small_run / "run", "student", None)
    whole = type(source).written

    def teacher_alone(self: Any) -> Any:
        written = whole(self)
        return replace(written, texts=[], readers=[])

    monkeypatch.setattr(type(source), "written", teacher_alone)
    with pytest.raises(RunError, match="no training question has a correct and a wrong rationale"):
        export(source, "pairs", tmp_path / "pairs")
