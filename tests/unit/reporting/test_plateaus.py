"""Trainings to a plateau in the report, and accuracy against compute."""

from __future__ import annotations

from dataclasses import replace

import pytest

from made_up_run import MENTOR, STUDENT, VANILLA
from mentorkd.reporting.build import build_results
from mentorkd.reporting.compute import flops_at_validations
from mentorkd.reporting.inputs import StageCost
from mentorkd.reporting.markdown import render_markdown
from mentorkd.reporting.matching import unequal_training
from mentorkd.reporting.page import render_page
from mentorkd.reporting.plots import draw_plots
from mentorkd.reporting.reread import inputs_of
from mentorkd.reporting.rows import fairness_rows

EARLY = replace(VANILLA, updates=[400, 480, 420], plateaus=[400, 480, 420])
LATE = replace(STUDENT, updates=[900, 1200, 1000], plateaus=[900, None, 1000])


def test_arms_at_their_plateaus_are_equal_whatever_their_updates():
    found = replace(LATE, plateaus=[900, 1100, 1000])
    assert unequal_training([EARLY, found], "plateau") is None
    assert unequal_training([EARLY, found], "updates") is not None
    assert unequal_training([EARLY, LATE], "plateau") == "without a plateau: student (1 of 3 seeds)"
    assert unequal_training([VANILLA, found], "plateau") == "without a plateau: vanilla"


def test_the_report_tells_the_limit_and_the_plateaus(inputs):
    results = build_results(inputs((MENTOR, EARLY, LATE), size=40, match="plateau", soft_labels=()))
    assert results["comparisons"][0]["unmatched"] == "without a plateau: student (1 of 3 seeds)"
    cells = {row["arm"]: row["plateau at update"] for row in fairness_rows(results)}
    assert cells == {"vanilla": "400–480", "student": "900–1,000, 1 at the limit"}
    limit, few = (line for line in results["warnings"] if "plateau" in line.lower())
    assert limit.startswith("The limit of updates ended trainings before their plateau: student (1 of 3 seeds).")
    assert few.startswith("Plateaus were found on 52 validation questions")
    for text in (render_markdown(results, {}), render_page(results, {})):
        assert "The limit of updates ended trainings" in text
        assert "plateau at update" in text
    assert not any("not trained for the same number" in line for line in results["warnings"])


def test_enough_questions_and_plateaus_give_no_warning(inputs):
    arms = EARLY, replace(LATE, plateaus=[900, 1100, 1000])
    made = inputs((MENTOR, *arms), size=40, match="plateau", soft_labels=())
    made = replace(made, task={**made.task, "validation": 400})
    assert build_results(made)["warnings"] == []


ROWS = [
    {"step": 1, "loss": 1.0, "tokens": 10},
    {"step": 2, "loss": 1.0, "tokens": 20},
    {"step": 2, "validation_accuracy": 0.4},
    {"step": 3, "loss": 1.0, "tokens": 30},
    {"step": 3, "validation_accuracy": 0.5},
]


@pytest.fixture
def made(inputs):
    """A mentor of 100 parameters and a student of 10, each trained on 60 tokens."""
    learners = replace(MENTOR, parameters=100), replace(VANILLA, parameters=10), replace(STUDENT, parameters=10)
    stages = {
        "teacher": StageCost(kind="annotate", tokens=10**6),
        "mentor": StageCost(kind="train", learner="mentor", needs=["teacher"], tokens=60),
        "writes": StageCost(kind="augment", learner="mentor", needs=["mentor"], tokens=7),
        "scores": StageCost(kind="score", learner="student", needs=["mentor", "writes"], tokens=5),
        "vanilla": StageCost(kind="train", learner="vanilla", needs=["teacher"], tokens=60),
        "student": StageCost(kind="train", learner="student", needs=["teacher", "writes", "scores"], tokens=60),
        "answers": StageCost(kind="evaluate", learner="student", needs=["student"], tokens=10**6),
    }
    serving = {("mentor", 1): ["mentor"], ("vanilla", 1): ["vanilla"], ("student", 1): ["student", "answers"]}
    metrics = {(name, 1): ROWS for name, _ in serving}
    return inputs(learners, seeds=(1,), size=20, stages=stages, serving=serving, metrics=metrics)


def test_compute_counts_the_mentors_training_writing_and_scoring(made):
    assert flops_at_validations(made, "vanilla", 1) == {2: 6 * 10 * 30, 3: 6 * 10 * 60}
    mentor = 6 * 100 * 60 + 2 * 100 * 7 + 2 * 100 * 5
    assert flops_at_validations(made, "student", 1) == {2: mentor + 6 * 10 * 30, 3: mentor + 6 * 10 * 60}


def test_an_untrained_mentor_writes_and_scores_by_its_size(made):
    untrained = {name: stage for name, stage in made.stages.items() if name not in ("mentor", "scores")}
    untrained["writes"] = replace(untrained["writes"], needs=[])
    scoring = "learners/mentor/seed-1/score/teacher"
    untrained[scoring] = replace(made.stages["scores"], needs=["writes"])
    untrained["student"] = replace(untrained["student"], needs=["teacher", "writes", scoring])
    serving = {("student", 1): ["student"]}
    counted = flops_at_validations(replace(made, stages=untrained, serving=serving), "student", 1)
    assert counted[3] == 2 * 100 * 7 + 2 * 100 * 5 + 6 * 10 * 60


def test_an_unknown_number_gives_no_compute(made):
    unknown = [replace(info, parameters=None) if info.name == "mentor" else info for info in made.learners]
    assert flops_at_validations(replace(made, learners=unknown), "student", 1) == {}
    rows = [{key: value for key, value in row.items() if key != "tokens"} for row in ROWS]
    assert flops_at_validations(replace(made, metrics={("vanilla", 1): rows}), "vanilla", 1) == {}


def test_accuracy_is_drawn_against_compute_and_kept_for_comparisons(made):
    results = build_results(made)
    title, svg = draw_plots(results)["curves-compute"]
    assert title == "Validation accuracy (%), by compute"
    assert "FLOPs" in svg
    assert "vanilla" in svg
    again = build_results(inputs_of(results, {}))
    assert [curve["validation"] for curve in again["curves"]] == [curve["validation"] for curve in results["curves"]]
    assert "curves-compute" not in draw_plots({**results, "curves": []})
