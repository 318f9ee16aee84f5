"""Old names of recipe keys: they load with one warning each, and fingerprints hash them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from mentorkd.errors import Fault, RecipeError
from mentorkd.recipe.aliases import BIRTH_NAMES, canonical_dump, later_sampling, later_training, warn_of_old_name
from mentorkd.recipe.learner import SelectConfig
from mentorkd.recipe.load import dump_recipe, parse_recipe, recipe_schema
from mentorkd.recipe.schema import Recipe

OLD = """\
name: demo
task: {name: svamp, train: a, test: b}
teacher:
  rationales: c
  select: {steps: true}
learners:
  mentor: {model: big, select: {steps: true, learnable: {model: vanilla, drop: 0.2}}}
  vanilla: {model: small}
  student:
    model: small
    rationales: [teacher, mentor]
    reads:
      teacher: {learnable: {model: x/y}}
"""
NEW = OLD.replace("steps:", "arithmetic:").replace("learnable:", "perplexity:")


@pytest.fixture(autouse=True)
def _no_warning_yet() -> Iterator[None]:
    warn_of_old_name.cache_clear()
    yield
    warn_of_old_name.cache_clear()


def parse(text: str, *overrides: str) -> Recipe:
    return parse_recipe(text, source="test", base=Path("/"), overrides=overrides)


def test_the_table_names_filters_of_today_and_none_of_before() -> None:
    assert BIRTH_NAMES.keys() <= SelectConfig.model_fields.keys()
    assert not set(BIRTH_NAMES.values()) & SelectConfig.model_fields.keys()


def test_old_names_load_as_new_ones_with_one_warning_each(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        recipe = parse(OLD)
        assert parse(OLD) == recipe
    assert recipe.filter_of("student", "mentor").arithmetic
    assert caplog.messages == [
        "recipe: the filter `steps` is now called `arithmetic`; the old name still works",
        "recipe: the filter `learnable` is now called `perplexity`; the old name still works",
    ]
    caplog.clear()
    warn_of_old_name.cache_clear()
    assert parse(NEW) == recipe
    assert parse(dump_recipe(recipe)) == recipe
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("teacher.select.steps=false", "teacher.select.arithmetic=false"),
        ("learners.student.reads.teacher.steps=false", "learners.student.reads.teacher.arithmetic=false"),
        ("learners.vanilla.reads={teacher: {learnable: {model: m}}}", "learners.vanilla.reads={teacher: {perplexity: {model: m}}}"),
    ],
)  # fmt: skip
def test_an_override_may_use_an_old_name(old: str, new: str) -> None:
    base = NEW.replace("  select: {arithmetic: true}\n", "")
    assert parse(base, old) == parse(base, new)


@pytest.mark.parametrize(
    "sweep",
    [
        "{teacher.select.FILTER: [true, false]}",
        "{student.reads.teacher.FILTER: [true, false]}",
        "{student.reads: [{teacher: {FILTER: true}}, {mentor: {FILTER: false}}]}",
    ],
)
def test_a_sweep_may_use_an_old_name_and_keeps_the_names_of_its_variants(sweep: str) -> None:
    base = OLD.replace("  select: {steps: true}\n", "")
    old = parse(f"{base}sweep: {sweep.replace('FILTER', 'steps')}\n")
    new = parse(f"{base}sweep: {sweep.replace('FILTER', 'arithmetic')}\n")
    students = list(zip(old.learners, new.learners, strict=True))[-2:]
    assert all(old.filter_of(before, "teacher") == new.filter_of(after, "teacher") for before, after in students)
    assert len({old.filter_of(name, "teacher") for name, _ in students}) == 2
    assert [name.replace("steps", "arithmetic") for name in old.learners] == list(new.learners)
    assert old.learners.keys() != new.learners.keys()
    assert parse(dump_recipe(old)) == old


def test_faults_of_an_old_key_have_its_line_and_its_new_name() -> None:
    text = OLD.replace("{model: x/y}", "{model: x/y, drop: 2}")
    with pytest.raises(RecipeError) as caught:
        parse(text)
    fault = Fault("learners.student.reads.teacher.perplexity.drop", "got 2; expected a number below 1.0", 13)
    assert list(caught.value.faults) == [fault]


def test_both_names_of_a_key_are_one_fault() -> None:
    with pytest.raises(RecipeError) as caught:
        parse(OLD.replace("select: {steps: true}", "select: {arithmetic: false, steps: true}"))
    message = "`steps` is the old name of `arithmetic`, and both are given; remove `steps`"
    assert list(caught.value.faults) == [Fault("teacher.select.steps", message, 5)]


def test_fingerprints_hash_the_names_at_birth() -> None:
    raw = canonical_dump(parse(NEW))
    assert raw["teacher"]["select"]["steps"] is True
    assert raw["learners"]["mentor"]["select"]["learnable"] == {"model": "vanilla", "drop": 0.2}
    assert raw["learners"]["student"]["reads"]["teacher"]["learnable"] == {"model": "x/y", "drop": 0.1}
    assert not any(new in str(raw) for new in BIRTH_NAMES)
    assert "root" not in raw["data"]


def test_fingerprints_hash_packing_and_attention_where_they_are_set() -> None:
    assert not any(key in str(canonical_dump(parse(NEW))) for key in ("split", "attn_implementation"))
    settings = "model: {name: small, attn_implementation: sdpa}, training: {split: packed}}"
    learner = canonical_dump(parse(NEW.replace("model: small}", settings)))["learners"]["vanilla"]
    assert (learner["training"]["split"], learner["model"]["attn_implementation"]) == ("packed", "sdpa")


def test_fingerprints_hash_processes_and_bits_where_they_are_set() -> None:
    raw = canonical_dump(parse(NEW.replace("model: small}", "model: {name: small, lora: {r: 4}}}")))
    assert not any(key in str(raw) for key in ("processes", "sharding", "bits"))
    settings = "model: {name: small, lora: {bits: 4}}, training: {processes: 2}}"
    learner = canonical_dump(parse(NEW.replace("model: small}", settings)))["learners"]["vanilla"]
    assert (learner["training"]["processes"], learner["model"]["lora"]["bits"]) == (2, 4)


def test_fingerprints_leave_out_how_micro_batches_are_split() -> None:
    split = [
        parse(NEW, f"training.split={split}", f"learners.vanilla.training.split={split}") for split in ("auto", "none")
    ]
    assert split[0] != split[1]
    assert canonical_dump(split[0]) == canonical_dump(split[1]) == canonical_dump(parse(NEW))
    assert later_training({"split": "auto", "epochs": 3}) == {"epochs": 3}


def test_a_stored_recipe_of_a_version_without_a_key_keeps_what_that_version_did() -> None:
    def splits(text: str, *overrides: str, stored: bool = True) -> set[str]:
        recipe = parse_recipe(text, source="test", base=Path("/"), overrides=overrides, stored=stored)
        return {learner.training.split for learner in recipe.learners.values()} | {recipe.training.split}

    stored = dump_recipe(parse(NEW))
    assert "split" in stored
    older = "".join(line for line in stored.splitlines(keepends=True) if "split: auto" not in line)
    assert splits(stored) == splits(older, stored=False) == splits(NEW, stored=False) == {"auto"}
    assert splits(older) == {"none"}
    assert splits(older, "learners.mentor.training.split=auto") == {"auto", "none"}


def test_fingerprints_hash_controls_where_they_are_set() -> None:
    raw = canonical_dump(parse(NEW))
    assert not any(key in str(raw) for key in ("questions", "shuffle_soft_labels", "label_smoothing"))
    reads = "reads:\n      mentor: {questions: teacher}\n      teacher:"
    text = NEW.replace("model: small}", "model: small, label_smoothing: 0.1}").replace("reads:\n      teacher:", reads)
    learners = canonical_dump(parse(text))["learners"]
    assert learners["vanilla"]["label_smoothing"] == 0.1
    assert learners["student"]["reads"]["mentor"]["questions"] == "teacher"


def test_the_schema_has_the_names_of_today() -> None:
    names = recipe_schema()["$defs"]["SelectConfig"]["properties"].keys()
    assert BIRTH_NAMES.keys() <= names
    assert not set(BIRTH_NAMES.values()) & names


def test_a_sampling_hashes_as_before_where_its_later_keys_say_nothing() -> None:
    before = parse(NEW, "sampling.batch_size=32").learners["mentor"].sampling
    today = parse(NEW).learners["mentor"].sampling
    assert (today.batch_size, today.rows) == ("auto", 32)
    assert later_sampling(today.model_dump()) == later_sampling(before.model_dump())
    assert later_sampling(today.model_dump()).keys().isdisjoint({"tokens_per_batch", "dtype", "test_samples"})
    for override in ("sampling.batch_size=16", "sampling.tokens_per_batch=4096", "sampling.dtype=bfloat16"):
        assert later_sampling(parse(NEW, override).learners["mentor"].sampling.model_dump()) != later_sampling(
            today.model_dump()
        )


def test_a_batch_size_of_sampling_is_auto_or_a_number() -> None:
    with pytest.raises(RecipeError) as caught:
        parse(NEW, "sampling.batch_size=0")
    assert "got 0; expected auto, or a whole number of at least 1" in str(caught.value)
