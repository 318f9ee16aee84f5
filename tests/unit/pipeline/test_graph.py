"""Compiled shards: names, inputs and fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from mentorkd.pipeline import shards
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.graph import compile_stages
from mentorkd.pipeline.records import AugmentRecord, PrepareRecord, StageRecord
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.load import load_recipe
from small_recipe import small_recipe

AUGMENT = "learners/mentor/seed-1/augment"
IN_ROUNDS = {"rationales": ["teacher", "self"], "own_texts": {"rounds": 1}, "soft_labels": "mentor"}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small recipe with a cross-fitted mentor, a twin of the student and a learner with own texts."""
    folder = tmp_path_factory.mktemp("graph")
    raw = small_recipe(folder)
    learners = raw["learners"]
    learners["mentor"]["folds"] = 2
    learners |= {"twin": learners["student"], "own": {"model": learners["student"]["model"], **IN_ROUNDS}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return folder / "recipe.yaml"


def compiled(
    recipe: Path, *overrides: str, finished: Callable[[Stage], StageRecord | None] = lambda stage: None
) -> dict[str, Stage]:
    return {stage.name: stage for stage in compile_stages(load_recipe(recipe, overrides), finished)}


def counted(**questions: int) -> Callable[[Stage], StageRecord | None]:
    """Says that the questions are counted, and nothing else is finished."""
    record = PrepareRecord(questions={"train": 0, "test": 0, **questions}, faults=[])  # type: ignore[typeddict-unknown-key]
    return lambda stage: record if stage.kind == "prepare" else None


def test_one_shard_is_the_stage_of_a_recipe_without_the_key(recipe: Path) -> None:
    auto = compiled(recipe)
    assert compiled(recipe, "shards=1") == auto == compiled(recipe, finished=counted(train=4096, test=4096))
    assert not any(stage.shard or stage.merged for stage in auto.values())


def test_shards_come_before_what_merges_them_and_it_has_the_old_name_and_place(recipe: Path) -> None:
    whole, stages = compiled(recipe), compiled(recipe, "shards=3")
    names = list(stages)
    parts = [f"{AUGMENT}/shard-{number}" for number in range(3)]
    assert names[names.index(AUGMENT) - 3 : names.index(AUGMENT)] == parts
    assert [stages[part].shard for part in parts] == [(number, 3) for number in range(3)]
    assert [stages[part].target for part in parts] == [
        f"learners/mentor/seed-1/shards/augment-{number}-of-3" for number in range(3)
    ]
    merged = stages[AUGMENT]
    assert (merged.merged, merged.shard) == (parts, None)
    assert merged.inputs == {"questions": "prepare", **{f"shard/{number}": part for number, part in enumerate(parts)}}
    assert (merged.kind, merged.target, merged.learner) == ("augment", whole[AUGMENT].target, "mentor")
    assert {stages[name].fingerprint for name in (*parts, AUGMENT)}.isdisjoint({whole[AUGMENT].fingerprint})
    # The roles in which the report reads learners are those of whole stages.
    report = stages["report"].inputs
    assert {role: report[role] for role in whole["report"].inputs if "/score/" not in role} == {
        role: name for role, name in whole["report"].inputs.items() if "/score/" not in role
    }


def test_all_that_was_scored_is_read_by_trainings(recipe: Path) -> None:
    stages = compiled(recipe, "shards=3")
    inputs = stages["learners/own/seed-1/round-1/train"].inputs
    roles = [f"soft_labels/mentor/{source}{fold}" for source in ("teacher", "self") for fold in ("", "/1")]
    scored = {role: stage for role, stage in inputs.items() if role.startswith("soft_labels/")}
    assert list(scored) == [role + shard for role in roles for shard in ("", "/shard-1", "/shard-2")]
    assert [stages[stage].shard for stage in scored.values()] == [(number, 3) for number in range(3)] * 4
    assert [stages[stage].fold for stage in scored.values()] == [0, 0, 0, 1, 1, 1] * 2


def test_a_shard_of_soft_labels_reads_the_same_shard_of_the_texts(recipe: Path) -> None:
    stages = compiled(recipe, "shards=3")
    of_mentor = [stage for stage in stages.values() if stage.kind == "score" and stage.source == "mentor"]
    assert len(of_mentor) == 6  # two folds
    for stage in of_mentor:
        assert stage.shard is not None
        assert stage.inputs["rationales/mentor"] == f"{AUGMENT}/shard-{stage.shard[0]}"


def test_learners_that_are_the_same_share_their_shards(recipe: Path) -> None:
    stages = compiled(recipe, "shards=3")
    assert not any("/twin/" in name for name in stages)
    assert stages["report"].inputs["evaluate/twin/1"] == "learners/student/seed-1/evaluate"


def test_fingerprints_tell_shards_and_their_number_apart(recipe: Path) -> None:
    three, four = compiled(recipe, "shards=3"), compiled(recipe, "shards=4")
    marks = [stages[f"{AUGMENT}/shard-{number}"].fingerprint for stages in (three, four) for number in range(3)]
    assert len(set(marks)) == 6
    same = {name for name in three.keys() & four if three[name].fingerprint == four[name].fingerprint}
    trained = {f"learners/mentor/seed-1/fold-{fold}/train" for fold in (0, 1)}
    assert same == {"prepare", "annotate", *trained}


def test_auto_counts_the_questions_that_a_stage_reads(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_QUESTIONS", 10)
    more = recipe.with_name("more.jsonl")
    more.write_text('{"question": "What is 1 plus 1?"}\n', encoding="utf-8")
    unlabelled = f"task.unlabelled={more}"
    stages = compiled(recipe, unlabelled, finished=counted(train=21, test=11, unlabelled=10))

    def numbers(kind: str, source: str = "") -> set[int]:
        chosen = [stage for stage in stages.values() if (stage.kind, stage.source) == (kind, source)]
        return {stage.shard[1] for stage in chosen if stage.shard}

    assert (numbers("evaluate"), numbers("score", "teacher"), numbers("score", "self")) == ({2}, {3}, {4})
    assert len(stages[AUGMENT].merged) == 3
    assert len(stages["learners/own/seed-1/round-1/augment"].merged) == 4
    assert not stages["annotate"].merged


def test_a_stage_that_is_finished_whole_stays_whole_and_only_with_its_own_settings(recipe: Path) -> None:
    whole = compiled(recipe)

    def finished(names: Sequence[str]) -> Callable[[Stage], StageRecord | None]:
        """Gives the last record of a name, whatever the settings."""
        return lambda stage: (
            AugmentRecord(fingerprint=whole[stage.name].fingerprint, rationales={}, engine="")
            if stage.name in names
            else None
        )

    stages = compiled(recipe, "shards=3", finished=finished([AUGMENT]))
    assert stages[AUGMENT] == whole[AUGMENT]
    assert not any(name.startswith(f"{AUGMENT}/") for name in stages)
    of_mentor = [stage for stage in stages.values() if stage.kind == "score" and stage.source == "mentor"]
    assert {stage.inputs["rationales/mentor"] for stage in of_mentor} == {AUGMENT}
    assert all(stage.shard for stage in of_mentor)
    other = compiled(recipe, "shards=3", "sampling.samples=3", finished=finished([AUGMENT]))
    assert len(other[AUGMENT].merged) == 3


def test_test_samples_add_a_stage_and_change_no_other(recipe: Path) -> None:
    before, after = compiled(recipe), compiled(recipe, "sampling.test_samples=4")
    added = {f"learners/{name}/seed-1/sample" for name in ("mentor", "vanilla", "student", "own")}
    assert after.keys() - before.keys() == added
    assert after.keys() >= before.keys()
    assert {name for name in before if before[name].fingerprint != after[name].fingerprint} == {"report"}
    assert after["report"].inputs["sample/twin/1"] == "learners/student/seed-1/sample"
    student = "learners/student/seed-1/sample"
    assert after[student].inputs == before["learners/student/seed-1/evaluate"].inputs
    for other in ("test_samples=5", "top_p=0.9", "max_new_tokens=20"):
        changed = compiled(recipe, "sampling.test_samples=4", f"learners.student.sampling.{other}")
        assert changed[student].fingerprint != after[student].fingerprint
    assert compiled(recipe, "sampling.test_samples=4", "shards=3")[student].merged == [
        f"{student}/shard-{number}" for number in range(3)
    ]


def test_only_a_local_teacher_is_cut(recipe: Path) -> None:
    local = compiled(recipe, "shards=3", "teacher={kind: local, model: some/model}")
    assert local["annotate"].merged == [f"annotate/shard-{number}" for number in range(3)]
    assert local["annotate/shard-2"].target == "teacher/shards/annotate-2-of-3"
    asked = "teacher={kind: openai, model: m, logprobs: true, temperature: 1}"
    endpoint = compiled(recipe, "shards=3", asked, "learners.vanilla.soft_labels=teacher")
    assert not endpoint["annotate"].merged
    scored = [stage for stage in endpoint.values() if stage.mentor == "teacher"]
    assert scored
    assert not any(stage.shard for stage in scored)


@pytest.mark.parametrize("overrides", [[], ["shards=3"], ["learners.student.soft_label_store=top_k"]])
def test_texts_that_no_mentor_writes_are_scored_while_it_writes(recipe: Path, overrides: list[str]) -> None:
    stages = compiled(recipe, "learners.twin.rationales=[teacher,gold,mentor]", *overrides)
    scored = [stage for stage in stages.values() if stage.kind == "score" and stage.source in ("teacher", "gold")]
    assert {(stage.mentor, stage.source) for stage in scored} == {("mentor", "teacher"), ("mentor", "gold")}
    assert set().union(*(all_kinds(stage, stages) for stage in scored)) == {"prepare", "annotate", "train"}
    reads_all = stages["learners/twin/seed-1/train"]
    assert {stage.name for stage in scored if stage.source == "gold"} <= set(reads_all.needs)


def all_kinds(stage: Stage, stages: dict[str, Stage]) -> set[str]:
    """The kinds of all stages that must be finished before a stage starts."""
    needs = [stages[need] for need in stage.needs]
    return {need.kind for need in needs}.union(*(all_kinds(need, stages) for need in needs))


def test_how_texts_are_batched_and_their_type_are_in_fingerprints_where_they_are_given(recipe: Path) -> None:
    """The small recipe has a `batch_size`, which decides the chunks of a sampling and so its draws."""

    def changed(before: str, after: str) -> set[str]:
        one, other = compiled(recipe, before), compiled(recipe, after)
        return {stage.kind for name, stage in one.items() if stage.fingerprint != other[name].fingerprint}

    assert not changed("sampling.batch_size=32", "sampling.batch_size=auto")
    assert "augment" in changed("sampling.batch_size=32", "sampling.batch_size=16")
    assert {"augment", "train", "evaluate"} <= changed("sampling.dtype=auto", "sampling.dtype=bfloat16")


@pytest.mark.parametrize(
    ("override", "device", "precision", "dtype"),
    [
        ("sampling.dtype=auto", "cuda", "bfloat16", "bfloat16"),
        ("sampling.dtype=auto", "cuda", "float32", None),
        ("sampling.dtype=auto", "cpu", "bfloat16", None),
        ("sampling.dtype=float16", "cpu", "float32", "float16"),
    ],
)
def test_weights_are_sampled_in_bfloat16_where_training_was(
    recipe: Path, override: str, device: str, precision: str, dtype: str | None
) -> None:
    """The rule alone, on a device that need not be there."""
    context: Any = SimpleNamespace(device=torch.device(device), precision=lambda learner: precision)
    mentor = load_recipe(recipe, [override]).learners["mentor"]
    assert RunContext.sampling_dtype(context, mentor) == dtype
    untrained = mentor.model_copy(update={"rationales": []})
    assert RunContext.sampling_dtype(context, untrained) == (None if "auto" in override else dtype)
