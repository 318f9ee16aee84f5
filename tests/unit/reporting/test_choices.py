"""Selection in the report: which hypothesis comes first, what was selected, among how many, and on which questions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from made_up_records import train_record
from made_up_run import MENTOR, STUDENT, TEXT, VANILLA
from mentorkd.pipeline.stages.report import _protocol, _scorers, _settings
from mentorkd.recipe.schema import Recipe
from mentorkd.reporting.statistics import holm
from ten_questions import ten

MARKS = {("mentor", 1): "+" * 10, ("vanilla", 1): "+---------", ("student", 1): "+++++++++-", ("text", 1): "+++-------"}


def test_the_headline_is_tested_by_itself_and_all_other_pairs_together(inputs):
    first, *others = ten(inputs, MARKS, [MENTOR, VANILLA, TEXT, STUDENT])["comparisons"]
    assert (first["a"], first["b"], first["corrected_for"]) == ("student", "vanilla", 1)
    assert first["p_adjusted"] == first["p_value"] == pytest.approx(2 / 2**8)
    assert "Holm" not in first["verdict"]
    [part] = [row for row in others if row["family"] == "parts"]
    assert (part["a"], part["b"], part["corrected_for"]) == ("text", "vanilla", 1)
    others.remove(part)
    assert {(row["family"], row["corrected_for"]) for row in others} == {("pairs", 4)}
    assert [row["p_adjusted"] for row in others] == pytest.approx(holm([row["p_value"] for row in others]), rel=1e-4)
    assert all("(Holm, 4 tests)" in row["verdict"] for row in others)


def test_without_a_headline_all_pairs_are_corrected(inputs):
    other = replace(VANILLA, name="student")
    rows = ten(inputs, MARKS, [MENTOR, VANILLA, other])["comparisons"]
    assert {row["corrected_for"] for row in rows} == {3}


def test_a_source_of_which_nothing_was_read_is_a_warning(inputs):
    counts = [("teacher", "correct", 9), ("mentor", "training_questions", 9), ("mentor", "correct", 0)]
    filters = [
        {"learner": name, "seed": 1, "source": source, "filter": each, "before": 9, "after": after}
        for name in ("student", "text")
        for source, each, after in counts
    ]
    warnings = ten(inputs, MARKS, [MENTOR, VANILLA, TEXT, STUDENT], filters=filters)["warnings"]
    assert (
        "No text of mentor passed the filters of student, text (dropped by `correct` 9): nothing was learned from this "
        "source there." in warnings
    )


def variants(count: int) -> list[Any]:
    return [
        replace(
            STUDENT, name=f"student@{n}", swept={"student.kd_weight": n}, variant_of="student", validation=[0.1 * n]
        )
        for n in range(1, count + 1)
    ]


def test_the_best_of_many_beside_the_best_of_one_is_a_warning(inputs):
    marks = {(f"student@{n}", 1): "+++++++++-" for n in (1, 2, 3)} | MARKS
    warnings = " ".join(ten(inputs, marks, [VANILLA, *variants(3)])["warnings"])
    assert "student@3 was selected among 3, vanilla among 1 (variants of a sweep, times trials of a search)" in warnings
    tried = [
        {"learner": name, "seed": 1, "values": {"learning_rate": rate}, "validation": 0.5, "chosen": rate == 1}
        for name, rates in (("student", (1, 2, 3)), ("vanilla", (1, 2)))
        for rate in rates
    ]
    assert "student was selected among 3, vanilla among 2" in " ".join(
        ten(inputs, MARKS, [VANILLA, STUDENT], trials=tried)["warnings"]
    )
    assert ten(inputs, MARKS, [VANILLA, STUDENT], trials=tried[1:])["warnings"] == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"select_on": "validation"}, "it has the best validation accuracy."),
        ({"select_on": "test"}, "it has the best TEST accuracy."),
        ({"select_on": "last", "settings": {"select_on": "test"}}, "it has the best TEST accuracy."),
        ({"select_on": "last", "validation": [None]}, "it is the first of the sweep; no variant was validated."),
    ],
)
def test_protocol_names_the_selection_of_the_leading_variant(inputs, change, told):
    learners = [VANILLA, *(replace(one, **change) for one in variants(2))]
    marks = {(f"student@{n}", 1): "+++++++++-" for n in (1, 2)} | MARKS
    results = ten(inputs, marks, learners)
    assert told in " ".join(results["protocol"])
    on_test = "TEST" in told
    assert results["comparisons"][0]["on_test"] == on_test
    assert any("CHOSEN ON THE TEST SET for student@1, student@2" in line for line in results["warnings"]) == on_test


def test_protocol_names_the_search_that_selected_weights(inputs):
    last = replace(STUDENT, select_on="last")
    lines = " ".join(ten(inputs, MARKS, [VANILLA, replace(last, searched={"learning_rate": [1e-3]})])["protocol"])
    assert "Weights of student: last epoch of the best trial, selected on validation questions" in lines
    assert "Weights of student: last epoch; no selection." in ten(inputs, MARKS, [VANILLA, last])["protocol"]


def test_a_scorer_is_no_arm_and_passes_on_its_selection_on_test(inputs):
    scorer = replace(VANILLA, name="text", select_on="test", updates=[7])
    scored = replace(STUDENT, mentor_weights={}, rationales=["teacher"], scorers=["text"])
    results = ten(inputs, MARKS, [scorer, VANILLA, scored])
    assert [learner["arm"] for learner in results["learners"]] == [False, True, True]
    assert "also influenced student, which learns from them" in results["warnings"][0]
    assert not any("not trained for the same number" in line for line in results["warnings"])


def recipe(**changes: Any) -> Recipe:
    learners: dict[str, Any] = {
        "mentor": {"model": "m"},
        "short": {"model": "m", "training": {"updates": 3}},
        "vanilla": {"model": "m", "search": {"learning_rate": [1e-3, 1e-2]}},
        "student": {"model": "m", "rationales": ["teacher", "mentor"]},
    }
    for name, change in changes.items():
        learners[name] |= change
    task = {"name": "totals", "train": "a", "test": "b", "answer": "number"}
    return Recipe.model_validate({"name": "small", "task": task, "teacher": {"rationales": "c"}, "learners": learners})


def test_an_arm_with_its_own_number_of_updates_is_not_called_matched():
    made = recipe()
    records = {(name, 42): train_record(updates=3 if name == "short" else 10) for name in made.learners}
    lines = _protocol(made, records)
    assert any(line.startswith("Matched by updates: each of vanilla, student is trained") for line in lines)
    assert "The recipe fixes the number of optimiser updates (`training.updates`), rows are cycled: short 3." in lines
    made = recipe(vanilla={"training": {"validate_every": 20}}, student={"training": {"validate_every": 20}})
    told = " ".join(_protocol(made, records))
    assert "Only one epoch of student was validated, the last: validation chose nothing." in told
    assert "Only one epoch of vanilla was validated, the last: validation chose the trial, not the epoch." in told


def test_settings_include_the_parameters_of_the_objective():
    mcc = {"objective": "mcc", "objective_temperature": 3.0}
    assert _settings(recipe(student=mcc).learners["student"], "float32")["objective_temperature"] == 3.0


def test_scorers_are_read_off_the_filters():
    scored = {"reads": {"teacher": {"perplexity": {"model": "mentor", "drop": 0.25}}}}
    assert _scorers(recipe(student=scored), "student") == ["mentor"]
    assert _scorers(recipe(), "student") == []
