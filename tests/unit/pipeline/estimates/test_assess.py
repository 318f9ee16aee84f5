"""The estimates of a plan: what they warn of, what they do not know, and how a run's own stages correct them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from command_line import Cli
from mentorkd.pipeline.estimates.assess import Assessment
from mentorkd.pipeline.estimates.checks import unknown, warnings
from mentorkd.pipeline.estimates.design import design_of
from mentorkd.pipeline.estimates.machine import Machine, machine_of
from mentorkd.pipeline.plan import estimate
from mentorkd.pipeline.records import StageRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from small_recipe import write_small_recipe

LEARNERS = ("mentor", "vanilla", "student")
SMALL = Machine("gpu", "a GPU of 0.1 GB", 1e8, 1e12, 1e11, "assumed")


def assessed(folder: Path, *overrides: str, machine: Machine | None = None) -> Assessment:
    path = folder / "recipe.yaml"
    recipe = load_recipe(path if path.exists() else write_small_recipe(folder), overrides)
    planned = Pipeline(recipe, folder / "run").plan()
    return Assessment(estimate(recipe, folder / "run"), planned, machine or machine_of("cpu"), folder / "run")


def test_every_stage_has_a_time_and_every_learner_its_memory(tmp_path: Path) -> None:
    assessment = assessed(tmp_path)
    assert assessment.untimed == []
    assert unknown(assessment) == []
    assert {(memory.learner, memory.work) for memory in assessment.memory} == {
        (name, work) for name in LEARNERS for work in ("train", "generate")
    }
    longer = assessed(tmp_path, "training.epochs=30")
    assert longer.seconds_left > assessment.seconds_left
    assert assessment.disk.soft_labels > 0
    assert assessment.dollars == (0.0, 0.0)


def test_rows_are_counted_with_the_models_own_tokenizer(tmp_path: Path) -> None:
    assessment = assessed(tmp_path, "training.max_target_tokens=20")
    [warning] = [line for line in warnings(assessment) if "too long" in line]
    lengths = assessment.lengths["student"]
    assert lengths.too_long
    assert lengths.longest_target <= 20
    assert warning.startswith(
        f"mentor, vanilla, student: {lengths.too_long} of {lengths.rows} sampled rows are too long"
    )


def test_packed_rows_have_no_padding(tmp_path: Path) -> None:
    packed, padded = (assessed(tmp_path, f"training.split={split}").lengths["student"] for split in ("packed", "none"))
    assert (packed.padded_source, packed.padded_target) == (packed.source, packed.target)
    assert padded.padded_target > packed.padded_target


def test_a_model_that_is_not_here_is_estimated_by_its_name_or_not_at_all(tmp_path: Path) -> None:
    known = assessed(tmp_path, "learners.vanilla.model={name: google/flan-t5-small}", "training.learning_rate=0.1")
    assert known.sizes["vanilla"] is not None
    assert any(
        "vanilla: whether rows are too long for google/flan-t5-small is not known" in line for line in unknown(known)
    )
    [rate] = [line for line in warnings(known) if "unusual" in line]
    assert rate.startswith("vanilla: `learning_rate: 0.1` is unusual for encoder-decoder models (3e-05 to 0.002)")
    other = assessed(tmp_path, "learners.vanilla.model={name: someone/else}")
    assert other.untimed == ["learners/vanilla/seed-1/train", "learners/vanilla/seed-1/evaluate"]
    assert any(line.startswith("vanilla: the size of someone/else is not known") for line in unknown(other))


def test_a_gpu_that_is_too_small_and_a_design_that_shows_little_are_warned_of(tmp_path: Path) -> None:
    lines = warnings(assessed(tmp_path, "learners.student.model={name: gpt2}", machine=SMALL))
    assert any(line.startswith("student: to train takes about") and "0.1 GB" in line for line in lines)
    assert any(line.startswith("one seed: ") for line in lines)
    assert any("detects no difference under" in line for line in lines)
    assert not any("one seed" in line for line in warnings(assessed(tmp_path, "seeds=[1, 2, 3]")))


def test_more_questions_and_more_seeds_show_smaller_differences() -> None:
    effects = [design_of(*size).detectable for size in ((100, 3, 2), (400, 3, 2), (400, 3, 4), (400, 8, 4))]
    assert effects == sorted(effects, reverse=True)
    assert design_of(400, 3, 6).detectable == pytest.approx(0.12, abs=0.03)  # own-texts measured 0.12 with such arms
    assert design_of(3, 1, 2).detectable > 1


def test_a_design_that_shows_little_names_the_larger_ones_that_show_more() -> None:
    assert design_of(400, 3, 3).warnings() == [
        "the design detects no difference under 11.9 points (400 test questions, 3 seeds); 7.8 points with 6 seeds; "
        "11.1 points with 1,600 questions"
    ]
    [few] = design_of(15, 3, 3).warnings()  # six questions of 15 must differ: more seeds do not help
    assert few.endswith("(15 test questions, 3 seeds); 18.1 points with 60 questions")
    assert design_of(3, 3, 2).warnings() == ["the design detects no difference at all: 3 test questions are too few"]


def test_finished_stages_correct_the_estimates_of_the_others(tmp_path: Path) -> None:
    before = assessed(tmp_path)
    first, second = "learners/mentor/seed-1/train", "learners/vanilla/seed-1/train"
    tenfold = StageRecord(kind="train", seconds=10 * (before.modelled[first] or 0))
    planned = [
        replace(each, state="done", record=tenfold) if each.stage.name == first else each for each in before.planned
    ]
    after = replace(before, planned=planned)
    assert before.calibration is None
    assert after.calibration == pytest.approx(10)
    assert after.seconds[first] == tenfold.seconds
    assert after.seconds[second] == pytest.approx(10 * (before.seconds[second] or 0))
    assert after.seconds_left < 10 * before.seconds_left - tenfold.seconds + 10
    assert "at the speed of 1 finished stage of this run" in after.time_basis


def test_plan_shows_the_estimates_and_what_they_rest_on(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_small_recipe(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    shown = cli("plan", recipe).out.partition("estimates")[2]
    assert max(map(len, shown.partition("!")[0].splitlines())) == 80  # the estimates are for reading
    monkeypatch.setenv("COLUMNS", "250")
    shown = cli("plan", recipe, "--gpu-memory", "24").out
    for text in ("time to go", "a GPU of 24 GB", "untested on a GPU", "minimum detectable effect", "nobody is asked"):
        assert text in shown
    unknown_size = cli("plan", recipe, *(f"learners.{name}.model={{name: someone/else}}" for name in LEARNERS)).out
    assert re.search(r"disk +│ not known", unknown_size)
    stated: dict[str, Any] = json.loads(cli("plan", recipe, "--measure", "--json").out)["estimates"]
    assert stated["machine"]["flops"] > 1e8
    assert "measured" in stated["seconds_basis"]
