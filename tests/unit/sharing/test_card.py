"""The card of a learner that leaves its run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub.repocard import ModelCard

from mentorkd.pipeline.records import CurateRecord, TeacherUsage
from mentorkd.sharing.card import write_card
from mentorkd.sharing.lineage import Base, Lineage, Score, licence_of, trace
from mentorkd.sharing.source import Source, open_source

USAGE = TeacherUsage(
    questions=24, solved=22, samples=72, replies=70, correct=60, accuracy=60 / 70, cut=1, refused=0, empty=0, malformed=0, lost=2,
    requests=1234, cached=70, input_tokens=45678, output_tokens=9012, dollars=1.5, unsure_dollars=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def source(small_run: Path) -> Source:
    return open_source(small_run / "run", "student", None)


@pytest.fixture(scope="module")
def lineage(source: Source) -> Lineage:
    return trace(source)


def card_of(source: Source, lineage: Lineage, folder: Path) -> ModelCard:
    write_card(source, lineage, folder, data_set="jane/totals")
    return ModelCard.load(folder / "README.md")


def test_what_is_known_is_stated(source: Source, lineage: Lineage, tmp_path: Path) -> None:
    known = replace(
        lineage,
        teacher="gpt-4o at api.openai.com",
        usage=USAGE,
        curated=CurateRecord(rationales={}, before=48, rejected=3, edited=2, unmatched=0),
        base=Base("acme/base", "0123abc"),
        licence={"license": "other", "license_name": "acme-1", "license_link": "https://acme.example/licence"},
        data_sets=["openai/gsm8k"],
        mean=Score(0.25, [0.2, 0.3], 10),
    )
    card = card_of(source, known, tmp_path)
    facts = card.data.to_dict()
    assert (facts["base_model"], facts["base_model_relation"]) == ("acme/base", "finetune")
    assert (facts["license"], facts["license_name"]) == ("other", "acme-1")
    assert facts["datasets"] == ["jane/totals", "openai/gsm8k"]
    assert (
        "1,234; 70 answers from the cache; 45,678 tokens of prompts, 9,012 tokens of replies; 1.50 US dollars"
        in card.text
    )
    assert "3 rejected, 2 edited" in card.text
    assert "acme/base at commit 0123abc; licence: acme-1" in card.text
    assert "| mean over 1 seeds | 25.0 | 20.0 to 30.0 | 10 |" in card.text
    _, mean = facts["model-index"][0]["results"][0]["metrics"]
    assert mean["value"] == 25.0


def test_a_form_has_its_use_and_an_edited_card_is_told(
    source: Source, lineage: Lineage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_card(source, lineage, tmp_path, form="gguf", use="run `llama-server`", checked="| asked by |")
    card = ModelCard.load(tmp_path / "README.md")
    assert "## Use\n\nrun `llama-server`\n\n## Test accuracy\n\n| |" in card.text
    assert "## Checked after export\n\n| asked by |\n\n## Out of scope" in card.text
    assert "| the model before its conversion (seed 1) |" in card.text
    metric, *_ = card.data.to_dict()["model-index"][0]["results"][0]["metrics"]
    assert metric["name"].startswith("accuracy of seed 1 before the conversion, ")
    assert not caplog.messages
    own = source.model() / "README.md"
    text = own.read_text()
    try:
        own.write_text(text + "mine")
        card_of(source, lineage, tmp_path)
    finally:
        own.write_text(text)
    assert "was edited; what is written here is a new card" in caplog.text


def test_an_ancestor_that_is_reached_twice_gives_both(lineage: Lineage) -> None:
    (mentor,) = lineage.ancestors
    assert (mentor.name, list(mentor.gave)) == ("mentor", ["rationales", "soft labels"])
    assert [text.author for text in lineage.texts] == ["teacher", "mentor@seed-1"]
    assert not lineage.licence_is_unknown  # a model from scratch has none


def test_a_mentors_own_texts_are_not_what_it_learned_from(source: Source) -> None:
    assert [text.author for text in trace(replace(source, name="mentor")).texts] == ["teacher"]


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\nlanguage: en\n---\n# x\n", {"license": "apache-2.0"}),
        ("# no front matter\n", {}),
        ("---\n- a list\n---\n", {}),
        (None, {}),
    ],
)
def test_the_licence_is_that_of_the_bases_card(card: str | None, licence: dict[str, str], tmp_path: Path) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == licence
    assert licence_of(None) == {}
